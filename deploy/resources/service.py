"""The Cloud Run service: its settings as one type, wanted and found; what serves; and the commands that release."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.cloud.google import Google
from deploy.config import CANDIDATE, GCLOUD_AUDIENCE, POOL_OVERFLOW, POOL_SIZE, Config
from deploy.resources import secrets
from deploy.resources.base import (
    LABELS,
    Argv,
    Difference,
    compare,
    flag,
    own_labels,
    p,
    same_resource,
    setting,
    switch,
)

#: Stands in a plan for what is asked for in `apply`.
CLIENT_ID = "${OAUTH2_PROXY_CLIENT_ID}"
PERIOD = 5  # seconds between two looks of the startup probe
_NOTE = "run.googleapis.com/"


def _pairs(values: Mapping[str, str]) -> str:
    """Join NAME=VALUE for gcloud, with a delimiter that no value holds (`gcloud topic escaping`)."""
    text = "".join(values.values())
    delimiter = next(mark for mark in "|;#~%" if mark not in text)
    return f"^{delimiter}^" + delimiter.join(f"{key}={value}" for key, value in values.items())


def _alive(after: str, before: str) -> Argv:
    del before
    path, _, rest = after.partition(" every ")
    period, _, whole = rest.partition("s for ")
    failures = int(whole.rstrip("s")) // int(period)
    return (
        f"--liveness-probe=httpGet.path={path},periodSeconds={period},timeoutSeconds=6,failureThreshold={failures}",
    )


def _probe(after: str, before: str) -> Argv:
    del before
    path, _, rest = after.partition(" every ")
    period, _, whole = rest.partition("s for ")
    failures = -(-int(whole.rstrip("s")) // int(period))
    return (
        f"--startup-probe=httpGet.path={path},initialDelaySeconds=0,periodSeconds={period},timeoutSeconds=4,failureThreshold={failures}",
    )


def _network(after: str, before: str) -> Argv:
    if not after:
        return ("--clear-network",) if before else ()
    network, subnet, egress = after.split(" ")
    return (f"--network={network}", f"--subnet={subnet}", f"--vpc-egress={egress}")


def _cleared(name: str) -> Any:
    """Return the rule of something that the tool never sets, and takes off where somebody did."""
    return lambda after, before: (name,) if before else ()


@dataclass(frozen=True)
class Service:
    """A service's settings. Each release gives all of them anew.

    What somebody added by hand is taken off, or told of.
    """

    image: str = setting(flag("image"))
    service_account: str = setting(flag("service-account"))
    sql_instances: str = setting(flag("set-cloudsql-instances"))
    env: dict[str, str] = setting(lambda after, before: (f"--set-env-vars={_pairs(after)}",))
    secrets: dict[str, str] = setting(
        lambda after, before: (f"--set-secrets={','.join(f'{key}={value}' for key, value in after.items())}",),
        name="secret",
    )
    cpu: str = setting(flag("cpu"))
    memory: str = setting(flag("memory"))
    concurrency: int = setting(flag("concurrency"))
    min_instances: int = setting(lambda after, before: (f"--min-instances={after or 'default'}",))
    max_instances: int = setting(flag("max-instances"))
    timeout: int = setting(flag("timeout"), name="request timeout")
    execution_environment: str = setting(flag("execution-environment"))
    cpu_boost: bool = setting(switch("--cpu-boost", "--no-cpu-boost"), name="startup cpu boost")
    http2: bool = setting(switch("--use-http2", "--no-use-http2"))
    startup_probe: str = setting(_probe)
    #: An instance whose workers hang, or whose proxy does, is ended after three looks in vain.
    liveness_probe: str = setting(_alive)
    ingress: str = setting(flag("ingress"))
    network: str = setting(_network)
    key: str = setting(
        lambda after, before: (f"--key={after}",) if after else ("--clear-key",) if before else (),
        name="encryption key",
        same=same_resource,
    )
    labels: dict[str, str] = setting(LABELS, name="label")
    #: Labels that the revision has and the service has not: gcloud's flags reach only those of both.
    revision_labels: str = setting(
        refuse="gcloud takes no label off a revision alone: edit it out with `gcloud run services describe "
        "--format=export`, then `replace`"
    )
    invoker_check: bool = setting(switch("--invoker-iam-check", "--no-invoker-iam-check"))
    # What the tool leaves as Cloud Run has it.
    cpu_always: bool = setting(lambda after, before: ("--cpu-throttling",) if before else ())
    session_affinity: bool = setting(_cleared("--no-session-affinity"))
    vpc_connector: str = setting(_cleared("--clear-vpc-connector"))
    custom_audiences: str = setting(_cleared("--clear-custom-audiences"))
    command: str = setting(_cleared("--command="))
    arguments: str = setting(_cleared("--args="))
    containers: int = setting(
        refuse="the tool runs one container: take the others out (gcloud run services update --remove-containers=…)"
    )
    address: str = setting(_cleared("--default-url"), name="run.app address")
    least_of_service: str = setting(_cleared("--min=default"), name="minimum of the whole service")


#: What a service is before there is one.
NOTHING = Service(
    image="", service_account="", sql_instances="", env={}, secrets={}, cpu="", memory="", concurrency=0, min_instances=0,
    max_instances=0, timeout=0, execution_environment="", cpu_boost=False, http2=False, startup_probe="", liveness_probe="", ingress="", network="", key="",
    labels={}, revision_labels="", invoker_check=True, cpu_always=False, session_affinity=False, vpc_connector="", custom_audiences="",
    command="", arguments="",
    containers=1, address="", least_of_service="",
)  # fmt: skip


def environment(config: Config, number: str, client_id: str) -> dict[str, str]:
    """Return the container's settings that are no secrets."""
    service, oauth, url = config.service, config.oauth, config.public_url(number)
    # The server refuses to start with gcloud's audience and GCLOUD_TOKENS=false.
    own = [] if oauth.issuer or service.env.get("GCLOUD_TOKENS") == "false" else [GCLOUD_AUDIENCE]
    addresses = list(dict.fromkeys([url, config.url(number)]))
    # A release is tested at its tag's own address, with the same tokens, before it has traffic.
    hosts = [address.removeprefix("https://") for address in [*addresses, config.url(number, CANDIDATE)]]
    values = {
        "PUBLIC_URL": url,
        "ARTIFACTS_DESTINATION": f"{config.bucket}/{config.artifacts.prefix}",
        "OAUTH2_PROXY_CLIENT_ID": client_id,
        "OAUTH2_PROXY_EMAIL_DOMAINS": ",".join(oauth.email_domains),
        "OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES": ",".join([*addresses, *own, *oauth.audiences]),
        "APP_ENV": config.environment,
        # The audit log's lines name their trace by it.
        "GOOGLE_CLOUD_PROJECT": config.project,
        "WORKERS": str(service.workers),
        "STARTUP_TIMEOUT": str(service.startup_timeout),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(POOL_SIZE),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(POOL_OVERFLOW),
        "READ_CONNECTIONS": str(config.read_connections),
    }
    if service.http2:
        values["HTTP2"] = "true"
    if oauth.issuer:
        values["OAUTH2_PROXY_PROVIDER"] = "oidc"
        values["OAUTH2_PROXY_OIDC_ISSUER_URL"] = oauth.issuer
    if service.direct_transfers:
        values["DIRECT_TRANSFERS"] = "true"
    if config.policy is not None:
        values["ACCESS_POLICY"] = secrets.POLICY_PATH
    return values | service.env


