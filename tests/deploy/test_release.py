"""A release that can be taken back: whatever goes wrong, the old revision keeps all the traffic."""

from __future__ import annotations

import pytest

from tests.deploy.conftest import Tool, image
from tests.deploy.emulator.run import Pretended

FIRST = "mlflow-dev-00001-"


def runtime(tool: Tool) -> Pretended:
    """Return the runtime, whose images a test can break."""
    pretended = tool.cloud.run.runtime
    assert isinstance(pretended, Pretended)
    return pretended


def traffic(tool: Tool) -> list[tuple[str, int]]:
    """Return (revision, percent) of every target that has traffic."""
    targets = tool.cloud.run.services["mlflow-dev"].meta["status"]["traffic"]
    return [(t["revisionName"], t["percent"]) for t in targets if t.get("percent")]


def served_image(tool: Tool) -> str:
    """Return the image of the revision that has all the traffic."""
    ((revision, percent),) = traffic(tool)
    assert percent == 100
    return str(tool.cloud.run.revisions[revision]["spec"]["containers"][0]["image"])


def keys(tool: Tool) -> list[str]:
    """Return the API methods of the writes, in order."""
    return [request.method for request in tool.cloud.writes]


def test_a_new_image_is_backed_up_migrated_tried_and_only_then_served(deployed: Tool) -> None:
    deployed.configure(image=image("2"))
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert served_image(deployed) == image("2")
    order = [
        m
        for m in keys(deployed)
        if m in {"sql.backupRuns.insert", "run.namespaces.jobs.run", "run.namespaces.services.replaceService"}
    ]
    assert order[:3] == [
        "sql.backupRuns.insert",
        "run.namespaces.jobs.run",
        "run.namespaces.services.replaceService",
    ]
    assert f"image: {image('1')} → {image('2')}" in result.out
    deployed.cloud.requests.clear()
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert deployed.cloud.writes == [], result.out


def test_a_change_of_settings_alone_needs_no_migration(deployed: Tool) -> None:
    deployed.configure(service={"concurrency": 7})
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert "concurrency: 40 → 7" in result.out
    assert "sql.backupRuns.insert" not in keys(deployed)
    assert "run.namespaces.jobs.run" not in keys(deployed)


def test_a_broken_image_leaves_the_old_revision_with_all_the_traffic(deployed: Tool) -> None:
    runtime(deployed).broken.add("gatehouse:broken")
    deployed.configure(image=image("broken"))
    result = deployed.run("apply", "--yes", "--no-smoke")
    assert result.code == 1
    assert served_image(deployed) == image("1")
    assert f"The revision {FIRST}" in result.out
    assert "has all the traffic, as before" in result.out
    assert "python -m deploy logs" in result.out
    deployed.configure(image=image("2"))  # the way on
    deployed.good("apply", "--yes", "--no-smoke")
    assert served_image(deployed) == image("2")


def test_going_back_to_the_old_image_after_a_broken_one_changes_nothing_but_the_tag(deployed: Tool) -> None:
    runtime(deployed).broken.add("gatehouse:broken")
    deployed.configure(image=image("broken"))
    deployed.run("apply", "--yes", "--no-smoke")
    deployed.configure(image=image("1"))
    deployed.good("apply", "--yes", "--no-smoke")
    assert served_image(deployed) == image("1")
    deployed.cloud.requests.clear()
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert deployed.cloud.writes == [], result.out


def test_a_failing_migration_makes_no_revision(deployed: Tool) -> None:
    runtime(deployed).exit_codes["gatehouse:2", ("gatehouse", "migrate")] = 69
    deployed.configure(image=image("2"))
    result = deployed.run("apply", "--yes", "--no-smoke")
    assert result.code == 1
    assert served_image(deployed) == image("1")
    assert len(deployed.cloud.run.revisions) == 1
    assert "the database can't be reached" in result.out
    assert "exit code 69" in result.out
    assert deployed.cloud.sql.instances["mlflow-dev"].backups[0]["description"] == "before 2"


def test_a_failing_smoke_test_leaves_the_old_revision_with_all_the_traffic(deployed: Tool) -> None:
    """Nothing answers behind the new revision: its container has started, and that is all."""
    deployed.extra["MLFLOW_TRACKING_TOKEN"] = "e30.e30.c2ln"
    deployed.configure(image=image("2"))
    result = deployed.run("apply", "--yes")
    assert result.code == 1
    assert "✗ smoke test of https://candidate---mlflow-dev-123456789012.europe-west1.run.app" in result.out
    assert served_image(deployed) == image("1")
    assert "has all the traffic, as before" in result.out
    assert len(deployed.cloud.run.revisions) == 2
    assert "e30.e30.c2ln" not in result.text
    result = deployed.run("apply", "--yes", "--no-smoke")  # the candidate is still there; a second run goes on from it
    assert result.code == 0
    assert served_image(deployed) == image("2")


def test_a_candidate_gets_no_traffic_while_it_is_tried(deployed: Tool) -> None:
    states: list[list[tuple[str, int]]] = []
    deployed.cloud.after_write = lambda call: (
        states.append(traffic(deployed)) if call.method.endswith("replaceService") else None
    )
    deployed.configure(image=image("2"))
    deployed.good("apply", "--yes", "--no-smoke")
    assert all(len(state) == 1 and state[0][1] == 100 for state in states)
    assert states[0][0][0].startswith(FIRST)


def test_rollback_goes_to_the_revision_before(deployed: Tool) -> None:
    deployed.configure(image=image("2"))
    deployed.good("apply", "--yes", "--no-smoke")
    result = deployed.good("rollback", "--no-smoke")
    assert served_image(deployed) == image("1")
    assert runtime(deployed).launched[-1].arguments == ("gatehouse", "migrate", "--check")
    assert runtime(deployed).launched[-1].image == image("1")
    assert "has all the traffic" in result.out


@pytest.mark.parametrize(
    ("code", "told"), [(76, "the database's schema is newer than"), (69, "ended with exit code 69")]
)
def test_rollback_refuses_what_the_schema_forbids(deployed: Tool, code: int, told: str) -> None:
    deployed.configure(image=image("2"))
    deployed.good("apply", "--yes", "--no-smoke")
    runtime(deployed).exit_codes["gatehouse:1", ("gatehouse", "migrate", "--check")] = code
    result = deployed.run("rollback", "--no-smoke")
    assert result.code == 1
    assert told in result.err
    assert served_image(deployed) == image("2")


def test_rollback_refuses_a_revision_whose_secrets_are_disabled(deployed: Tool) -> None:
    deployed.good("rotate", "cookie", "--no-smoke")
    result = deployed.run("rollback", "--no-smoke")
    assert result.code == 1
    assert "mlflow-dev-cookie-secret version 1 is disabled" in result.err


def test_traffic_that_somebody_split_by_hand_is_no_first_deploy(deployed: Tool) -> None:
    deployed.configure(image=image("2"))
    deployed.good("apply", "--yes", "--no-smoke")
    meta = deployed.cloud.run.services["mlflow-dev"].meta
    first, second = sorted(deployed.cloud.run.revisions)
    split = [{"revisionName": first, "percent": 30}, {"revisionName": second, "percent": 70}]
    meta["spec"]["traffic"], meta["status"]["traffic"] = split, list(split)
    deployed.configure(image=image("1"))
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert "new revision, without traffic" in result.out
    assert served_image(deployed) == image("1")
