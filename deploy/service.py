"""The Cloud Run service as a flat table (`cpu` → `2`, `env/WORKERS` → `1`, `secret/NAME` → `secret:3`), wanted and found.

Two such tables compared line by line are the plan's "what would change".
"""

from __future__ import annotations

import json
from typing import Any

from deploy import secrets
from deploy.config import CANDIDATE, GCLOUD_AUDIENCE, POOL_OVERFLOW, POOL_SIZE, Config

#: Stands in a plan for what is asked for in `apply`.
CLIENT_ID = "${OAUTH2_PROXY_CLIENT_ID}"
PERIOD = 5  # seconds between two looks of the startup probe

Table = dict[str, str]


def environment(config: Config, number: str, client_id: str) -> dict[str, str]:
    """Return the container's settings that are no secrets."""
    service, oauth, url = config.service, config.oauth, config.public_url(number)
    own = [] if "issuer" in oauth else [GCLOUD_AUDIENCE]
    addresses = list(dict.fromkeys([url, config.url(number)]))
    # A release is tested at its tag's own address, with the same tokens, before it has traffic.
    hosts = [address.removeprefix("https://") for address in [*addresses, config.url(number, CANDIDATE)]]
    values = {
        "PUBLIC_URL": url,
        "ARTIFACTS_DESTINATION": f"{config.bucket}/{config.data['bucket']['prefix']}",
        "OAUTH2_PROXY_CLIENT_ID": client_id,
        "OAUTH2_PROXY_EMAIL_DOMAINS": ",".join(oauth["email_domains"]),
        "OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES": ",".join([*addresses, *own, *oauth["audiences"]]),
        "APP_ENV": config.environment,
        # The audit log's lines name their trace by it.
        "GOOGLE_CLOUD_PROJECT": config.project,
        "WORKERS": str(service["workers"]),
        "STARTUP_TIMEOUT": str(service["startup_timeout"]),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(POOL_SIZE),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(POOL_OVERFLOW),
    }
    if service["http2"]:
        values["HTTP2"] = "true"
    if "issuer" in oauth:
        values["OAUTH2_PROXY_PROVIDER"] = "oidc"
        values["OAUTH2_PROXY_OIDC_ISSUER_URL"] = oauth["issuer"]
    if service["direct_transfers"]:
        values["DIRECT_TRANSFERS"] = "true"
    if config.policy is not None:
        values["ACCESS_POLICY"] = secrets.POLICY_PATH
    extra: dict[str, str] = service["env"]
    return values | extra


def references(config: Config, versions: dict[str, str]) -> dict[str, str]:
    """Return where the container gets each secret from: setting (or mounted file) → `secret:version`."""
    return {s.setting: f"{config.names.secret(s.key)}:{versions[s.key]}" for s in secrets.wanted(config)}


def wanted(config: Config, number: str, client_id: str, image: str, versions: dict[str, str]) -> Table:
    """Return the table of the service that the configuration asks for."""
    service = config.service
    table = {
        "image": image,
        "service account": config.account,
        "cpu": service["cpu"],
        "memory": service["memory"],
        "concurrency": str(service["concurrency"]),
        "min instances": str(service["min_instances"]),
        "max instances": str(service["max_instances"]),
        "request timeout": f"{service['timeout']}s",
        "startup probe": f"/ping every {PERIOD}s for {service['startup_timeout']}s",
        "startup cpu boost": "true",
        "execution environment": "gen2",
        "http2": str(service["http2"]).lower(),
        "sql instances": config.connection,
        "invoker check": "off",
        "ingress": "all",
        "network": "/".join(filter(None, [config.sql.get("network"), config.sql.get("subnet")])) or "none",
    }
    table |= {f"label/{key}": value for key, value in config.labels.items()}
    table |= {f"env/{key}": value for key, value in environment(config, number, client_id).items()}
    table |= {f"secret/{key}": value for key, value in references(config, versions).items()}
    return table


