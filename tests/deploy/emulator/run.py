"""Cloud Run's Admin API v1 (what gcloud speaks): services, revisions, traffic, jobs, and what runs behind them."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tests.deploy.emulator.core import (
    ApiError,
    Call,
    Policy,
    invalid,
    missing,
    now,
    region_must_exist,
    rest,
    taken,
)

if TYPE_CHECKING:
    from tests.deploy.emulator.server import Emulator

RESERVED = {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION", "CLOUD_RUN_JOB", "CLOUD_RUN_EXECUTION"}
SECRETS_ALIAS = "run.googleapis.com/secrets"


@dataclass(frozen=True)
class Launch:
    """One container to start: all that Cloud Run would give it."""

    name: str
    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str]
    files: dict[str, bytes]
    sql_instances: tuple[str, ...]
    service_account: str
    port: int
    probe_path: str
    patience: int


class Runtime(Protocol):
    """What runs containers."""

    def start(self, launch: Launch) -> tuple[str, int]:
        """Start a service's container, wait for its probe, return where it listens; raise RuntimeError with its end."""
        ...

    def job(self, launch: Launch) -> tuple[int, str]:
        """Run a container to its end; return the exit code and the output."""
        ...

    def stop(self) -> None:
        """Stop all that runs."""
        ...


@dataclass
class Pretended:
    """A runtime without containers: images start, unless a test says otherwise.

    Nothing answers at the service's URL.
    """

    #: Images (by a part of their name) whose container does not come up.
    broken: set[str] = field(default_factory=set)
    #: (a part of the image's name, the arguments) → the exit code of a job.
    exit_codes: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)
    launched: list[Launch] = field(default_factory=list)
    #: What a database server's tables hold, by its name, for a job that counts.
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def start(self, launch: Launch) -> tuple[str, int]:
        self.launched.append(launch)
        if any(part in launch.image for part in self.broken):
            raise RuntimeError("the container called exit(78)")
        return "127.0.0.1", 9

    def job(self, launch: Launch) -> tuple[int, str]:
        self.launched.append(launch)
        output = ""
        if "--count" in launch.arguments:
            server = launch.sql_instances[0].rsplit(":", 1)[-1]
            output = json.dumps({"message": "counted", "schema": "abc", "rows": self.rows.get(server, {})})
        for (part, arguments), code in self.exit_codes.items():
            if part in launch.image and arguments == launch.arguments:
                return code, output
        return 0, output

    def stop(self) -> None:
        return


@dataclass
class Service:
    """A service as the API shows it, and its policy."""

    meta: dict[str, Any]
    policy: Policy = field(default_factory=Policy)


