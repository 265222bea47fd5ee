"""`gatehouse gc` on each kind of store, as the command that a scheduled job runs.

Killed in the middle, the next one finishes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from gatehouse.exit_codes import Exit
from tests.artifacts.conftest import Stored

DELETE = ("--delete", "--older-than", "0d", "--json")


def collect(stored: Stored, *arguments: str) -> dict[str, dict[str, Any]]:
    """Run the command where the gate runs; return the outcomes by identifier."""
    command = [sys.executable, "-m", "gatehouse", "gc", *arguments]
    environment = stored.gate.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [line for line in outcomes if line["result"] == "failed"]
    if stored.gate.environment["ARTIFACTS_DESTINATION"].startswith("gs:"):
        # fake-gcs-server doesn't list multipart uploads; signed_bucket.py does.
        assert [line["kind"] for line in failed] == ["interrupted uploads"], done.stdout
    else:
        assert (done.returncode, failed) == (Exit.OK, []), done.stdout + done.stderr
    return {line["id"]: line for line in outcomes if line not in failed}


def log_run(sdk: Any, files: int) -> str:
    """Log a run with small artifacts; return its id."""
    with sdk.start_run() as run:
        for number in range(files):
            sdk.log_text("x" * 1000, f"folder {number % 2}/ä {number}.txt")
    return str(run.info.run_id)


def objects_of(stored: Stored, run: str) -> int:
    """Return how many objects the store has of a run."""
    return sum(f"/{run}/" in f"/{name}" for name in stored.names())


@pytest.fixture
def client(sdk: Any) -> Any:
    return sdk.MlflowClient()


def test_what_was_deleted_goes_from_the_store_and_the_rest_stays(stored: Stored, sdk: Any, client: Any) -> None:
    gone, kept = log_run(sdk, 3), log_run(sdk, 2)
    client.delete_run(gone)
    announced = collect(stored, "--older-than", "0d", "--json")[gone]
    assert (announced["result"], announced["bytes"]) == ("would be deleted", 3000)
    assert objects_of(stored, gone) == 3
    outcomes = collect(stored, *DELETE)
    assert outcomes[gone]["result"] == "deleted"
    assert kept not in outcomes
    assert (objects_of(stored, gone), objects_of(stored, kept)) == (0, 2)
    assert gone not in collect(stored, *DELETE)


def test_killed_in_the_middle_the_next_one_finishes(stored: Stored, sdk: Any, client: Any) -> None:
    kept, runs = log_run(sdk, 2), [log_run(sdk, 4) for _ in range(8)]
    for run in runs:
        client.delete_run(run)
    command = [sys.executable, "-m", "gatehouse", "gc", *DELETE]
    with subprocess.Popen(command, env=stored.gate.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.kill()
        told = [first, *map(json.loads, filter(lambda line: line.endswith("}\n"), process.stdout))]
    finished = {line["id"] for line in told}
    # What it said is done is done; the next one finishes what it began.
    assert {objects_of(stored, run) for run in finished & set(runs)} == {0}
    outcomes = collect(stored, *DELETE)
    assert {outcomes[run]["result"] for run in runs if run in outcomes} <= {"deleted"}
    assert [objects_of(stored, run) for run in runs] == [0] * len(runs)
    assert objects_of(stored, kept) == 2
    assert collect(stored, *DELETE).keys().isdisjoint(runs)
