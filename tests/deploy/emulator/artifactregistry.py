"""Artifact Registry: repositories and the images in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.emulator.core import (
    ApiError,
    Call,
    Policy,
    missing,
    name_must_match,
    now,
    region_must_exist,
    rest,
    taken,
)


@dataclass
class Repository:
    """A repository of images: tag (`gatehouse:src-1234`) → digest."""

    meta: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)


@dataclass
class Registry:
    """Every repository, by `LOCATION/NAME`."""

    repositories: dict[str, Repository] = field(default_factory=dict)

    def push(self, image: str) -> str:
        """Take an image by its full name and return its digest; raise ApiError if it has no place."""
        host, _, repository, tagged = image.split("/", 3)
        where = f"{host.removesuffix('-docker.pkg.dev')}/{repository}"
        if where not in self.repositories:
            raise missing(f'name unknown: Repository "{repository}" not found')
        tags = self.repositories[where].tags
        if tagged in tags and self.repositories[where].meta.get("dockerConfig", {}).get("immutableTags"):
            raise ApiError(
                400,
                "FAILED_PRECONDITION",
                f"cannot update tag {tagged}: the repository has enabled tag immutability",
            )
        tags[tagged] = "sha256:" + hashlib.sha256(tagged.encode()).hexdigest()
        return tags[tagged]

    def seed(self, where: str, tags: list[str]) -> None:
        """Have a repository (`LOCATION/NAME`) with images that others built."""
        self.repositories[where] = Repository(
            {"name": where}, {tag: "sha256:" + hashlib.sha256(tag.encode()).hexdigest() for tag in tags}
        )

    def holds(self, image: str) -> bool:
        """Return whether an image (`HOST/PROJECT/REPOSITORY/NAME:TAG`) exists here."""
        host, _, rest_of = image.partition("/")
        parts = rest_of.split("/", 2)
        if len(parts) != 3:
            return False
        found = self.repositories.get(f"{host.removesuffix('-docker.pkg.dev')}/{parts[1]}")
        if found is None:
            return False
        return parts[2] in found.tags or parts[2].partition("@")[2] in found.tags.values()


def _repository(call: Call) -> Repository:
    name = call.parameters.get("name") or call.parameters.get("parent") or call.parameters["resource"]
    parts = name.split("/")
    call.emulator.project.must_be(parts[1])
    found = call.emulator.registry.repositories.get(f"{parts[3]}/{parts[5]}")
    if found is None:
        raise missing(f'Repository "projects/{parts[1]}/locations/{parts[3]}/repositories/{parts[5]}" not found')
    return found


@rest(
    "artifactregistry.projects.locations.repositories.create",
    permission="artifactregistry.repositories.create",
    writes=True,
)
def create(call: Call) -> Any:
    _, project, _, region = call.parameters["parent"].split("/")
    call.emulator.project.must_be(project)
    region_must_exist(region, "Artifact Registry")
    call.emulator.project.must_be_allowed_here(region)
    name = call.option("repositoryId")
    name_must_match(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name, "repository")
    if f"{region}/{name}" in call.emulator.registry.repositories:
        raise taken("the repository already exists")
    full = f"projects/{project}/locations/{region}/repositories/{name}"
    meta = {"format": "DOCKER", **call.body, "name": full, "createTime": now(), "updateTime": now()}
    call.emulator.registry.repositories[f"{region}/{name}"] = Repository(meta)
    return {"name": f"projects/{project}/locations/{region}/operations/create-{name}", "done": False}


@rest("artifactregistry.projects.locations.operations.get")
def operation(call: Call) -> Any:
    _, _, _, region, _, name = call.parameters["name"].split("/")
    kind, _, repository = name.partition("-")
    response: dict[str, Any] = {"@type": "type.googleapis.com/google.protobuf.Empty"}
    if kind == "create":
        meta = call.emulator.registry.repositories[f"{region}/{repository}"].meta
        response = {"@type": "type.googleapis.com/google.devtools.artifactregistry.v1.Repository", **meta}
    return {"name": call.parameters["name"], "done": True, "response": response}


@rest("artifactregistry.projects.locations.repositories.get", permission="artifactregistry.repositories.get")
def get(call: Call) -> Any:
    return _repository(call).meta


@rest(
    "artifactregistry.projects.locations.repositories.patch",
    permission="artifactregistry.repositories.update",
    writes=True,
)
def patch(call: Call) -> Any:
    repository = _repository(call)
    repository.meta |= {key: value for key, value in call.body.items() if key != "name"} | {"updateTime": now()}
    return repository.meta


@rest(
    "artifactregistry.projects.locations.repositories.delete",
    permission="artifactregistry.repositories.delete",
    writes=True,
)
def delete(call: Call) -> Any:
    _repository(call)
    _, project, _, region, _, name = call.parameters["name"].split("/")
    del call.emulator.registry.repositories[f"{region}/{name}"]
    return {"name": f"projects/{project}/locations/{region}/operations/delete-{name}", "done": False}


@rest(
    "artifactregistry.projects.locations.repositories.packages.tags.get",
    permission="artifactregistry.tags.get",
)
def get_tag(call: Call) -> Any:
    repository, parts = _repository(call), call.parameters["name"].split("/")
    tagged = f"{parts[7]}:{parts[9]}"
    if tagged not in repository.tags:
        raise missing(f'Tag "{parts[9]}" not found')
    return {
        "name": call.parameters["name"],
        "version": "/".join(parts[:8]) + f"/versions/{repository.tags[tagged]}",
    }


@rest(
    "artifactregistry.projects.locations.repositories.packages.tags.list",
    permission="artifactregistry.tags.list",
)
def list_tags(call: Call) -> Any:
    repository, parts = _repository(call), call.parameters["parent"].split("/")
    prefix = "/".join(parts[:8])
    return {
        "tags": [
            {"name": f"{prefix}/tags/{tagged.split(':')[1]}", "version": f"{prefix}/versions/{digest}"}
            for tagged, digest in repository.tags.items()
            if tagged.split(":")[0] == parts[7]
        ]
    }


@rest(
    "artifactregistry.projects.locations.repositories.packages.versions.get",
    permission="artifactregistry.versions.get",
)
def get_version(call: Call) -> Any:
    repository, digest = _repository(call), call.parameters["name"].split("/")[9]
    if digest not in repository.tags.values():
        raise missing(f'Version "{digest}" not found')
    return {"name": call.parameters["name"], "createTime": now(), "metadata": {"name": digest}}


@rest(
    "artifactregistry.projects.locations.repositories.getIamPolicy",
    permission="artifactregistry.repositories.getIamPolicy",
)
def get_policy(call: Call) -> Any:
    return _repository(call).policy.view()


@rest(
    "artifactregistry.projects.locations.repositories.setIamPolicy",
    permission="artifactregistry.repositories.setIamPolicy",
    writes=True,
)
def set_policy(call: Call) -> Any:
    return _repository(call).policy.replace(call.emulator, call.body["policy"])