class CloudRun:
    """Every service, revision, job and execution of one region's project."""

    def __init__(self, cloud: Emulator) -> None:
        self.cloud = cloud
        self.runtime: Runtime = Pretended()
        self.services: dict[str, Service] = {}
        self.revisions: dict[str, dict[str, Any]] = {}
        self.addresses: dict[str, tuple[str, int]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.executions: dict[str, dict[str, Any]] = {}
        self.job_policies: dict[str, Policy] = {}
        self.region = ""
        self.most_instances = 100

    def stop(self) -> None:
        """Stop what runs."""
        self.runtime.stop()

    def url(self, service: str, tag: str = "") -> str:
        """Return the deterministic URL."""
        label = f"{tag}---{service}" if tag else service
        return f"https://{label}-{self.cloud.project.number}.{self.region}.run.app"

    def address_of(self, host: str) -> tuple[str, int] | None:
        """Return where the revision listens that `host` leads to."""
        for name, service in self.services.items():
            for target in service.meta["status"].get("traffic", []):
                tagged = "tag" in target and host == self.url(name, target["tag"]).removeprefix("https://")
                if tagged or (target.get("percent") == 100 and host == self.url(name).removeprefix("https://")):
                    return self.addresses.get(target["revisionName"])
        return None

    def launch(self, template: dict[str, Any], name: str, arguments: list[str] | None = None) -> Launch:
        """Resolve a template as Cloud Run does; raise RuntimeError when a part can't be had."""
        spec, notes = template["spec"], template.get("metadata", {}).get("annotations", {})
        container, account = spec["containers"][0], spec.get("serviceAccountName", "")
        if account not in self.cloud.iam.accounts:
            raise ApiError(404, "NOT_FOUND", f"Service account {account} does not exist.")
        if "-docker.pkg.dev/" not in container["image"] or not self.cloud.registry.holds(container["image"]):
            raise RuntimeError(f"Image '{container['image']}' not found.")
        values: dict[str, str] = {}
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                values[variable["name"]] = self._secret(account, reference["name"], reference["key"]).decode()
            else:
                values[variable["name"]] = variable.get("value", "")
        files = {}
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            secret = volumes[mount["name"]]["secret"]
            for item in secret["items"]:
                files[f"{mount['mountPath']}/{item['path']}"] = self._secret(account, secret["secretName"], item["key"])
        instances = tuple(filter(None, notes.get("run.googleapis.com/cloudsql-instances", "").split(",")))
        probe = container.get("startupProbe", {})
        return Launch(
            name=name,
            image=container["image"],
            command=tuple(container.get("command", [])),
            arguments=tuple(container.get("args", []) if arguments is None else arguments),
            environment=values,
            files=files,
            sql_instances=instances,
            service_account=account,
            port=container.get("ports", [{}])[0].get("containerPort", 8080),
            probe_path=probe.get("httpGet", {}).get("path", ""),
            patience=int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3)),
        )

    def _secret(self, account: str, name: str, version: str) -> bytes:
        number = self.cloud.project.number
        member, role = f"serviceAccount:{account}", "roles/secretmanager.secretAccessor"
        secret = self.cloud.secrets.all.get(name)
        if secret is None:
            raise RuntimeError(f"Secret projects/{number}/secrets/{name} was not found")
        allowed = secret.policy.allows(role, member) or self.cloud.project.policy.allows(role, member)
        if not allowed or self.cloud.iam.stale > 0:
            self.cloud.iam.stale -= 1
            raise RuntimeError(
                f"Permission denied on secret: projects/{number}/secrets/{name}/versions/{version} for Revision "
                "service "
                f"account {account}. The service account used must be granted the 'Secret Manager Secret Accessor' "
                "role "
                "(roles/secretmanager.secretAccessor) at the secret, project or higher level."
            )
        try:
            return self.cloud.secrets.value(name, version)
        except (KeyError, IndexError) as error:
            raise RuntimeError(f"Secret projects/{number}/secrets/{name}/versions/{version} was not found") from error

    def reconcile(self, name: str) -> None:
        """Make a revision of the service's template if it is new, and point traffic where the spec says."""
        meta = self.services[name].meta
        spec, status = meta["spec"], meta.setdefault("status", {})
        status["observedGeneration"] = meta["metadata"]["generation"]
        template = spec["template"]
        print_of = copy.deepcopy(template)
        for noise in ("run.googleapis.com/client-name", "run.googleapis.com/client-version"):
            print_of.get("metadata", {}).get("annotations", {}).pop(noise, None)
        digest = hashlib.sha256(repr(print_of).encode()).hexdigest()
        failure: tuple[str, str] | None = None
        if status.get("_template") != digest:
            status["_template"] = digest
            wanted = template.get("metadata", {}).get("name")
            count = sum(
                1
                for revision in self.revisions.values()
                if revision["metadata"]["labels"]["serving.knative.dev/service"] == name
            )
            revision = wanted or f"{name}-{count + 1:05}-{digest[:3]}"
            if revision in self.revisions:
                raise taken(f"Revision named '{revision}' with different configuration already exists.")
            status["latestCreatedRevisionName"] = revision
            failure = self._start(name, revision, template, meta)
        elif not self._ready(status["latestCreatedRevisionName"]):
            failure = ("RevisionFailed", f"Revision '{status['latestCreatedRevisionName']}' is not ready.")
        targets = []
        for target in spec.get("traffic", [{"latestRevision": True, "percent": 100}]):
            revision = target.get("revisionName")
            if target.get("latestRevision"):
                revision = status.get("latestReadyRevisionName")
            if revision is None:
                continue
            if revision not in self.revisions:
                raise invalid(f"Revision '{revision}' not found.")
            shown = {**target, "revisionName": revision}
            if "tag" in target:
                if not self._ready(revision):
                    continue
                shown["url"] = self.url(name, target["tag"])
            targets.append(shown)
        status["traffic"] = targets
        status["url"] = self.url(name)
        status["address"] = {"url": self.url(name)}
        ready: dict[str, Any] = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
        if failure:
            ready |= {"status": "False", "reason": failure[0], "message": failure[1]}
        status["conditions"] = [
            ready,
            {**ready, "type": "ConfigurationsReady"},
            {"type": "RoutesReady", "status": "True", "lastTransitionTime": now()},
        ]

    def _ready(self, revision: str) -> bool:
        return bool(self.revisions[revision]["status"]["conditions"][0]["status"] == "True")

    def _start(self, service: str, name: str, template: dict[str, Any], meta: dict[str, Any]) -> tuple[str, str] | None:
        condition: dict[str, Any] = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
        failure = None
        try:
            self.addresses[name] = self.runtime.start(self.launch(template, name))
            meta["status"]["latestReadyRevisionName"] = name
        except RuntimeError as error:
            message = str(error)
            if "secret" not in message.lower() and "not found" not in message:
                message = (
                    "The user-provided container failed the configured startup probe checks. Logs for this revision "
                    "might contain "
                    f"more information. ({message})"
                )
            failure = (
                "HealthCheckContainerError",
                f"Revision '{name}' is not ready and cannot serve traffic. {message}",
            )
            condition |= {"status": "False", "reason": failure[0], "message": message}
        self.revisions[name] = {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {
                "name": name,
                "namespace": self.cloud.project.number,
                "creationTimestamp": now(),
                "generation": 1,
                "labels": {
                    **template.get("metadata", {}).get("labels", {}),
                    "serving.knative.dev/service": service,
                    "serving.knative.dev/configuration": service,
                },
                "annotations": template.get("metadata", {}).get("annotations", {}),
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {
                "conditions": [condition],
                "observedGeneration": 1,
                "imageDigest": template["spec"]["containers"][0]["image"],
            },
        }
        return failure

    def check(self, body: dict[str, Any], call: Call) -> None:
        """Raise the 400 of a template that Cloud Run refuses before it makes a revision."""
        template = body["spec"]["template"]
        if "template" in template.get("spec", {}):  # a job
            template = {
                "spec": template["spec"]["template"]["spec"],
                "metadata": template.get("metadata", {}),
            }
        notes, spec = template.get("metadata", {}).get("annotations", {}), template["spec"]
        container = spec["containers"][0]
        names = [variable["name"] for variable in container.get("env", [])]
        if twice := {name for name in names if names.count(name) > 1}:
            raise invalid(f"spec.template.spec.containers[0].env: duplicate names {sorted(twice)}")
        if reserved := RESERVED & set(names):
            raise invalid(
                f"spec.template.spec.containers[0].env: reserved environment names: {', '.join(sorted(reserved))}"
            )
        memory = container.get("resources", {}).get("limits", {}).get("memory", "512Mi")
        size = re.fullmatch(r"(\d+)(Mi|Gi)", memory)
        if not size:
            raise invalid(f"spec.template.spec.containers[0].resources.limits.memory: Invalid value: '{memory}'")
        mebibytes = int(size[1]) * (1024 if size[2] == "Gi" else 1)
        if notes.get("run.googleapis.com/execution-environment") == "gen2" and mebibytes < 512:
            raise invalid("Total memory < 512 Mi is not supported with gen2 execution environment.")
        if int(notes.get("autoscaling.knative.dev/maxScale", 1)) > self.most_instances:
            raise ApiError(
                400,
                "RESOURCE_EXHAUSTED",
                "Max instances must be set to 10 or fewer in order to set the requested total CPU (quota exceeded).",
            )
        least, most = (
            int(notes.get(f"autoscaling.knative.dev/{end}Scale", default))
            for end, default in (("min", 0), ("max", 100))
        )
        if least > most:
            raise invalid(
                "spec.template.metadata.annotations[autoscaling.knative.dev/minScale]: must not exceed maxScale"
            )
        account = spec.get("serviceAccountName", "")
        if not account:
            raise invalid("the emulator wants a service account of the service's own, not the project's default")
        self.cloud.must(call.caller, "iam.serviceAccounts.actAs", account)
        cpu = str(container.get("resources", {}).get("limits", {}).get("cpu", "1"))
        processors = int(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
        least = {4: 2048, 6: 4096, 8: 4096}.get(int(processors), 0)
        if processors not in {0.5, 1, 2, 4, 6, 8} or not least <= mebibytes <= 4096 * max(processors, 1):
            raise invalid(
                "spec.template.spec.containers.resources.limits.cpu: Invalid value specified for cpu. For the "
                "specified value, maxScale and"
                f" memory must be within limits: {cpu} CPU with {memory}."
            )
        ingress = body["metadata"].get("annotations", {}).get("run.googleapis.com/ingress", "all")
        if body.get("kind") == "Service" and self.cloud.project.forbids("run.allowedIngress", ingress):
            raise ApiError(
                400,
                "FAILED_PRECONDITION",
                f"Constraint constraints/run.allowedIngress violated for {self.cloud.project.id}: ingress '{ingress}' "
                "is not allowed by the"
                " organization policy.",
            )
        for instance in filter(None, notes.get("run.googleapis.com/cloudsql-instances", "").split(",")):
            if instance.split(":")[-1] not in self.cloud.sql.instances:
                raise ApiError(
                    400,
                    "FAILED_PRECONDITION",
                    f"Cloud SQL instance {instance} does not exist or is not reachable.",
                )
        service_notes = body["metadata"].get("annotations", {})
        policy = self.cloud.project.constraints.get("run.managed.requireInvokerIam", {})
        if (
            policy.get("enforce")
            and str(service_notes.get("run.googleapis.com/invoker-iam-disabled")).lower() == "true"
        ):
            raise ApiError(
                400,
                "FAILED_PRECONDITION",
                "The request was violated by organization policy constraints/run.managed.requireInvokerIam: the "
                "invoker IAM "
                "check of a service may not be disabled.",
            )
        region = call.headers["x-region"]
        region_must_exist(region, "Cloud Run")
        self.region = region


def _shown(meta: dict[str, Any]) -> dict[str, Any]:
    shown = copy.deepcopy(meta)
    for key in [key for key in shown.get("status", {}) if key.startswith("_")]:
        del shown["status"][key]
    return shown


def _last(name: str) -> str:
    return name.rsplit("/", 1)[1]


def _selector(call: Call) -> dict[str, str]:
    """Return the labels that a list is narrowed to: `key = value, …`."""
    pairs = (pair.split("=") for pair in call.option("labelSelector").split(",") if "=" in pair)
    return {key.strip(): value.strip() for key, value in pairs}


def _namespace(call: Call) -> None:
    call.emulator.project.must_be((call.parameters.get("parent") or call.parameters["name"]).split("/")[1])


def _service(call: Call) -> Service:
    _namespace(call)
    name = _last(call.parameters.get("name") or call.parameters["resource"])
    if name not in call.emulator.run.services:
        raise missing(
            f"Resource '{name}' of kind 'SERVICE' in region '{call.headers['x-region']}' in project "
            f"'{call.emulator.project.id}' does not exist."
        )
    return call.emulator.run.services[name]


@rest("run.namespaces.services.get", permission="run.services.get")
def get_service(call: Call) -> Any:
    return _shown(_service(call).meta)


@rest("run.namespaces.services.list", permission="run.services.list")
def list_services(call: Call) -> Any:
    _namespace(call)
    return {
        "items": [_shown(service.meta) for service in call.emulator.run.services.values()],
        "kind": "ServiceList",
        "apiVersion": "serving.knative.dev/v1",
        "metadata": {},
    }


@rest("run.namespaces.services.create", permission="run.services.create", writes=True)
def create_service(call: Call) -> Any:
    _namespace(call)
    run, body = call.emulator.run, copy.deepcopy(call.body)
    name = body["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,47}[a-z0-9])?", name):
        raise invalid(
            f"metadata.name: Invalid value: '{name}': only lowercase, digits, and hyphens; must begin with letter, and "
            "may not end with hyphen; must be less than 50 characters."
        )
    if name in run.services:
        raise taken(f"Resource '{name}' already exists.")
    run.check(body, call)
    body["metadata"] |= {
        "generation": 1,
        "creationTimestamp": now(),
        "resourceVersion": "AAA1",
        "uid": f"uid-{name}",
        "namespace": call.emulator.project.number,
    }
    body["metadata"].setdefault("labels", {})["cloud.googleapis.com/location"] = run.region
    body["spec"].setdefault("traffic", [{"latestRevision": True, "percent": 100}])
    run.services[name] = Service(body)
    run.reconcile(name)
    return _shown(body)


@rest("run.namespaces.services.replaceService", permission="run.services.update", writes=True)
def replace_service(call: Call) -> Any:
    service, run = _service(call), call.emulator.run
    old, body = service.meta, copy.deepcopy(call.body)
    given = body["metadata"].get("resourceVersion")
    if given not in (None, old["metadata"]["resourceVersion"]):
        raise ApiError(
            409,
            "ABORTED",
            f"Conflict for resource '{old['metadata']['name']}': version '{given}' was specified but "
            f"current version is '{old['metadata']['resourceVersion']}'.",
        )
    run.check(body, call)
    generation = old["metadata"]["generation"] + 1
    body["metadata"] |= {
        "generation": generation,
        "resourceVersion": f"AAA{generation}",
        "uid": old["metadata"]["uid"],
        "creationTimestamp": old["metadata"]["creationTimestamp"],
    }
    body["status"] = old["status"]
    service.meta = body
    run.reconcile(body["metadata"]["name"])
    return _shown(body)


@rest("run.namespaces.services.delete", permission="run.services.delete", writes=True)
def delete_service(call: Call) -> Any:
    _service(call)
    run, name = call.emulator.run, _last(call.parameters["name"])
    del run.services[name]
    for revision, meta in list(run.revisions.items()):
        if meta["metadata"]["labels"]["serving.knative.dev/service"] == name:
            del run.revisions[revision]
    return {"status": "Success"}


@rest("run.projects.locations.services.getIamPolicy", permission="run.services.getIamPolicy")
def get_policy(call: Call) -> Any:
    name = _last(call.parameters["resource"])
    if name not in call.emulator.run.services:
        raise missing(f"Resource '{name}' of kind 'SERVICE' does not exist.")
    return call.emulator.run.services[name].policy.view()


@rest("run.namespaces.revisions.list", permission="run.revisions.list")
def list_revisions(call: Call) -> Any:
    _namespace(call)
    selector = _selector(call)
    found = [
        revision
        for revision in reversed(call.emulator.run.revisions.values())
        if all(revision["metadata"]["labels"].get(key) == value for key, value in selector.items())
    ]
    return {"items": found, "kind": "RevisionList", "apiVersion": "serving.knative.dev/v1", "metadata": {}}


@rest("run.namespaces.revisions.get", permission="run.revisions.get")
def get_revision(call: Call) -> Any:
    _namespace(call)
    name = _last(call.parameters["name"])
    if name not in call.emulator.run.revisions:
        raise missing(f"Revision '{name}' not found.")
    return call.emulator.run.revisions[name]


@rest("run.namespaces.jobs.get", permission="run.jobs.get")
def get_job(call: Call) -> Any:
    _namespace(call)
    name = _last(call.parameters["name"])
    if name not in call.emulator.run.jobs:
        raise missing(f"Resource '{name}' of kind 'JOB' does not exist.")
    return call.emulator.run.jobs[name]


@rest("run.namespaces.jobs.create", permission="run.jobs.create", writes=True)
def create_job(call: Call) -> Any:
    _namespace(call)
    run, body = call.emulator.run, copy.deepcopy(call.body)
    name = body["metadata"]["name"]
    if name in run.jobs:
        raise taken(f"Resource '{name}' already exists.")
    run.check(body, call)
    body["metadata"] |= {
        "generation": 1,
        "creationTimestamp": now(),
        "resourceVersion": "AAB1",
        "uid": f"uid-{name}",
        "namespace": call.emulator.project.number,
    }
    body["status"] = {
        "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True"}],
        "executionCount": 0,
    }
    run.jobs[name] = body
    return body


