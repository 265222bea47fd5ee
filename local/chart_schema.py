"""Write deploy/chart/values.schema.json and the chart's page of values: ``python -m local.chart_schema``.

Both are made of what has its home elsewhere: names, defaults and descriptions of the chart's values are values.yaml's,
the words under ``settings`` are the container's (gatehouse/start/settings.py, gatehouse/start/verdicts.py). Helm checks
values against the schema before it renders anything; draft 7 is what all its releases read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from gatehouse.start import settings
from gatehouse.start.verdicts import MLFLOW, PREFIX, PROXY, Row, Verdict
from local.proxy_binary import ROOT

CHART = ROOT / "deploy" / "chart"
SCHEMA = CHART / "values.schema.json"
PAGE = ROOT / "docs" / "kubernetes-values.md"
Json = dict[str, Any]

#: Settings that the chart gives by a value of its own: the value's name.
ELSEWHERE = {
    "PORT": "service.port",
    "METRICS": "metrics.port",
    "BACKEND_STORE_URI": "mlflow.backendStoreUri",
    "ARTIFACTS_DESTINATION": "mlflow.artifactsDestination",
    "DEFAULT_ARTIFACT_ROOT": "mlflow.defaultArtifactRoot",
    "ACCESS_POLICY": "accessPolicy.policy",
    "OAUTH_PROXY_CONFIG": "oauthProxyConfig.existingSecret",
}
_TEXT = {"type": ["string", "number", "boolean"]}
_LIST = {"type": ["string", "array"], "items": {"type": "string"}}
#: What a parser takes, as a schema; of the others, any text.
PARSERS: dict[object, Json] = {
    settings.parse_switch: {"enum": [True, False, "true", "false"]},
    settings.parse_workers: {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 64}]},
    settings.parse_hops: {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    settings.parse_public_url: {"type": "string", "pattern": r"^https?://[^/?#@\s]+/?$"},
    settings.parse_environment_name: {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,31}$"},
    settings.parse_names: _LIST,
    settings.parse_locations: _LIST,
    settings.parse_issuers: _LIST,
    settings.parse_text: {"type": "string"},
}

_NAME = {"type": "string", "maxLength": 253, "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}
#: What values.yaml doesn't say of its values, by their path.
NARROWER: dict[str, Json] = {
    "replicaCount": {"minimum": 0},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "imagePullSecrets": {"items": {"type": "object", "required": ["name"]}},
    "fullnameOverride": _NAME,
    "nameOverride": _NAME,
    "mlflow.backendStoreUri": {"pattern": "^(|(postgres|postgresql|postgresql\\+psycopg2)://.+|sqlite:////.+)$"},
    "mlflow.backendStoreUriFrom": {
        "additionalProperties": False,
        "properties": {"secretKeyRef": {}, "configMapKeyRef": {}},
    },
    "mlflow.database.port": {"minimum": 1, "maximum": 65535},
    "mlflow.database.parameters": {"additionalProperties": _TEXT},
    "mlflow.artifactsDestination": {"pattern": "^(|/.*|(gs|s3|wasbs|abfss|file)://.+)$"},
    "mlflow.defaultArtifactRoot": {"pattern": "^(|(gs|s3|wasbs|abfss)://.+)$"},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": {"minimum": 1, "maximum": 65535},
    "secrets.values": {"additionalProperties": {"type": "string"}},
    "storage.accessMode": {"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]},
    "storage.size": {"type": ["string", "integer"]},
    "storage.mountPath": {"pattern": "^/.+"},
    "storage.fsGroup": {"type": ["integer", "null"]},
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"], "pattern": "^[0-9]+%$"},
    "autoscaling.minReplicas": {"minimum": 1},
    "autoscaling.maxReplicas": {"minimum": 1},
    "migrations.activeDeadlineSeconds": {"minimum": 1},
    "garbageCollection.olderThan": {"pattern": "^[0-9]+[smhdw]$"},
    "metrics.port": {"minimum": 1024, "maximum": 65535, "not": {"const": 8080}},
    "serviceMonitor.labels": {"additionalProperties": {"type": "string"}},
    "preStopSeconds": {"minimum": 1, "maximum": 3600},
    "env": {"items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
    "envFrom": {"items": {"type": "object"}},
    "tests.tokenFrom": {"additionalProperties": False, "properties": {"secretKeyRef": {}, "configMapKeyRef": {}}},
    **{
        path: {"additionalProperties": {"type": "string"}}
        for path in (
            "podAnnotations",
            "podLabels",
            "nodeSelector",
            "serviceAccount.annotations",
            "service.annotations",
            "ingress.annotations",
            "httpRoute.annotations",
        )
    },
}
#: Maps whose keys are Kubernetes' or the user's own, whatever they hold by default.
OPEN = frozenset({"podSecurityContext", "securityContext", "resources", "httpRoute.timeouts"})


def at(path: str, schema: Json) -> Json:
    """Return the schema of a whole document whose value at that path obeys ``schema``."""
    for key in reversed(path.split(".")):
        schema = {"properties": {key: schema}}
    return schema


def given(path: str) -> Json:
    """Return what holds if the value at that path isn't empty: a text, a list or a map."""
    filled: Json = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "object", "minProperties": 1},
            {"type": "array", "minItems": 1},
        ]
    }
    for key in reversed(path.split(".")):
        filled = {"type": "object", "properties": {key: filled}, "required": [key]}
    return filled


