"""MLflow's jobs: off by default, and done when they are switched on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from gatehouse.exit_codes import Exit
from local.proxy_binary import ROOT
from tests.support import Gate, wait_for

JOB = {"job_name": "invoke_scorer", "params": {"experiment_id": "0", "serialized_scorer": "{}", "trace_ids": []}}


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