@rest("run.namespaces.jobs.replaceJob", permission="run.jobs.update", writes=True)
def replace_job(call: Call) -> Any:
    old, run, body = get_job(call), call.emulator.run, copy.deepcopy(call.body)
    run.check(body, call)
    generation = old["metadata"]["generation"] + 1
    body["metadata"] |= {
        "generation": generation,
        "resourceVersion": f"AAB{generation}",
        "uid": old["metadata"]["uid"],
    }
    body["status"] = old["status"] | {"observedGeneration": generation}
    run.jobs[body["metadata"]["name"]] = body
    return body


@rest("run.namespaces.jobs.delete", permission="run.jobs.delete", writes=True)
def delete_job(call: Call) -> Any:
    get_job(call)
    del call.emulator.run.jobs[_last(call.parameters["name"])]
    call.emulator.run.job_policies.pop(_last(call.parameters["name"]), None)
    return {"status": "Success"}


@rest("run.projects.locations.jobs.getIamPolicy", permission="run.jobs.getIamPolicy")
def get_job_policy(call: Call) -> Any:
    return _policy_of_job(call).view()


@rest("run.projects.locations.jobs.setIamPolicy", permission="run.jobs.setIamPolicy", writes=True)
def set_job_policy(call: Call) -> Any:
    return _policy_of_job(call).replace(call.emulator, call.body["policy"])