def present(path: str, schema: Json) -> Json:
    """Return what holds if the value at that path is there and obeys ``schema``."""
    for key in reversed(path.split(".")):
        schema = {"type": "object", "properties": {key: schema}, "required": [key]}
    return schema


def both(*conditions: Json) -> Json:
    """Return the schema of what meets all conditions."""
    return {"allOf": list(conditions)}


_ON: Json = {"const": True}
_SQLITE = present("mlflow.backendStoreUri", {"type": "string", "pattern": "^sqlite:"})
_ONE_NODE = both(present("storage.enabled", _ON), {"not": present("storage.accessMode", {"const": "ReadWriteMany"})})
_MANY = present("replicaCount", {"type": "number", "minimum": 2})
_OWN_SECRETS = {
    "anyOf": [
        given("secrets.existingSecret"),
        given("secrets.values"),
        given("envFrom"),
        present("externalSecrets.enabled", _ON),
    ]
}
_MORE = "a second pod would have a database of its own"


def contradictions() -> Iterator[tuple[Json, str, str]]:
    """Yield what can't be together: the condition, the value to blame, and the sentence that Helm prints."""
    parts, uri, uri_from = "mlflow.database.host", "mlflow.backendStoreUri", "mlflow.backendStoreUriFrom"
    yield both(given(uri), given(uri_from)), uri, "empty, for mlflow.backendStoreUriFrom is set too: keep one of them"
    yield both(given(parts), given(uri)), uri, "empty, for mlflow.database.host is set too: keep the parts or the URI"
    yield (
        both(given(parts), given(uri_from)),
        uri_from,
        "empty, for mlflow.database.host is set too: keep the parts or the URI",
    )
    yield (
        {"not": {"anyOf": [given(uri), given(uri_from), given(parts), _OWN_SECRETS]}},
        uri,
        "postgresql://USER:PASSWORD@HOST/DATABASE, or give mlflow.backendStoreUriFrom, mlflow.database.host or a "
        "Secret with BACKEND_STORE_URI",
    )
    destination, root = "mlflow.artifactsDestination", "mlflow.defaultArtifactRoot"
    yield (
        both(given(destination), given(root)),
        root,
        "empty, for mlflow.artifactsDestination is set too: keep that if the server stores the artifacts, this if "
        "clients write to the bucket",
    )
    yield (
        {"not": {"anyOf": [given(destination), given(root), _OWN_SECRETS]}},
        destination,
        "the artifact store, for example gs://my-bucket/mlflow, or a folder of a volume",
    )
    yield both(_SQLITE, _MANY), "replicaCount", f"1, for SQLite is a file: {_MORE}. Give PostgreSQL for more"
    yield (
        both(_ONE_NODE, _MANY),
        "replicaCount",
        "1, for storage.accessMode lets one node alone have the volume: ReadWriteMany, or a bucket, for more",
    )
    autoscaled = present("autoscaling.enabled", _ON)
    yield both(_SQLITE, autoscaled), "autoscaling.enabled", f"false, for SQLite is a file: {_MORE}. Give PostgreSQL"
    yield (
        both(_ONE_NODE, autoscaled),
        "autoscaling.enabled",
        "false, for storage.accessMode lets one node alone have the volume",
    )
    yield (
        both(_SQLITE, {"not": present("storage.enabled", _ON)}, {"not": given("extraVolumes")}),
        "storage.enabled",
        "true, for SQLite without a volume is lost with the pod",
    )
    folder = present(destination, {"type": "string", "pattern": "^(/|file:)"})
    yield (
        both(folder, {"not": present("storage.enabled", _ON)}, {"not": given("extraVolumes")}),
        destination,
        "a bucket, or set storage.enabled: a folder without a volume is lost with the pod",
    )
    outside = {"anyOf": [present("ingress.enabled", _ON), present("httpRoute.enabled", _ON)]}
    yield (
        both(outside, {"not": given("settings.PUBLIC_URL")}, {"not": given("oauthProxyConfig.existingSecret")}),
        "settings",
        "given a PUBLIC_URL, the https address that people use: an ingress or a route has to have one",
    )
    yield (
        both(present("httpRoute.enabled", _ON), {"not": given("httpRoute.parentRefs")}),
        "httpRoute.parentRefs",
        "a listener of the gateway: [{name: GATEWAY, namespace: NAMESPACE}]",
    )
    external = present("externalSecrets.enabled", _ON)
    yield (
        both(external, {"not": given("externalSecrets.data")}),
        "externalSecrets.data",
        "a list of what to fetch: an ExternalSecret without data makes nothing",
    )
    provider, reference = given("externalSecrets.provider"), given("externalSecrets.secretStoreRef")
    yield (
        both(external, {"not": {"anyOf": [provider, reference]}}),
        "externalSecrets.provider",
        "a provider, or give externalSecrets.secretStoreRef",
    )
    yield (
        both(provider, reference),
        "externalSecrets.provider",
        "empty, for externalSecrets.secretStoreRef names a store: keep one of them",
    )
    yield (
        both(given("accessPolicy.policy"), given("accessPolicy.existingConfigMap.name")),
        "accessPolicy.policy",
        "empty, for accessPolicy.existingConfigMap names a policy: keep one of them",
    )
    unseen = both(present("serviceMonitor.enabled", _ON), {"not": present("metrics.enabled", _ON)})
    yield unseen, "metrics.enabled", "true, for serviceMonitor.enabled asks Prometheus to scrape it"
    yield (
        both({"not": present("serviceAccount.create", _ON)}, given("serviceAccount.annotations")),
        "serviceAccount.annotations",
        "empty, for the chart doesn't make the account (serviceAccount.create): annotate it where it is made",
    )
    yield (
        both(
            present("settings.SHUTDOWN_TIMEOUT", {"type": "number", "minimum": 3593}),
            present("preStopSeconds", {"type": "number", "minimum": 3600}),
        ),
        "preStopSeconds",
        "shorter: a pod has two hours to end at most",
    )


