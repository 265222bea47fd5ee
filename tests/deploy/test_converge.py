"""Converge or refuse: whatever the configuration was, is, and whatever somebody did by hand, `apply` sets it right or
says why not.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from deploy.resources import account, bucket, database, images, secrets, service
from deploy.resources.base import compare
from tests.deploy.conftest import ACCOUNT, PROJECT, Tool, image
from tests.deploy.emulator import Emulator

BUCKET = f"{PROJECT}-mlflow-dev"


def settings(cloud: Emulator) -> dict[str, Any]:
    found: dict[str, Any] = cloud.sql.instances["mlflow-dev"].meta["settings"]
    return found


def note(name: str, value: str, *, template: bool = True) -> Callable[[Emulator], None]:
    """Set an annotation of the service, as gcloud's flags and the console do:

    the newest revision is then as the template.
    """

    def drift(cloud: Emulator) -> None:
        meta = cloud.run.services["mlflow-dev"].meta
        where = meta["spec"]["template"]["metadata"] if template else meta["metadata"]
        where.setdefault("annotations", {})[f"run.googleapis.com/{name}"] = value

    return drift


def template(cloud: Emulator) -> dict[str, Any]:
    found: dict[str, Any] = cloud.run.services["mlflow-dev"].meta["spec"]["template"]
    return found


def container(cloud: Emulator) -> dict[str, Any]:
    found: dict[str, Any] = template(cloud)["spec"]["containers"][0]
    return found


def label(cloud: Emulator) -> None:
    """Label the service and its template, as gcloud and the console do."""
    for meta in (cloud.run.services["mlflow-dev"].meta, template(cloud)):
        meta["metadata"]["labels"]["team"] = "x"


#: What somebody does by hand → what `plan` must say of it.
DRIFTS: dict[str, tuple[Callable[[Emulator], Any], str]] = {
    "PITR on": (
        lambda c: settings(c)["backupConfiguration"].update(pointInTimeRecoveryEnabled=True),
        "point in time recovery: true → false",
    ),
    "backups off": (lambda c: settings(c)["backupConfiguration"].update(enabled=False), "daily backup: (none) → 03:00"),
    "backups elsewhere": (
        lambda c: settings(c)["backupConfiguration"].update(location="eu"),
        "backup location: eu → europe-west1",
    ),
    "a network let in": (
        lambda c: settings(c)["ipConfiguration"].update(authorizedNetworks=[{"value": "0.0.0.0/0"}]),
        "authorized networks: 0.0.0.0/0 → (none)",
    ),
    "TLS off": (
        lambda c: settings(c)["ipConfiguration"].update(sslMode="ALLOW_UNENCRYPTED_AND_ENCRYPTED"),
        "ssl mode: ALLOW_UNENCRYPTED_AND_ENCRYPTED → ENCRYPTED_ONLY",
    ),
    "connectors not enforced": (
        lambda c: settings(c).update(connectorEnforcement="NOT_REQUIRED"),
        "connector enforcement: NOT_REQUIRED → REQUIRED",
    ),
    "another tier": (lambda c: settings(c).update(tier="db-g1-small"), "tier: db-g1-small → db-f1-micro"),
    "protected": (
        lambda c: settings(c).update(deletionProtectionEnabled=True),
        "deletion protection: true → false",
    ),
    "a flag of PostgreSQL": (
        lambda c: settings(c).update(databaseFlags=[{"name": "log_min_duration_statement", "value": "0"}]),
        "flag/log_min_duration_statement: 0 → (none)",
    ),
    "a label of the database": (lambda c: settings(c)["userLabels"].update(team="x"), "label/team: x → (none)"),
    "a label of the tool's own gone": (
        lambda c: settings(c)["userLabels"].pop("app"),
        "label/app: (none) → gatehouse",
    ),
    "no versions": (
        lambda c: c.storage.buckets[BUCKET].meta["versioning"].update(enabled=False),
        "versioning: false → true",
    ),
    "no lifecycle": (lambda c: c.storage.buckets[BUCKET].meta.pop("lifecycle"), "lifecycle: (none) → "),
    "an open bucket": (
        lambda c: c.storage.buckets[BUCKET].meta["iamConfiguration"].update(publicAccessPrevention="inherited"),
        "public access prevention: inherited → enforced",
    ),
    "a label of the bucket": (
        lambda c: c.storage.buckets[BUCKET].meta["labels"].update(cost="1"),
        "label/cost: 1 → (none)",
    ),
    "a label of a secret gone": (
        lambda c: c.secrets.all["mlflow-dev-cookie-secret"].meta["labels"].pop("app"),
        "label/app: (none) → gatehouse",
    ),
    "an account's name": (
        lambda c: c.iam.accounts[ACCOUNT].update(displayName="something"),
        "display name: something → Gatehouse dev",
    ),
    "an account disabled": (lambda c: c.iam.accounts[ACCOUNT].update(disabled=True), f"{ACCOUNT}: enabled again"),
    "tags that move": (
        lambda c: c.registry.repositories["europe-west1/mlflow-dev"].meta["dockerConfig"].update(immutableTags=False),
        "immutable tags: false → true",
    ),
    "a right taken": (
        lambda c: c.secrets.all["mlflow-dev-webhook-key"].policy.bindings.clear(),
        "right to read mlflow-dev-webhook-key",
    ),
    "an API off": (lambda c: c.project.enabled.discard("iamcredentials.googleapis.com"), "enable 1 APIs"),
    "more memory": (
        lambda c: container(c)["resources"]["limits"].update(memory="4Gi"),
        "memory: 4Gi → 1Gi",
    ),
    "a variable": (
        lambda c: container(c)["env"].append({"name": "DEBUG", "value": "1"}),
        "env/DEBUG: 1 → (none)",
    ),
    "no liveness probe": (
        lambda c: container(c).pop("livenessProbe"),
        "liveness probe: (none) → /gatehouse/ready every 10s for 30s",
    ),
    "CPU always": (note("cpu-throttling", "false"), "cpu always: true → false"),
    "session affinity": (note("sessionAffinity", "true"), "session affinity: true → false"),
    "another ingress": (note("ingress", "internal", template=False), "ingress: internal → all"),
    "the invoker check on": (
        note("invoker-iam-disabled", "false", template=False),
        "invoker check: true → false",
    ),
    "a custom audience": (
        note("custom-audiences", '["https://x.example.com"]', template=False),
        'custom audiences: ["https://x.example.com"] → (none)',
    ),
    "a network": (
        note("network-interfaces", '[{"network":"default","subnetwork":"default"}]'),
        "network: default default private-ranges-only → (none)",
    ),
    "a label of the service": (label, "label/team: x → (none)"),
    "another command": (lambda c: container(c).update(command=["sleep"], args=["9"]), "command: sleep → (none)"),
}


def follow(cloud: Emulator) -> None:
    """Let the serving revision be as the template says: Cloud Run would have made it so at the change by hand."""
    meta = cloud.run.services["mlflow-dev"].meta
    revision = cloud.run.revisions[meta["status"]["latestReadyRevisionName"]]
    revision["spec"] = meta["spec"]["template"]["spec"]


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_done_by_hand_is_told_and_set_right_and_then_nothing_is_written(deployed: Tool, seed: int) -> None:
    """Half of the drifts at a time, in an order by chance, so that none can hide behind another of its resource."""
    names = sorted(DRIFTS)
    random.Random(20261125).shuffle(names)  # noqa: S311
    chosen = names[seed - 1 :: 2]
    for name in chosen:
        DRIFTS[name][0](deployed.cloud)
    follow(deployed.cloud)
    told = deployed.here("plan")
    assert [name for name in chosen if DRIFTS[name][1] not in told.out] == [], told.text
    deployed.here_good("apply", "--yes", "--no-smoke")
    deployed.cloud.requests.clear()
    again = deployed.here_good("apply", "--yes", "--no-smoke")
    assert "Nothing to do" in again.out, again.out
    assert deployed.cloud.writes == []


#: Everything that can be set, to be taken away again.
FULL: dict[str, Any] = {
    "labels": {"team": "ml", "cost-centre": "42"},
    "sql": {
        "tier": "db-g1-small",
        "availability": "regional",
        "backups": 30,
        "point_in_time_recovery": True,
        "flags": {"log_min_duration_statement": "500"},
    },
    "service": {
        "cpu": 2,
        "memory": "2Gi",
        "concurrency": 7,
        "http2": False,
        "network": "default",
        "subnet": "default",
        "direct_transfers": True,
        "env": {"MLFLOW_A": "1"},
    },
}


def test_a_setting_that_is_removed_again_is_gone(deployed: Tool) -> None:
    """From nothing to everything and back: each way one apply, after which there is nothing to do."""
    cloud = deployed.cloud
    for changes in (FULL, {}):
        deployed.configure(**changes)
        deployed.here_good("apply", "--yes", "--no-smoke")
        cloud.requests.clear()
        assert "Nothing to do" in deployed.here_good("apply", "--yes", "--no-smoke").out
        assert cloud.writes == []
    assert settings(cloud)["userLabels"] == {"app": "gatehouse", "environment": "dev"}
    assert settings(cloud)["backupConfiguration"]["pointInTimeRecoveryEnabled"] is False
    assert not settings(cloud).get("databaseFlags")
    assert "network-interfaces" not in str(template(cloud))
    assert not cloud.iam.policies[ACCOUNT].bindings


#: What can't be changed: the configuration or the deed, and the words of the refusal.
REFUSED: dict[str, tuple[dict[str, Any], Callable[[Emulator], Any] | None, tuple[str, ...]]] = {
    "another release of PostgreSQL": (
        {"sql": {"version": "POSTGRES_17"}},
        None,
        ("version is POSTGRES_16, and POSTGRES_17 is wanted", "--database-version"),
    ),
    "another region": (
        {"region": "us-central1"},
        None,
        ("region is europe-west1, and us-central1 is wanted", "a bucket can't be moved", "a secret can't be moved"),
    ),
    "another key": (
        {"kms_key": f"projects/{PROJECT}/locations/europe-west1/keyRings/r/cryptoKeys/k"},
        None,
        ("a database's key is chosen when it is made",),
    ),
    "a network that stays": (
        {},
        lambda c: settings(c)["ipConfiguration"].update(privateNetwork=f"projects/{PROJECT}/global/networks/other"),
        ("a private network stays",),
    ),
    "a second container": (
        {},
        lambda c: template(c)["spec"]["containers"].append({"image": "x"}),
        ("the tool runs one container",),
    ),
    "a label of the revision alone": (
        {},
        lambda c: template(c)["metadata"]["labels"].update(team="x"),
        ("revision labels is team", "takes no label off a revision alone"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_changed_is_refused_with_the_way_out_and_nothing_is_written(deployed: Tool, name: str) -> None:
    changes, deed, words = REFUSED[name]
    deployed.configure(**changes, labels={"neighbour": "changed-too"})
    if deed:
        deed(deployed.cloud)
        follow(deployed.cloud)
    for command in (("plan",), ("apply", "--yes", "--no-smoke")):
        result = deployed.here(*command)
        assert result.code == 78, result.text
        assert [word for word in words if word not in result.out] == [], result.out
    assert deployed.cloud.writes == []
    assert deployed.here("status").code == 1


def test_a_private_network_is_added_to_an_existing_database(deployed: Tool) -> None:
    deployed.configure(sql={"network": "default", "subnet": "default"})
    assert "private network: (none) → projects/demo-project/global/networks/default" in deployed.here("plan").out
    deployed.here_good("apply", "--yes", "--no-smoke")
    network = settings(deployed.cloud)["ipConfiguration"]
    assert network["privateNetwork"].endswith("projects/demo-project/global/networks/default")
    assert network["ipv4Enabled"] is False
    assert "Nothing to do" in deployed.here_good("apply", "--yes", "--no-smoke").out


def test_what_nobody_uses_any_more_is_told(deployed: Tool) -> None:
    (deployed.home / "access.yaml").write_text("default: viewer\nroles: {admin: [user:a@example.com]}\n")
    deployed.configure(access_policy="access.yaml")
    deployed.here_good("apply", "--yes", "--no-smoke")
    deployed.configure()
    assert "secret mlflow-dev-access-policy is not used any more" in deployed.here("plan").out
    deployed.here_good("apply", "--yes", "--no-smoke")
    assert "Nothing to do" in deployed.here_good("apply", "--yes", "--no-smoke").out


# The difference itself
# ------------------------------------------------------------------------------------------------------------

STATES = (database.Server, bucket.Bucket, service.Service, secrets.Container, images.Repository, account.Account)
VALUES = st.sampled_from(["a", "projects/p/x", ""])


def states(kind: Any) -> st.SearchStrategy[Any]:
    """Draw a state of a resource's type."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "str": VALUES,
        "int": st.integers(0, 3),
        "bool": st.booleans(),
        "dict[str, str]": st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2),
        "tuple[str, ...]": st.lists(VALUES, max_size=2).map(tuple),
    }
    special = {
        "liveness_probe": st.sampled_from(["/gatehouse/ready every 10s for 30s", "/x every 5s for 10s"]),
        "startup_probe": st.sampled_from(["/ping every 5s for 120s", "/health every 5s for 60s"]),
        "network": st.sampled_from(["", "a b all-traffic", "c d private-ranges-only"])
        if kind is service.Service
        else VALUES,
    }
    fields = {part.name: special.get(part.name, kinds[str(part.type)]) for part in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", STATES)
def test_every_field_that_differs_is_changed_or_refused(kind: Any) -> None:
    """Any two states: no difference is dropped, and none is made up."""

    @settings_of(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(states(kind), states(kind))
    def holds(wanted: Any, found: Any) -> None:
        difference = compare("it", wanted, found)
        named = {c.what.split("/")[0] for c in difference.changes} | {r.what for r in difference.refusals}
        expected = set()
        for part in dataclasses.fields(kind):
            after, before = getattr(wanted, part.name), getattr(found, part.name)
            same = part.metadata["same"]
            if not (same(after, before) if same else after == before):
                expected.add(part.metadata["name"] or part.name.replace("_", " "))
        assert named == expected
        assert all(refusal.way_out for refusal in difference.refusals)
        assert compare("it", wanted, wanted).changes == ()

    holds()


def test_the_images_name_stays_what_it_was(deployed: Tool) -> None:
    """The neighbour of all of this: a release of another image is a release, not a drift."""
    deployed.configure(image=image("2"))
    assert f"image: {image('1')} → {image('2')}" in deployed.here("plan").out
