"""Cloud Build: builds an image from an uploaded archive, in an instant."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.emulator.core import ApiError, Call, Raw, missing, now, rest


@dataclass
class Builds:
    """Every build; `fail` makes the next ones fail, `build` makes the image for real."""

    all: list[dict[str, Any]] = field(default_factory=list)
    fail: bool = False
    #: Called with (archive, image): builds it. None takes the image for built.
    build: Callable[[bytes, str], None] | None = None


@rest(
    "cloudbuild.projects.builds.create",
    "cloudbuild.projects.locations.builds.create",
    permission="cloudbuild.builds.create",
    writes=True,
)
def create(call: Call) -> Any:
    project, builds = call.emulator.project, call.emulator.builds
    name = call.parameters.get("projectId") or call.parameters["parent"].split("/")[1]
    project.must_be(name)
    account = call.body.get("serviceAccount", "").rsplit("/", 1)[-1]
    _must_work(call, account)
    source = call.body["source"]["storageSource"]
    bucket = call.emulator.storage.buckets.get(source["bucket"])
    if bucket is None or source["object"] not in bucket.objects:
        raise missing(f"The source gs://{source['bucket']}/{source['object']} does not exist.")
    for step in call.body["steps"]:
        if step["name"] != "gcr.io/cloud-builders/docker":
            raise ApiError(400, "INVALID_ARGUMENT", f"the emulator has no builder {step['name']}")
    identity = f"build-{len(builds.all):04}"
    build = {
        **copy.deepcopy(call.body),
        "id": identity,
        "name": f"projects/{project.number}/locations/{_region(call)}/builds/{identity}",
        "projectId": project.id,
        "status": "SUCCESS",
        "createTime": now(),
        "startTime": now(),
        "finishTime": now(),
        "logsBucket": call.body.get("logsBucket", f"gs://{source['bucket']}"),
        "logUrl": f"https://console.cloud.google.com/cloud-build/builds/{identity}?project={project.number}",
    }
    log = "FETCHSOURCE\nBUILD\nPUSH\nDONE\n"
    try:
        if builds.fail:
            raise ApiError(400, "FAILED", "The command '/bin/sh -c false' returned a non-zero code: 1")
        for image in call.body["images"]:
            if builds.build:
                builds.build(bucket.objects[source["object"]], image)
            build["results"] = {"images": [{"name": image, "digest": call.emulator.registry.push(image)}]}
    except ApiError as error:
        build |= {
            "status": "FAILURE",
            "statusDetail": error.message,
            "failureInfo": {"type": "USER_BUILD_STEP", "detail": error.message},
        }
        log += f"ERROR: {error.message}\n"
    place, _, folder = build["logsBucket"].removeprefix("gs://").partition("/")
    call.emulator.storage.buckets[place].objects[f"{folder}/log-{identity}.txt".lstrip("/")] = log.encode()
    builds.all.append(build)
    shown = {
        "@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata",
        "build": build,
    }
    return {"name": f"operations/build/{project.id}/{identity}", "metadata": shown}


def _region(call: Call) -> str:
    return call.parameters["parent"].split("/")[3] if "parent" in call.parameters else "global"


def _must_work(call: Call, account: str) -> None:
    """Raise what Cloud Build says of an account that can't build: new projects' default one may do nothing."""
    cloud = call.emulator
    if not account:
        raise ApiError(
            400,
            "FAILED_PRECONDITION",
            f"{cloud.project.number}-compute@developer.gserviceaccount.com does not have storage.objects.get access to "
            "the Google Cloud"
            " Storage object. Permission 'storage.objects.get' denied on resource (or it may not exist).",
        )
    if account not in cloud.iam.accounts:
        raise missing(f"Service account {account} does not exist.")
    cloud.must(call.caller, "iam.serviceAccounts.actAs", account)
    member = f"serviceAccount:{account}"
    for image in call.body["images"]:
        host, _, repository, _ = image.split("/", 3)
        where = f"{host.removesuffix('-docker.pkg.dev')}/{repository}"
        found = cloud.registry.repositories.get(where)
        if found is None or not found.policy.allows("roles/artifactregistry.writer", member):
            raise ApiError(403, "PERMISSION_DENIED", f"{account} may not push to {where}.")
    bucket = cloud.storage.buckets.get(call.body["source"]["storageSource"]["bucket"])
    if bucket is None or not bucket.policy.allows("roles/storage.admin", member):
        raise ApiError(403, "PERMISSION_DENIED", f"{account} may not use the bucket of sources and logs.")


@rest(
    "cloudbuild.projects.builds.get",
    "cloudbuild.projects.locations.builds.get",
    permission="cloudbuild.builds.get",
)
def get(call: Call) -> Any:
    identity = call.parameters.get("id") or call.parameters["name"].split("/")[-1]
    for build in call.emulator.builds.all:
        if build["id"] == identity:
            return build
    raise missing(f"No such build: {identity}")


@rest(
    "cloudbuild.projects.builds.list",
    "cloudbuild.projects.locations.builds.list",
    permission="cloudbuild.builds.list",
)
def list_builds(call: Call) -> Any:
    return {"builds": list(reversed(call.emulator.builds.all))}


__all__ = ["Builds", "Raw"]