def _policy_of_job(call: Call) -> Policy:
    name = _last(call.parameters["resource"])
    if name not in call.emulator.run.jobs:
        raise missing(f"Resource '{name}' of kind 'JOB' does not exist.")
    return call.emulator.run.job_policies.setdefault(name, Policy())


@rest("run.namespaces.jobs.run", permission="run.jobs.run", writes=True)
def run_job(call: Call) -> Any:
    job, run = get_job(call), call.emulator.run
    name = f"{job['metadata']['name']}-{len(run.executions):05}"
    template = job["spec"]["template"]
    overrides = (call.body or {}).get("overrides", {}).get("containerOverrides", [{}])[0]
    try:
        launch = run.launch(
            {"spec": template["spec"]["template"]["spec"], "metadata": template.get("metadata", {})},
            name,
            overrides.get("args"),
        )
        code, output = run.runtime.job(launch)
        message = "" if code == 0 else f"The container exited with an error (exit code {code})."
        for line in output.splitlines():
            call.emulator.logs.write(line, job=job["metadata"]["name"], execution=name)
    except RuntimeError as error:
        code, message = 0, str(error)  # it never ran, so it has no exit code
    job["status"]["executionCount"] += 1
    good = not message
    condition = {"type": "Completed", "status": "True" if good else "False", "lastTransitionTime": now()}
    if not good:
        condition |= {
            "reason": "NonZeroExitCode",
            "message": f"Task {name}-task0 failed with message: {message}",
        }
    run.executions[name] = {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "Execution",
        "metadata": {
            "name": name,
            "namespace": call.emulator.project.number,
            "generation": 1,
            "creationTimestamp": now(),
            "labels": {
                "run.googleapis.com/job": job["metadata"]["name"],
                "cloud.googleapis.com/location": run.region,
            },
            "resourceVersion": "AAC1",
        },
        "spec": {"parallelism": 1, "taskCount": 1, "template": template["spec"]["template"]},
        "status": {
            "observedGeneration": 1,
            "conditions": [condition],
            "startTime": now(),
            "completionTime": now(),
            "succeededCount": int(good),
            "failedCount": int(not good),
            "logUri": "https://console.cloud.google.com/logs/viewer",
            "_code": code,
        },
    }
    return _shown(run.executions[name])


