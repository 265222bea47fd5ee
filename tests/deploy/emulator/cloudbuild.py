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
        "name": f"projects/{project.number}/locations/global/builds/{identity}",
        "projectId": project.id,
        "status": "SUCCESS",
        "createTime": now(),
        "startTime": now(),
        "finishTime": now(),
        "logsBucket": f"gs://{source['bucket']}",
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
    bucket.objects[f"log-{identity}.txt"] = log.encode()
    builds.all.append(build)
    shown = {
        "@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata",
        "build": build,
    }
    return {"name": f"operations/build/{project.id}/{identity}", "metadata": shown}


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
