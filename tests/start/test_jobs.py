"""MLflow's jobs: off by default, and done when they are switched on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gatehouse.exit_codes import Exit
from local.proxy_binary import ROOT
from tests.support import Gate, wait_for

JOB = {"job_name": "invoke_scorer", "params": {"experiment_id": "0", "serialized_scorer": "{}", "trace_ids": []}}


#: What a job does with an address, in a process of its own.
OPEN = """
import sys
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
try:
    get_artifact_repository(sys.argv[1])
    print("opened")
except MlflowException as error:
    print("refused" if "ALLOWED_ARTIFACT_LOCATIONS" in str(error) else error)
"""


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def tried_in(process: int, address: str) -> str:
    """Open an artifact store in the environment of a process; return what came of it."""
    pairs = Path(f"/proc/{process}/environ").read_text().rstrip("\0").split("\0")
    environment = dict(pair.split("=", 1) for pair in pairs)
    command = [sys.executable, "-c", OPEN, address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_jobs_are_off_by_default(gate: Gate) -> None:
    assert "runner" not in gate.children()
    with gate.session() as session:
        answer = session.post(f"{gate.url}/ajax-api/3.0/jobs/", json=JOB, timeout=20)
    assert answer.status_code >= 400


def test_a_job_runs_to_its_end_and_the_runners_end_is_that_of_all(
    make_gate: Callable[..., Gate], database: str
) -> None:
    # Jobs run code on the server, so submitting one is an administrator's: alice is one in the local policy.
    gate = make_gate(
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="true",
        ACCESS_POLICY=str(ROOT / "local" / "access.yaml"),
        BACKEND_STORE_URI=database,
        WORKERS="2",
        OPENAI_API_KEY="a-key-of-a-provider",
        AWS_SECRET_ACCESS_KEY="a-key-of-the-bucket",
        MLFLOW_CRYPTO_KEK_PASSPHRASE="a-passphrase-of-the-gateway",
        ANTHROPIC_API_KEY="a-key-that-is-named",
        JOB_ENVIRONMENT="ANTHROPIC_API_KEY",
    )
    gate.start().wait_ready()
    runner = gate.children()["runner"]
    environment = Path(f"/proc/{runner}/environ").read_text()
    assert "ANTHROPIC_API_KEY=a-key-that-is-named" in environment
    for secret in ("a-key-of-a-provider", "a-key-of-the-bucket", "a-passphrase-of-the-gateway", "OAUTH2_PROXY_"):
        assert secret not in environment
    # Each of its consumers, and whatever a job starts: what Python does in their environment.
    consumer = wait_for(lambda: children(runner), "the first consumer", 60, gate.log)[0]
    for place, what in ((f"{gate.folder}/artifacts/0", "opened"), ("gs://another-team/models", "refused")):
        assert tried_in(consumer, place) == what
    with gate.session() as session:
        answer = session.post(f"{gate.url}/ajax-api/3.0/jobs/", json=JOB, timeout=20)
        assert answer.status_code == 200, answer.text
        url = f"{gate.url}/ajax-api/3.0/jobs/{answer.json()['job_id']}"

        def ended() -> dict[str, object] | None:
            job: dict[str, object] = session.get(url, timeout=20).json()
            return job if job["status"] in {"SUCCEEDED", "FAILED"} else None

        job = wait_for(ended, "the job's end", 400, gate.log)
    # An empty scorer can't be rebuilt: the job itself has run and says so.
    assert job["status"] == "FAILED"
    assert "scorer" in str(job["result"]).lower() + str(job["error_message"]).lower(), job
    os.kill(runner, signal.SIGKILL)
    assert gate.wait_end(20) == Exit.SERVER_ENDED
    assert "the job runner ended (signal KILL)" in gate.log()