def of_settings() -> Json:
    """Return the schema of ``settings``: the container's words, less its secrets and what the chart itself gives."""
    properties: Json = {}
    for setting in settings.TABLE:
        if setting.secret or setting.name in ELSEWHERE:
            continue
        schema = dict(PARSERS.get(setting.parse, _TEXT))
        if isinstance(setting.parse, settings.Number):
            schema = {"type": "integer", "minimum": setting.parse.low, "maximum": setting.parse.high}
        default = f" Default: {setting.default}." if setting.default else ""
        properties[setting.name] = {"description": f"{setting.help}.{default}", **schema}
    rows: dict[str, Row] = {PREFIX + key.upper(): row for key, row in PROXY.items()} | dict(MLFLOW)
    for name, row in rows.items():
        if row.verdict in {Verdict.WORKS, Verdict.TIED} and name not in settings.PASSED_SECRETS:
            properties[name] = {"type": [*_TEXT["type"], "array"], "items": {"type": "string"}}
    sentences = {name: f"left out here: the value {value} gives it" for name, value in ELSEWHERE.items()}
    for name in settings.SECRETS:
        sentences.setdefault(name, "left out here: a secret belongs into secrets.existingSecret")
    for name, row in rows.items():
        if row.verdict is Verdict.REFUSED:
            sentences.setdefault(name, f"left out: {row.why}. Fix: {row.fix}")
    properties |= {name: {"const": words} for name, words in sorted(sentences.items())}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def comments(text: str) -> dict[int, str]:
    """Return the comment right above each line of a YAML text, by the line's number from 0."""
    found, above = {}, []
    for number, line in enumerate(text.splitlines()):
        if line.lstrip().startswith("#"):
            above.append(line.strip().removeprefix("#").strip())
        else:
            found[number] = " ".join(above)
            above = []
    return found