def references(config: Config, versions: Mapping[str, str]) -> dict[str, str]:
    """Return where the container gets each secret from: setting (or mounted file) → `secret:version`."""
    return {s.setting: f"{config.names.secret(s.key)}:{versions[s.key]}" for s in secrets.wanted(config)}


def wanted(config: Config, number: str, client_id: str, image: str, versions: Mapping[str, str]) -> Service:
    """Return the service that the configuration asks for."""
    service = config.service
    return Service(
        image=image,
        service_account=config.account,
        sql_instances=config.connection,
        env=environment(config, number, client_id),
        secrets=references(config, versions),
        cpu=service.cpu,
        memory=service.memory,
        concurrency=service.concurrency,
        min_instances=service.min_instances,
        max_instances=service.max_instances,
        timeout=service.timeout,
        execution_environment="gen2",
        cpu_boost=True,
        http2=service.http2,
        startup_probe=f"/ping every {PERIOD}s for {-(-service.startup_timeout // PERIOD) * PERIOD}s",
        liveness_probe="/gatehouse/ready every 10s for 30s",
        ingress=service.ingress,
        network=" ".join([*config.network, service.egress]) if config.network else "",
        key=config.settings.kms_key or "",
        labels=config.labels,
        revision_labels="",
        invoker_check=False,
        cpu_always=False,
        session_affinity=False,
        vpc_connector="",
        custom_audiences="",
        command="",
        arguments="",
        containers=1,
        address="",
        least_of_service="",
    )