@rest("run.namespaces.executions.get", permission="run.executions.get")
def get_execution(call: Call) -> Any:
    _namespace(call)
    name = _last(call.parameters["name"])
    if name not in call.emulator.run.executions:
        raise missing(f"Execution '{name}' not found.")
    return _shown(call.emulator.run.executions[name])


@rest("run.namespaces.executions.list", permission="run.executions.list")
def list_executions(call: Call) -> Any:
    _namespace(call)
    return {
        "items": [
            _shown(e)
            for e in reversed(call.emulator.run.executions.values())
            if _selector(call).items() <= e["metadata"]["labels"].items()
        ],
        "kind": "ExecutionList",
        "apiVersion": "run.googleapis.com/v1",
        "metadata": {},
    }


@rest("run.namespaces.tasks.list", permission="run.tasks.list")
def list_tasks(call: Call) -> Any:
    _namespace(call)
    selector = _selector(call)
    wanted = selector.get("run.googleapis.com/execution", "")
    execution = call.emulator.run.executions.get(wanted)
    if execution is None:
        return {"items": [], "kind": "TaskList", "apiVersion": "run.googleapis.com/v1", "metadata": {}}
    code = execution["status"]["_code"]
    task = {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "Task",
        "metadata": {
            "name": f"{wanted}-task0",
            "namespace": call.emulator.project.number,
            "labels": {"run.googleapis.com/execution": wanted},
        },
        "spec": execution["spec"]["template"]["spec"],
        "status": {
            "conditions": [execution["status"]["conditions"][0]],
            "index": 0,
            "observedGeneration": 1,
            "lastAttemptResult": {
                "exitCode": code,
                "status": {"code": 0 if code == 0 else 2, "message": f"exit code {code}"},
            },
        },
    }
    return {"items": [task], "kind": "TaskList", "apiVersion": "run.googleapis.com/v1", "metadata": {}}
