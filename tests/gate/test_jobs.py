"""MLflow's jobs: off by default, and done when they are switched on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from local.proxy_binary import ROOT
from tests.support import Gate, wait_for

JOB = {"job_name": "invoke_scorer", "params": {"experiment_id": "0", "serialized_scorer": "{}", "trace_ids": []}}


def runners(gate: Gate) -> str:
    """Return the job runner's process below the server, if there is one."""
    listing = subprocess.run(
        ["ps", "-ww", "-o", "args=", "--ppid", str(gate.children()["server"])],
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join(line for line in listing.stdout.splitlines() if "mlflow.server.jobs" in line)


def test_jobs_are_off_by_default(gate: Gate) -> None:
    assert runners(gate) == ""
    with gate.session() as session:
        answer = session.post(f"{gate.url}/ajax-api/3.0/jobs/", json=JOB, timeout=20)
    assert answer.status_code >= 400


def test_a_job_runs_to_its_end_when_they_are_on(make_gate: Callable[..., Gate]) -> None:
    # Jobs run code on the server, so submitting one is an administrator's: alice is one in the local policy.
    policy = str(ROOT / "local" / "access.yaml")
    gate = make_gate(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="true", ACCESS_POLICY=policy).start().wait_ready()
    assert runners(gate)
    with gate.session() as session:
        answer = session.post(f"{gate.url}/ajax-api/3.0/jobs/", json=JOB, timeout=20)
        assert answer.status_code == 200, answer.text
        url = f"{gate.url}/ajax-api/3.0/jobs/{answer.json()['job_id']}"

        def ended() -> dict[str, object] | None:
            job: dict[str, object] = session.get(url, timeout=20).json()
            return job if job["status"] in {"SUCCEEDED", "FAILED"} else None

        job = wait_for(ended, "the job's end", 180, gate.log)
    # An empty scorer can't be rebuilt: the job itself has run and says so.
    assert job["status"] == "FAILED"
    assert "scorer" in str(job["result"]).lower() + str(job["error_message"]).lower(), job
