"""Google's published API descriptions: which method a request calls, and whether the request is a valid one.

The documents ship with google-api-python-client (`googleapiclient/discovery_cache/documents`).
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import unquote

#: host → the documents that describe it, by name and version.
DOCUMENTS = {
    "serviceusage.googleapis.com": ("serviceusage.v1",),
    "cloudresourcemanager.googleapis.com": ("cloudresourcemanager.v1", "cloudresourcemanager.v3"),
    "cloudbilling.googleapis.com": ("cloudbilling.v1",),
    "orgpolicy.googleapis.com": ("orgpolicy.v2",),
    "iam.googleapis.com": ("iam.v1",),
    "iamcredentials.googleapis.com": ("iamcredentials.v1",),
    "secretmanager.googleapis.com": ("secretmanager.v1",),
    "storage.googleapis.com": ("storage.v1",),
    "sqladmin.googleapis.com": ("sqladmin.v1", "sqladmin.v1beta4"),
    "artifactregistry.googleapis.com": ("artifactregistry.v1", "artifactregistry.v1beta2"),
    "cloudbuild.googleapis.com": ("cloudbuild.v1",),
    "run.googleapis.com": ("run.v1", "run.v2"),
    "logging.googleapis.com": ("logging.v2",),
    "monitoring.googleapis.com": ("monitoring.v3", "monitoring.v1"),
    "billingbudgets.googleapis.com": ("billingbudgets.v1",),
    "cloudscheduler.googleapis.com": ("cloudscheduler.v1",),
}

#: Query parameters that every Google API takes, whether or not its document lists them.
COMMON_PARAMETERS = {
    "alt",
    "fields",
    "key",
    "prettyPrint",
    "quotaUser",
    "uploadType",
    "upload_protocol",
    "$.xgafv",
    "upload_id",
}

_VARIABLE = re.compile(r"\{(\+?)([\w.]+)\}")


@dataclass(frozen=True)
class Method:
    """One REST method: its id (`run.namespaces.services.create`), how its path looks and what it takes."""

    id: str
    http: str
    path: re.Pattern[str]
    parameters: dict[str, Any]
    request: str | None
    schemas: dict[str, Any]


def _pattern(path: str) -> re.Pattern[str]:
    out, end = "", 0
    for match in _VARIABLE.finditer(path):
        out += re.escape(path[end : match.start()])
        out += f"(?P<{match[2].replace('.', '__')}>" + (".+?)" if match[1] else "[^/:]+)")
        end = match.end()
    return re.compile(out + re.escape(path[end:]) + r"\Z")


@functools.cache
def methods(host: str) -> tuple[Method, ...]:
    """Return every method of the APIs at `host`."""
    found: list[Method] = []
    for name in DOCUMENTS[host]:
        source = resources.files("googleapiclient") / "discovery_cache" / "documents" / f"{name}.json"
        document = json.loads(source.read_text(encoding="utf-8"))

        def walk(node: dict[str, Any], document: dict[str, Any] = document) -> None:
            for method in node.get("methods", {}).values():
                paths = ["/" + document["servicePath"] + method["path"]]
                upload = method.get("mediaUpload", {}).get("protocols", {})
                paths += [protocol["path"] for protocol in upload.values()]
                if method.get("supportsMediaDownload") and method.get("useMediaDownloadService"):
                    paths.append("/download/" + document["servicePath"] + method["path"])
                found.extend(
                    Method(
                        method["id"],
                        method["httpMethod"],
                        _pattern(path),
                        method.get("parameters", {}) | document.get("parameters", {}),
                        method.get("request", {}).get("$ref"),
                        document["schemas"],
                    )
                    for path in dict.fromkeys(paths)
                )
            for child in node.get("resources", {}).values():
                walk(child)

        walk(document)
    # `…/{name}:getIamPolicy` before `…/{name}`, whose last part would take the verb for a piece of the name.
    return tuple(sorted(found, key=lambda method: not re.search(r":[A-Za-z]+\\Z$", method.path.pattern)))


def find(host: str, http: str, path: str) -> tuple[Method, dict[str, str]] | None:
    """Return the method that `http path` calls, with its path's parameters; None if Google describes no such method."""
    for method in methods(host):
        match = method.path.match(path) if method.http == http else None
        if not match:
            continue
        values = {key.replace("__", "."): unquote(value) for key, value in match.groupdict().items()}
        patterns = {key: method.parameters.get(key, {}).get("pattern") for key in values}
        if all(pattern is None or re.match(pattern, values[key]) for key, pattern in patterns.items()):
            return method, values
    return None


def problems(method: Method, query: dict[str, list[str]], body: object) -> list[str]:
    """Return what is wrong with a request, by the method's description; empty when nothing is."""
    found = []
    for key, values in query.items():
        description = method.parameters.get(key)
        if description is None:
            if key not in COMMON_PARAMETERS:
                found.append(f'Invalid JSON payload received. Unknown name "{key}": Cannot bind query parameter.')
            continue
        for value in values:
            if "enum" in description and value not in description["enum"] and key not in {"alt", "$.xgafv"}:
                found.append(f"Invalid value at '{key}': \"{value}\"")
            if description.get("type") == "integer" and not re.fullmatch(r"-?\d+", value):
                found.append(f"Invalid value at '{key}' (TYPE_INT32), \"{value}\"")
    found += [
        f"Required parameter: {key}"
        for key, description in method.parameters.items()
        if description.get("required") and description.get("location") == "query" and key not in query
    ]
    if body is not None and method.request:
        found += _check({"$ref": method.request}, body, "", method.schemas)
    return found


def _check(schema: dict[str, Any], value: object, where: str, schemas: dict[str, Any]) -> list[str]:
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    kind, place = schema.get("type"), where or "the request"
    if value is None or kind in (None, "any"):
        return []
    if kind == "object":
        if not isinstance(value, dict):
            return [f"Invalid value at '{place}': expected an object"]
        known, extra = schema.get("properties", {}), schema.get("additionalProperties")
        found = []
        for key, item in value.items():
            here = f"{where}.{key}" if where else key
            if key in known:
                found += _check(known[key], item, here, schemas)
            elif extra is not None:
                found += _check(extra, item, here, schemas)
            else:
                found.append(f"Invalid JSON payload received. Unknown name \"{key}\" at '{place}': Cannot find field.")
        return found
    if kind == "array":
        if not isinstance(value, list):
            return [f"Invalid value at '{place}': expected a list"]
        return [p for i, item in enumerate(value) for p in _check(schema["items"], item, f"{where}[{i}]", schemas)]
    if kind == "boolean" and not isinstance(value, bool):
        return [f"Invalid value at '{place}' (TYPE_BOOL), {value!r}"]
    if kind in {"integer", "number"} and (isinstance(value, bool) or not re.fullmatch(r"-?\d+(\.\d+)?", str(value))):
        return [f"Invalid value at '{place}' (TYPE_INT32), {value!r}"]
    if kind == "string":
        numeric = schema.get("format") in {"int64", "uint64"}
        if not isinstance(value, str) and not (numeric and isinstance(value, int)):
            return [f"Invalid value at '{place}' (TYPE_STRING), {value!r}"]
        if "enum" in schema and value not in schema["enum"]:
            return [f"Invalid value at '{place}' ({schema.get('id', 'enum')}), \"{value}\""]
    return []