def of_values(node: yaml.Node, path: str, said: dict[int, str]) -> Json:
    """Return the schema of a value: the type of its default, its comment, and what NARROWER says."""
    schema: Json
    if path == "settings":
        return of_settings()
    if isinstance(node, yaml.MappingNode):
        schema = {"type": "object"}
        if node.value and path not in OPEN:
            schema |= {"additionalProperties": False, "properties": {}}
            for key, value in node.value:
                one = f"{path}.{key.value}".lstrip(".")
                words = {"description": said[key.start_mark.line]} if said[key.start_mark.line] else {}
                schema["properties"][key.value] = words | of_values(value, one, said)
    elif isinstance(node, yaml.SequenceNode):
        schema = {"type": "array"}
    else:
        kind = str(node.tag).rpartition(":")[2]
        schema = {"type": {"bool": "boolean", "int": "integer", "str": "string"}[kind]}
    return schema | NARROWER.get(path, {})


def schema() -> Json:
    """Return the whole schema."""
    text = (CHART / "values.yaml").read_text()
    node = yaml.compose(text, yaml.SafeLoader)
    whole = of_values(node, "", comments(text)) if node else {}
    whole["properties"] |= {"global": {"type": "object"}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart gatehouse",
        **whole,
        "allOf": [{"if": condition, "then": at(path, {"const": words})} for condition, path, words in contradictions()],
    }


def rows(node: Json, values: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield each value's path, default and description."""
    for key, one in node["properties"].items():
        if key == "global":
            continue
        name, default = f"{path}{key}", values[key]
        if (
            one.get("properties")
            and isinstance(default, dict)
            and name not in {"settings"}
            and "secretKeyRef" not in one["properties"]
        ):
            yield from rows(one, default, f"{name}.")
        else:
            yield name, json.dumps(default) if not isinstance(default, str) else default, one.get("description", "")


def page() -> str:
    """Return the page of all values."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = [
        "# The chart's values",
        "Made from `deploy/chart/values.yaml` by `python -m local.chart_schema`. [Kubernetes](kubernetes.md) tells "
        "how to use",
        "them. `settings` takes the words of the README's table of settings and of [settings.md](settings.md).",
        "",
        "| value | default | what it says |",
        "|---|---|---|",
    ]
    for name, default, words in rows(schema(), values):
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{name}` | {shown} | {words} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text())
    PAGE.write_text(page())
