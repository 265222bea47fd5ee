"""Secret Manager: secrets, versions, and who may read which."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

from tests.deploy.emulator.core import (
    ApiError,
    Call,
    Policy,
    etag,
    invalid,
    missing,
    name_must_match,
    now,
    region_must_exist,
    rest,
    taken,
)


@dataclass
class Secret:
    """A secret with its versions (the first is version 1; one is never renumbered)."""

    meta: dict[str, Any]
    versions: list[dict[str, Any]] = field(default_factory=list)
    policy: Policy = field(default_factory=Policy)


@dataclass
class Secrets:
    """Every secret, by its short name."""

    all: dict[str, Secret] = field(default_factory=dict)

    def value(self, name: str, version: str) -> bytes:
        """Return the data of a version that is enabled; raise KeyError for any other."""
        secret = self.all[name]
        found = secret.versions[int(version) - 1 if version != "latest" else -1]
        if found["state"] != "ENABLED":
            raise KeyError(version)
        data: bytes = found["data"]
        return data


def _secret(call: Call) -> Secret:
    name = call.parameters.get("name") or call.parameters.get("parent") or call.parameters["resource"]
    match = re.match(r"projects/([^/]+)/secrets/([^/]+)", name)
    assert match is not None
    call.emulator.project.must_be(match[1])
    if match[2] not in call.emulator.secrets.all:
        raise missing(f"Secret [projects/{call.emulator.project.number}/secrets/{match[2]}] not found.")
    return call.emulator.secrets.all[match[2]]


def _version(call: Call) -> dict[str, Any]:
    secret, wanted = _secret(call), call.parameters["name"].split("/")[5]
    index = len(secret.versions) if wanted == "latest" else int(wanted) if wanted.isdigit() else 0
    if not 1 <= index <= len(secret.versions):
        raise missing(f"Secret Version [{call.parameters['name']}] not found.")
    return secret.versions[index - 1]


def _shown(version: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in version.items() if key != "data"}


@rest("secretmanager.projects.secrets.list", permission="secretmanager.secrets.list")
def list_secrets(call: Call) -> Any:
    call.emulator.project.must_be(call.parameters["parent"].split("/")[1])
    return {"secrets": [secret.meta for secret in call.emulator.secrets.all.values()]}


@rest("secretmanager.projects.secrets.create", permission="secretmanager.secrets.create", writes=True)
def create(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["parent"].split("/")[1])
    name = call.option("secretId")
    name_must_match(r"[A-Za-z0-9_-]{1,255}", name, "secret")
    if name in call.emulator.secrets.all:
        raise taken(f"Secret [projects/{project.number}/secrets/{name}] already exists.")
    if "replication" not in call.body:
        raise invalid("Replication must be set.")
    for replica in call.body["replication"].get("userManaged", {}).get("replicas", []):
        region_must_exist(replica["location"], "Secret Manager")
    _check_labels(call.body.get("labels", {}))
    meta = {**call.body, "name": f"projects/{project.number}/secrets/{name}", "createTime": now()}
    call.emulator.secrets.all[name] = Secret(meta | {"etag": etag(meta)})
    return call.emulator.secrets.all[name].meta


def _check_labels(labels: dict[str, str]) -> None:
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            raise invalid(f"Invalid label {key}={value}")


@rest("secretmanager.projects.secrets.get", permission="secretmanager.secrets.get")
def get(call: Call) -> Any:
    return _secret(call).meta


@rest("secretmanager.projects.secrets.patch", permission="secretmanager.secrets.update", writes=True)
def patch(call: Call) -> Any:
    secret = _secret(call)
    for name in call.option("updateMask").split(","):
        secret.meta[name] = call.body.get(name, {})
    secret.meta["etag"] = etag(secret.meta)
    return secret.meta


@rest("secretmanager.projects.secrets.delete", permission="secretmanager.secrets.delete", writes=True)
def delete(call: Call) -> Any:
    _secret(call)
    del call.emulator.secrets.all[call.parameters["name"].split("/")[3]]
    return {}


@rest("secretmanager.projects.secrets.addVersion", permission="secretmanager.versions.add", writes=True)
def add_version(call: Call) -> Any:
    secret = _secret(call)
    data = base64.urlsafe_b64decode(call.body["payload"]["data"].translate(str.maketrans("+/", "-_")))
    if not 0 < len(data) <= 65536:
        raise invalid("Secret Payload must be between 1 and 65536 bytes.")
    checksum = int(google_crc32c.value(data))
    if int(call.body["payload"].get("dataCrc32c", checksum)) != checksum:
        raise invalid("The checksum does not match.")
    number = len(secret.versions) + 1
    secret.versions.append(
        {
            "name": f"{secret.meta['name']}/versions/{number}",
            "createTime": now(),
            "state": "ENABLED",
            "etag": etag(number),
            "clientSpecifiedPayloadChecksum": True,
            "data": data,
        }
    )
    return _shown(secret.versions[-1])


@rest("secretmanager.projects.secrets.versions.list", permission="secretmanager.versions.list")
def list_versions(call: Call) -> Any:
    return {"versions": [_shown(version) for version in reversed(_secret(call).versions)]}


@rest("secretmanager.projects.secrets.versions.get", permission="secretmanager.versions.get")
def get_version(call: Call) -> Any:
    return _shown(_version(call))


@rest("secretmanager.projects.secrets.versions.access", permission="secretmanager.versions.access")
def access(call: Call) -> Any:
    version = _version(call)
    if version["state"] != "ENABLED":
        raise ApiError(
            400, "FAILED_PRECONDITION", f"Secret Version [{version['name']}] is in {version['state']} state."
        )
    checksum = int(google_crc32c.value(version["data"]))
    payload = {"data": base64.b64encode(version["data"]).decode(), "dataCrc32c": str(checksum)}
    return {"name": version["name"], "payload": payload}


@rest(
    "secretmanager.projects.secrets.versions.disable",
    permission="secretmanager.versions.disable",
    writes=True,
)
def disable(call: Call) -> Any:
    version = _version(call)
    version["state"] = "DISABLED"
    return _shown(version)


@rest("secretmanager.projects.secrets.versions.enable", permission="secretmanager.versions.enable", writes=True)
def enable(call: Call) -> Any:
    version = _version(call)
    version["state"] = "ENABLED"
    return _shown(version)


@rest("secretmanager.projects.secrets.getIamPolicy", permission="secretmanager.secrets.getIamPolicy")
def get_policy(call: Call) -> Any:
    return _secret(call).policy.view()


@rest(
    "secretmanager.projects.secrets.setIamPolicy",
    permission="secretmanager.secrets.setIamPolicy",
    writes=True,
)
def set_policy(call: Call) -> Any:
    return _secret(call).policy.replace(call.emulator, call.body["policy"])