def _cpu(limit: str) -> str:
    return str(int(limit[:-1]) // 1000) if limit.endswith("000m") else limit


def found(answer: Mapping[str, Any], revision: Mapping[str, Any] | None = None) -> Service:
    """Return a service as Cloud Run's API shows it, with the template of `revision` if that is another than the newest."""
    template = answer["spec"]["template"] if revision is None else revision
    notes, spec = template.get("metadata", {}).get("annotations", {}), template["spec"]
    container, of_service = spec["containers"][0], answer["metadata"].get("annotations", {})
    probe = container.get("startupProbe", {})
    period, failures = int(probe.get("periodSeconds", 10)), int(probe.get("failureThreshold", 3))
    limits = container.get("resources", {}).get("limits", {})
    port = (container.get("ports") or [{}])[0].get("name", "http1")
    env, refs = _settings(container, spec)
    labels = own_labels(answer["metadata"].get("labels"))
    return Service(
        image=container["image"],
        service_account=spec.get("serviceAccountName", ""),
        sql_instances=notes.get(f"{_NOTE}cloudsql-instances", ""),
        env=env,
        secrets=refs,
        cpu=_cpu(limits.get("cpu", "1")),
        memory=limits.get("memory", "512Mi"),
        concurrency=spec.get("containerConcurrency", 80),
        min_instances=int(notes.get("autoscaling.knative.dev/minScale", 0)),
        max_instances=int(notes.get("autoscaling.knative.dev/maxScale", 100)),
        timeout=int(spec.get("timeoutSeconds", 300)),
        execution_environment=notes.get(f"{_NOTE}execution-environment", "gen1"),
        cpu_boost=_true(notes, f"{_NOTE}startup-cpu-boost"),
        http2=port == "h2c",
        startup_probe=f"{probe.get('httpGet', {}).get('path', 'tcp')} every {period}s for {period * failures}s",
        liveness_probe=_liveness(container.get("livenessProbe")),
        ingress=of_service.get(f"{_NOTE}ingress", "all"),
        network=_interface(notes),
        key=notes.get(f"{_NOTE}encryption-key", ""),
        labels=labels,
        revision_labels=", ".join(
            sorted(own_labels(template.get("metadata", {}).get("labels")).keys() - labels.keys())
        ),
        invoker_check=not _true(of_service, f"{_NOTE}invoker-iam-disabled"),
        cpu_always=notes.get(f"{_NOTE}cpu-throttling", "true").lower() == "false",
        session_affinity=_true(notes, f"{_NOTE}sessionAffinity"),
        vpc_connector=notes.get(f"{_NOTE}vpc-access-connector", ""),
        custom_audiences=of_service.get(f"{_NOTE}custom-audiences", ""),
        command=" ".join(container.get("command", [])),
        arguments=" ".join(container.get("args", [])),
        containers=len(spec["containers"]),
        address="off" if _true(of_service, f"{_NOTE}default-url-disabled") else "",
        least_of_service=of_service.get(f"{_NOTE}minScale", ""),
    )


def _liveness(probe: Mapping[str, Any] | None) -> str:
    if probe is None:
        return ""
    period, failures = int(probe.get("periodSeconds", 10)), int(probe.get("failureThreshold", 3))
    return f"{probe.get('httpGet', {}).get('path', 'tcp')} every {period}s for {period * failures}s"


def _true(notes: Mapping[str, str], name: str) -> bool:
    return notes.get(name, "").lower() == "true"


def _settings(container: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the container's (plain settings, secrets: setting or mounted file → `secret:version`)."""
    env, refs = {}, {}
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            refs[variable["name"]] = f"{reference['name']}:{reference['key']}"
        else:
            env[variable["name"]] = variable.get("value", "")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        secret = volumes.get(mount["name"], {}).get("secret")
        for item in secret["items"] if secret else []:
            refs[f"{mount['mountPath']}/{item['path']}"] = f"{secret['secretName']}:{item['key']}"
    return env, refs


def _interface(notes: Mapping[str, str]) -> str:
    interfaces = json.loads(notes.get(f"{_NOTE}network-interfaces", "") or "[]")
    if not interfaces:
        return ""
    egress = notes.get(f"{_NOTE}vpc-access-egress", "private-ranges-only")
    return " ".join([interfaces[0].get("network", ""), interfaces[0].get("subnetwork", ""), egress])


def pinned(refs: Mapping[str, str]) -> dict[str, str]:
    """Return secret's full name → version, as a service's `secrets` pin them."""
    return dict(value.rsplit(":", 1) for value in refs.values())


def difference(config: Config, to_be: Service, is_: Service) -> Difference:
    """Return what a release would change, and what it can't.

    A service that works with another database server isn't led to the file's: what people logged would be out of sight.
    """
    held = {}
    if is_.sql_instances not in {"", to_be.sql_instances}:
        name = is_.sql_instances.rsplit(":", 1)[-1]
        held["sql_instances"] = (
            f"what people logged is in the server that serves. Set `names: {{sql: {name}}}` in the environment's file (after `restore`, it"
            " told so); for going back to another server's data: `restore`, or `rollback`"
        )
    return compare(f"service {config.names.service}", to_be, is_, held)


def flags(to_be: Service, is_: Service = NOTHING) -> Argv:
    """Return `gcloud run deploy`'s flags for every setting, so that nothing of before is left."""
    given: list[str] = []
    for part in dataclasses.fields(to_be):
        if rule := part.metadata["flags"]:
            given += rule(getattr(to_be, part.name), getattr(is_, part.name))
    return tuple(given)


# Looks
# ----------------------------------------------------------------------------------------------------------------------------


@dataclass
class Observed:
    """What is there: the service as the API shows it, and which revision has the traffic."""

    answer: dict[str, Any]
    #: The revision that has the traffic ("": none does), and its description when the service's template is another's.
    serving: str = ""
    revision: dict[str, Any] | None = None

    @property
    def state(self) -> Service:
        """The settings of what serves; `NOTHING` when nothing does."""
        return found(self.answer, self.revision) if self.serving else NOTHING

    @property
    def pins(self) -> dict[str, str]:
        """Secret's full name → version: of what serves, or of what was tried last."""
        serving = self.state
        return pinned((serving if serving is not NOTHING else found(self.answer)).secrets)

    @property
    def leftover(self) -> bool:
        """Whether a candidate that came up still has its tag: one that never did has no address to take away."""
        status = self.answer.get("status", {})
        good = status.get("latestCreatedRevisionName") == status.get("latestReadyRevisionName")
        return good and any(target.get("tag") == CANDIDATE for target in status.get("traffic", []))

    @property
    def split(self) -> bool:
        """Whether several revisions share the traffic: somebody did that by hand."""
        shares = [t for t in self.answer.get("status", {}).get("traffic", []) if t.get("percent")]
        return len({target["revisionName"] for target in shares}) > 1


def host(config: Config) -> str:
    """Return Cloud Run's API of the region and project: v1, which has everything that gcloud shows."""
    return f"https://{config.region}-run.googleapis.com/apis/serving.knative.dev/v1/namespaces/{config.project}"


def look(config: Config, google: Google) -> Observed | None:
    """Return the service; None if there is none. Raises CloudError."""
    answer = google.find(f"{host(config)}/services/{config.names.service}")
    if answer is None:
        return None
    status = answer.get("status", {})
    shares = [(target.get("percent", 0), target["revisionName"]) for target in status.get("traffic", [])]
    # Somebody may have split it by hand.
    serving = max((share for share in shares if share[0]), default=(0, ""))[1]
    revision = None
    if serving and serving != status.get("latestCreatedRevisionName"):
        revision = google.find(f"{host(config)}/revisions/{serving}")
    return Observed(answer, serving if status.get("latestReadyRevisionName") else "", revision)


def revisions(config: Config, google: Google) -> list[dict[str, Any]]:
    """Return the service's revisions, the newest first. Raises CloudError."""
    label = f"serving.knative.dev/service = {config.names.service}"
    listed = google.get(f"{host(config)}/revisions", labelSelector=label).get("items", [])
    return sorted(listed, key=lambda revision: str(revision["metadata"]["creationTimestamp"]), reverse=True)


# Commands
# -------------------------------------------------------------------------------------------------------------------------


def _r(config: Config) -> str:
    return f"--region={config.region}"


def deploy(config: Config, given: Argv, *, traffic: bool, tag: str) -> Argv:
    """Make a revision. Cloud Run's own IAM check is off:

    the proxy is the gate, and that check would strip the tokens' signatures.
    """
    quiet = () if traffic else ("--no-traffic", f"--tag={tag}")
    return ("gcloud", "run", "deploy", config.names.service, *given, *quiet, _r(config), p(config))


def exchange_secrets(config: Config, changed: Mapping[str, str], values: Mapping[str, str], tag: str) -> Argv:
    """A new revision, without traffic, that differs in secrets' versions (and settings) alone."""
    new = ",".join(f"{setting_}={reference}" for setting_, reference in changed.items())
    more = (f"--update-env-vars={','.join(f'{k}={v}' for k, v in values.items())}",) if values else ()
    return (
        "gcloud", "run", "services", "update", config.names.service, f"--update-secrets={new}", *more, "--no-traffic", f"--tag={tag}",
        _r(config), p(config),
    )  # fmt: skip


def to_database(config: Config, reference: str, tag: str) -> Argv:
    """A new revision, without traffic, on another database server: the environment's, with the URL in `reference`."""
    return (
        "gcloud", "run", "services", "update", config.names.service, f"--set-cloudsql-instances={config.connection}",
        f"--update-secrets=BACKEND_STORE_URI={reference}", "--no-traffic", f"--tag={tag}", _r(config), p(config),
    )  # fmt: skip


def _traffic(config: Config, change: str) -> Argv:
    return ("gcloud", "run", "services", "update-traffic", config.names.service, change, _r(config), p(config))


def to_tag(config: Config, tag: str) -> Argv:
    """All traffic to the revision that has the tag: a candidate's name is known only once it exists."""
    return _traffic(config, f"--to-tags={tag}=100")


def to_revision(config: Config, revision: str) -> Argv:
    """All traffic to one revision."""
    return _traffic(config, f"--to-revisions={revision}=100")


def untag(config: Config, tag: str) -> Argv:
    """Take a tag away."""
    return _traffic(config, f"--remove-tags={tag}")


def put_tag(config: Config, tag: str, revision: str) -> Argv:
    """Give a revision a tag, and so an address of its own."""
    return _traffic(config, f"--update-tags={tag}={revision}")


def delete(config: Config) -> Argv:
    """Delete the service with its revisions."""
    return ("gcloud", "run", "services", "delete", config.names.service, "--quiet", _r(config), p(config))
