"""Cloud Storage's JSON API: buckets with their policies, and objects."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import google_crc32c

from tests.deploy.emulator.core import (
    ApiError,
    Call,
    Policy,
    Raw,
    etag,
    invalid,
    missing,
    now,
    region_must_exist,
    rest,
)


@dataclass
class Bucket:
    """A bucket: its settings, policy and objects (name → data)."""

    meta: dict[str, Any]
    policy: Policy = field(default_factory=Policy)
    objects: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Storage:
    """Every bucket of the project, and the names that others hold."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    held_by_others: set[str] = field(default_factory=set)


def _bucket(call: Call) -> Bucket:
    name = call.parameters["bucket"]
    if name in call.emulator.storage.held_by_others:
        raise ApiError(
            403,
            "PERMISSION_DENIED",
            "owner@example.com does not have storage.buckets.get access to the Google Cloud Storage bucket. "
            "Permission "
            f"'storage.buckets.get' denied on resource '//storage.googleapis.com/projects/_/buckets/{name}' (or it "
            "may not exist).",
        )
    if name not in call.emulator.storage.buckets:
        raise missing("The specified bucket does not exist.")
    return call.emulator.storage.buckets[name]


@rest("storage.buckets.insert", permission="storage.buckets.create", writes=True)
def insert(call: Call) -> Any:
    project, name = call.emulator.project, call.body["name"]
    project.must_be(call.option("project"))
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", name) or name.startswith("goog") or "google" in name:
        raise invalid(f"Invalid bucket name: '{name}'")
    if name in call.emulator.storage.buckets or name in call.emulator.storage.held_by_others:
        raise ApiError(
            409,
            "CONFLICT",
            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
            "Please select a different name and try again.",
        )
    location = call.body.get("location", "US")
    if location.upper() not in {"US", "EU", "ASIA"}:
        region_must_exist(location.lower(), "Cloud Storage")
    project.must_be_allowed_here(location)
    meta = {
        "kind": "storage#bucket",
        "id": name,
        "projectNumber": project.number,
        "metageneration": "1",
        "storageClass": "STANDARD",
        "timeCreated": now(),
        "updated": now(),
        "etag": "CAE=",
        "iamConfiguration": {
            "publicAccessPrevention": "inherited",
            "uniformBucketLevelAccess": {"enabled": False},
        },
        **call.body,
        "location": location.upper(),
        "locationType": "region",
    }
    bucket = Bucket(meta)
    if meta["iamConfiguration"].get("uniformBucketLevelAccess", {}).get("enabled"):
        owners = [f"projectEditor:{project.id}", f"projectOwner:{project.id}"]
        bucket.policy.bindings = [{"role": "roles/storage.legacyBucketOwner", "members": owners}]
    call.emulator.storage.buckets[name] = bucket
    return meta


@rest("storage.buckets.get", permission="storage.buckets.get")
def get(call: Call) -> Any:
    return _bucket(call).meta


@rest("storage.buckets.getStorageLayout", permission="storage.buckets.get")
def get_layout(call: Call) -> Any:
    meta = _bucket(call).meta
    return {
        "kind": "storage#storageLayout",
        "bucket": meta["name"],
        "location": meta["location"],
        "locationType": meta["locationType"],
    }


@rest("storage.managedFolders.list", "storage.folders.list", permission="storage.objects.list")
def list_folders(call: Call) -> Any:
    _bucket(call)
    return {"items": []}


@rest("storage.buckets.list", permission="storage.buckets.list")
def list_buckets(call: Call) -> Any:
    call.emulator.project.must_be(call.option("project"))
    prefix = call.option("prefix")
    found = [bucket.meta for name, bucket in call.emulator.storage.buckets.items() if name.startswith(prefix)]
    return {"kind": "storage#buckets", "items": found}


@rest("storage.buckets.patch", permission="storage.buckets.update", writes=True)
def patch(call: Call) -> Any:
    meta = _bucket(call).meta

    def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
        for key, value in new.items():
            if value is None:
                old.pop(key, None)
            elif isinstance(value, dict) and isinstance(old.get(key), dict):
                merge(old[key], value)
            else:
                old[key] = value

    merge(meta, call.body)
    meta |= {"metageneration": str(int(meta["metageneration"]) + 1), "updated": now(), "etag": etag(meta)}
    return meta


