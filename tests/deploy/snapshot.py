"""The emulated cloud's state as plain data, without what differs from run to run:

two equal snapshots are the same deployment.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from tests.deploy.emulator import Emulator

#: Times, tags of versions, generated names and numbers.
NOISE = re.compile(
    r"(Time|timeCreated|etag|Timestamp|timestamp|resourceVersion|generation|uid|metageneration|updated|clientSpecifiedPayloadChecksum"
    r"|nonce|revisionName|executionCount|observedGeneration|settingsVersion|data)$"
)


def clean(value: Any) -> Any:
    """Return the value without the noise; revisions' names and volumes' names are made equal."""
    if isinstance(value, dict):
        return {
            key: clean(item)
            for key, item in value.items()
            if (not NOISE.search(key) and key != "name") or (key == "name" and _stable(item))
        }
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value


def _stable(name: Any) -> bool:
    return not (isinstance(name, str) and re.search(r"-\d{5}-[a-z0-9]{3}$|-[a-z]{3}-[a-z]{3}-[a-z]{3}$", name))


def take(cloud: Emulator) -> dict[str, Any]:
    """Return what the project holds."""
    services = {name: copy.deepcopy(service.meta) for name, service in cloud.run.services.items()}
    for meta in services.values():
        status = meta.pop("status")
        traffic = [{key: t[key] for key in ("percent", "tag") if key in t} for t in status["traffic"]]
        meta["traffic"] = traffic
        meta["ready"] = status["conditions"][0]["status"]
        meta["spec"].pop("traffic", None)
        for volume in meta["spec"]["template"]["spec"].get("volumes", []):
            volume.pop("name", None)
        for container in meta["spec"]["template"]["spec"]["containers"]:
            for mount in container.get("volumeMounts", []):
                mount.pop("name", None)
    policies = {"project": cloud.project.policy.bindings}
    policies |= {name: secret.policy.bindings for name, secret in cloud.secrets.all.items()}
    policies |= {name: bucket.policy.bindings for name, bucket in cloud.storage.buckets.items()}
    policies |= {name: policy.bindings for name, policy in cloud.iam.policies.items()}
    return {
        "apis": sorted(cloud.project.enabled),
        "accounts": sorted(cloud.iam.accounts),
        "policies": {
            where: sorted(
                (b["role"], sorted(b["members"]), b.get("condition", {}).get("expression", "")) for b in bindings
            )
            for where, bindings in policies.items()
        },
        "secrets": {
            name: clean(s.meta) | {"versions": [v["state"] for v in s.versions]}
            for name, s in cloud.secrets.all.items()
        },
        "buckets": {
            name: clean(bucket.meta)
            for name, bucket in cloud.storage.buckets.items()
            if not name.endswith("_cloudbuild")
        },
        "sql": {
            name: clean(i.meta) | {"databases": sorted(i.databases), "users": sorted(i.users)}
            for name, i in cloud.sql.instances.items()
        },
        "repositories": {name: clean(repository.meta) for name, repository in cloud.registry.repositories.items()},
        "services": clean(services),
        "jobs": sorted(cloud.run.jobs),
    }