def found(service: dict[str, Any], revision: dict[str, Any] | None = None) -> Table:
    """Return the table of a service as `gcloud run services describe` shows it, with the template of `revision` if that is another."""
    template = service["spec"]["template"] if revision is None else revision
    notes, spec = template.get("metadata", {}).get("annotations", {}), template["spec"]
    container, service_notes = spec["containers"][0], service["metadata"].get("annotations", {})
    probe = container.get("startupProbe", {})
    period, failures = int(probe.get("periodSeconds", 10)), int(probe.get("failureThreshold", 3))
    limits = container.get("resources", {}).get("limits", {})
    interface = notes.get("run.googleapis.com/network-interfaces", "")
    port = (container.get("ports") or [{}])[0].get("name", "http1")
    table = {
        "image": container["image"],
        "service account": spec.get("serviceAccountName", ""),
        "cpu": limits.get("cpu", "1").replace("000m", ""),
        "memory": limits.get("memory", "512Mi"),
        "concurrency": str(spec.get("containerConcurrency", 80)),
        "min instances": notes.get("autoscaling.knative.dev/minScale", "0"),
        "max instances": notes.get("autoscaling.knative.dev/maxScale", "100"),
        "request timeout": f"{spec.get('timeoutSeconds', 300)}s",
        "startup probe": f"{probe.get('httpGet', {}).get('path', 'tcp')} every {period}s for {period * failures}s",
        "startup cpu boost": notes.get("run.googleapis.com/startup-cpu-boost", "false").lower(),
        "execution environment": notes.get("run.googleapis.com/execution-environment", "gen1"),
        "http2": str(port == "h2c").lower(),
        "sql instances": notes.get("run.googleapis.com/cloudsql-instances", ""),
        "invoker check": "off"
        if service_notes.get("run.googleapis.com/invoker-iam-disabled", "").lower() == "true"
        else "on",
        "ingress": service_notes.get("run.googleapis.com/ingress", "all"),
        "network": _network(interface),
    }
    labels = template.get("metadata", {}).get("labels", {})
    table |= {f"label/{k}": v for k, v in labels.items() if "/" not in k and "." not in k and k != "managed-by"}
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            table[f"secret/{variable['name']}"] = f"{reference['name']}:{reference['key']}"
        else:
            table[f"env/{variable['name']}"] = variable.get("value", "")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        secret = volumes.get(mount["name"], {}).get("secret")
        for item in secret["items"] if secret else []:
            table[f"secret/{mount['mountPath']}/{item['path']}"] = f"{secret['secretName']}:{item['key']}"
    return table


def _network(interface: str) -> str:
    if not interface:
        return "none"
    first = json.loads(interface)[0]
    return "/".join(filter(None, [first.get("network"), first.get("subnetwork")]))


def differences(before: Table, after: Table) -> tuple[str, ...]:
    """Return a line for each value that differs."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new:
            lines.append(f"{key}: {old if old is not None else '(none)'} → {new if new is not None else '(none)'}")
    return tuple(lines)


def pinned(table: Table) -> dict[str, str]:
    """Return secret's full name → version, as the table pins them."""
    return dict(value.rsplit(":", 1) for key, value in table.items() if key.startswith("secret/"))


def _pairs(values: dict[str, str]) -> str:
    """Join NAME=VALUE for gcloud, with a delimiter that no value holds (`gcloud topic escaping`)."""
    text = "".join(values.values())
    delimiter = next(mark for mark in "|;#~%" if mark not in text)
    return f"^{delimiter}^" + delimiter.join(f"{key}={value}" for key, value in values.items())


def flags(config: Config, number: str, client_id: str, image: str, versions: dict[str, str]) -> tuple[str, ...]:
    """Return `gcloud run deploy`'s flags for the wanted service."""
    service, sql = config.service, config.sql
    references_ = ",".join(f"{key}={value}" for key, value in references(config, versions).items())
    least = f"--min-instances={service['min_instances']}" if service["min_instances"] else "--min-instances=default"
    return (
        f"--image={image}",
        f"--service-account={config.account}",
        f"--set-cloudsql-instances={config.connection}",
        f"--set-env-vars={_pairs(environment(config, number, client_id))}",
        f"--set-secrets={references_}",
        f"--cpu={service['cpu']}",
        f"--memory={service['memory']}",
        f"--concurrency={service['concurrency']}",
        least,
        f"--max-instances={service['max_instances']}",
        f"--timeout={service['timeout']}",
        "--execution-environment=gen2",
        "--cpu-boost",
        "--use-http2" if service["http2"] else "--no-use-http2",
        f"--startup-probe=httpGet.path=/ping,initialDelaySeconds=0,periodSeconds={PERIOD},timeoutSeconds=4,"
        f"failureThreshold={-(-service['startup_timeout'] // PERIOD)}",
        "--ingress=all",
        f"--labels={','.join(f'{k}={v}' for k, v in sorted(config.labels.items()))}",
        *(
            (f"--network={sql['network']}", f"--subnet={sql['subnet']}", "--vpc-egress=private-ranges-only")
            if "network" in sql
            else ()
        ),
    )


def job_flags(config: Config, image: str, database_version: str) -> tuple[str, ...]:
    """Return the flags of the schema job: the same image, and no secret but the database's."""
    sql = config.sql
    return (
        f"--image={image}",
        f"--service-account={config.account}",
        f"--set-cloudsql-instances={config.connection}",
        f"--set-secrets=BACKEND_STORE_URI={config.names.secret('database-url')}:{database_version}",
        f"--set-env-vars=APP_ENV={config.environment}",
        "--memory=1Gi",
        f"--labels={','.join(f'{k}={v}' for k, v in sorted(config.labels.items()))}",
        *(
            (f"--network={sql['network']}", f"--subnet={sql['subnet']}", "--vpc-egress=private-ranges-only")
            if "network" in sql
            else ()
        ),
    )