@rest("storage.buckets.delete", permission="storage.buckets.delete", writes=True)
def delete(call: Call) -> Any:
    if _bucket(call).objects:
        raise ApiError(409, "CONFLICT", "The bucket you tried to delete is not empty.")
    del call.emulator.storage.buckets[call.parameters["bucket"]]
    return Raw(b"", status=204)


@rest("storage.buckets.getIamPolicy", permission="storage.buckets.getIamPolicy")
def get_policy(call: Call) -> Any:
    return _bucket(call).policy.view() | {"kind": "storage#policy"}


@rest("storage.buckets.setIamPolicy", permission="storage.buckets.setIamPolicy", writes=True)
def set_policy(call: Call) -> Any:
    bucket = _bucket(call)
    prevented = bucket.meta["iamConfiguration"].get("publicAccessPrevention") == "enforced"
    everyone = {m for b in call.body.get("bindings", []) for m in b["members"]} & {
        "allUsers",
        "allAuthenticatedUsers",
    }
    if prevented and everyone:
        raise ApiError(
            412,
            "FAILED_PRECONDITION",
            "The member bindings allUsers and allAuthenticatedUsers are not allowed "
            "since public access prevention is enforced.",
        )
    return bucket.policy.replace(call.emulator, call.body) | {"kind": "storage#policy"}


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()  # type: ignore[no-untyped-call]


def _object(bucket: str, name: str, data: bytes) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/1",
        "name": name,
        "bucket": bucket,
        "generation": "1",
        "metageneration": "1",
        "size": str(len(data)),
        "crc32c": _crc32c(data),
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "timeCreated": now(),
        "updated": now(),
        "etag": "CAE=",
    }


@rest("storage.objects.list", permission="storage.objects.list")
def list_objects(call: Call) -> Any:
    bucket, prefix, delimiter = _bucket(call), call.option("prefix"), call.option("delimiter")
    items, prefixes = [], []
    for name, data in sorted(bucket.objects.items()):
        if not name.startswith(prefix):
            continue
        rest_of = name[len(prefix) :]
        if delimiter and delimiter in rest_of:
            prefixes.append(prefix + rest_of.split(delimiter)[0] + delimiter)
        else:
            items.append(_object(call.parameters["bucket"], name, data))
    return {"kind": "storage#objects", "items": items, "prefixes": sorted(set(prefixes))}


@rest("storage.objects.get", permission="storage.objects.get")
def get_object(call: Call) -> Any:
    bucket, name = _bucket(call), call.parameters["object"]
    if name not in bucket.objects:
        raise missing(f"No such object: {call.parameters['bucket']}/{name}")
    if call.option("alt") != "media":
        return _object(call.parameters["bucket"], name, bucket.objects[name])
    data, wanted = bucket.objects[name], re.match(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
    headers = {
        "Content-Type": "application/octet-stream",
        "Last-Modified": formatdate(usegmt=True),
        "X-Goog-Generation": "1",
        "X-Goog-Hash": f"crc32c={_crc32c(data)}",
    }
    if wanted:
        start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if start >= len(data):
            return Raw(b"", status=416)
        return Raw(
            data[start : end + 1],
            headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"},
            206,
        )
    return Raw(data, headers)


@rest("storage.objects.delete", permission="storage.objects.delete", writes=True)
def delete_object(call: Call) -> Any:
    bucket, name = _bucket(call), call.parameters["object"]
    if name not in bucket.objects:
        raise missing(f"No such object: {call.parameters['bucket']}/{name}")
    del bucket.objects[name]
    return Raw(b"", status=204)


@rest("storage.objects.insert", permission="storage.objects.create", writes=True)
def insert_object(call: Call) -> Any:
    bucket, name, kind = _bucket(call), call.option("name"), call.option("uploadType")
    data = call.raw
    if kind == "multipart":
        boundary = re.search(r"boundary=[\"']?([^\"';]+)", call.headers["content-type"])
        assert boundary is not None
        parts = call.raw.split(b"--" + boundary[1].encode())[1:-1]
        head, data = (part.split(b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n", 1)[1] for part in parts)
        name = name or json.loads(head)["name"]
        data = data.removesuffix(b"\r\n").removesuffix(b"\n")
    elif kind == "resumable":
        raise ApiError(501, "UNIMPLEMENTED", "the emulator takes no resumable uploads")
    bucket.objects[name] = data
    return _object(call.parameters["bucket"], name, data)
