"""The artifacts' bucket, and the small one that holds Cloud Build's sources and logs."""

from __future__ import annotations

import json
import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cloud.google import Google
from deploy.config import HERE, ROOT, Config
from deploy.resources.base import (
    LABELS,
    Argv,
    Difference,
    compare,
    optional,
    own_labels,
    p,
    same_resource,
    setting,
    switch,
)

USER = "roles/storage.objectUser"
#: Sources and logs of builds go after a while.
BUILD_LIFECYCLE = HERE / "lifecycle-build.json"


@dataclass(frozen=True)
class Bucket:
    """A bucket's settings."""

    location: str = setting(
        refuse="a bucket can't be moved. Keep region as it is, or take another namespace and copy the objects (gcloud "
        "storage cp)"
    )
    uniform_access: bool = setting(switch("--uniform-bucket-level-access", ""))
    public_access_prevention: str = setting(switch("--public-access-prevention", ""))
    versioning: bool = setting(switch("--versioning", "--no-versioning"))
    #: The rules in one order, as JSON; the flag is the file's, which `update` adds.
    lifecycle: str = setting(lambda after, before: ())
    key: str = setting(
        optional("default-encryption-key", "--clear-default-encryption-key"), name="encryption key", same=same_resource
    )
    labels: dict[str, str] = setting(LABELS, name="label")


def canonical(rules: list[dict[str, Any]]) -> str:
    """Return lifecycle rules in one order."""
    return " ".join(sorted(json.dumps(rule, sort_keys=True) for rule in rules))


def wanted(config: Config, lifecycle: Path, *, versioning: bool = True) -> Bucket:
    """Return what a bucket is to be."""
    rules = json.loads(lifecycle.read_text(encoding="utf-8"))["rule"]
    return Bucket(
        location=config.region,
        uniform_access=True,
        public_access_prevention="enforced",
        versioning=versioning,
        lifecycle=canonical(rules),
        key=config.settings.kms_key or "",
        labels=config.labels,
    )


def found(answer: dict[str, Any]) -> Bucket:
    """Return what the API says it is."""
    access = answer.get("iamConfiguration", {})
    return Bucket(
        location=answer.get("location", "").lower(),
        uniform_access=access.get("uniformBucketLevelAccess", {}).get("enabled", False),
        public_access_prevention=access.get("publicAccessPrevention", "inherited"),
        versioning=answer.get("versioning", {}).get("enabled", False),
        lifecycle=canonical(answer.get("lifecycle", {}).get("rule", [])),
        key=answer.get("encryption", {}).get("defaultKmsKeyName", ""),
        labels=own_labels(answer.get("labels")),
    )


def look(config: Config, google: Google, name: str) -> dict[str, Any] | None:
    """Return a bucket as the API shows it; None if there is none. Raises CloudError."""
    del config
    answer: dict[str, Any] | None = google.find(
        f"https://storage.googleapis.com/storage/v1/b/{name}", projection="noAcl"
    )
    return answer


def look_at_policy(config: Config, google: Google, name: str) -> dict[str, Any]:
    """Return who may do what in a bucket. Raises CloudError."""
    del config
    url = f"https://storage.googleapis.com/storage/v1/b/{name}/iam"
    answer: dict[str, Any] = google.get(url, optionsRequestedPolicyVersion="3")
    return answer


def difference(config: Config, answer: dict[str, Any]) -> Difference:
    """Return what is to be changed of the artifacts' bucket."""
    return compare(f"bucket {config.bucket}", wanted(config, config.lifecycle), found(answer))


def build_difference(config: Config, answer: dict[str, Any]) -> Difference:
    """Return what is to be changed of the bucket of builds."""
    to_be = wanted(config, BUILD_LIFECYCLE, versioning=False)
    return compare(f"bucket gs://{config.names.build_bucket}", to_be, found(answer))


def create(config: Config, name: str) -> Argv:
    """Make a bucket; what `buckets create` can't set follows by `update`."""
    key = config.settings.kms_key
    return (
        "gcloud", "storage", "buckets", "create", f"gs://{name}", f"--location={config.region}",
        "--uniform-bucket-level-access", "--public-access-prevention", *((f"--default-encryption-key={key}",) if key else ()), p(config),
    )  # fmt: skip


def first_settings(config: Config, name: str, lifecycle: Path, *, versioning: bool = True) -> Argv:
    """Set what a new bucket lacks."""
    flags = ("--versioning",) if versioning else ()
    return update(config, name, (*flags, *LABELS(config.labels, {})), lifecycle)


def update(config: Config, name: str, flags: Argv, lifecycle: Path) -> Argv:
    """Change a bucket's settings. What keeps it private is set each time, whatever else is."""
    return (
        "gcloud", "storage", "buckets", "update", f"gs://{name}",
        *dict.fromkeys(("--uniform-bucket-level-access", "--public-access-prevention", *flags)),
        f"--lifecycle-file={os.path.relpath(lifecycle, ROOT)}", p(config),
    )  # fmt: skip


def bind(config: Config, name: str, account: str, role: str) -> Argv:
    """Give an account a role in one bucket."""
    return (
        "gcloud", "storage", "buckets", "add-iam-policy-binding", f"gs://{name}",
        f"--member=serviceAccount:{account}", f"--role={role}", p(config),
    )  # fmt: skip


def delete(config: Config, name: str) -> Argv:
    """Delete a bucket with all that is in it."""
    return ("gcloud", "storage", "rm", "--recursive", f"gs://{name}", "--all-versions", p(config))
