"""``python -m bench.moving``: what moving in takes, beside copying by the SDK.

A database of SQLite with RUNS runs of 400 metric values each goes into PostgreSQL by ``gatehouse import``; SAMPLE of the
runs go by MLflow's SDK from a plain server on the same file into a gate, as tools that copy by the SDK do it: a request
for each run, each metric's history and each hundred values.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gatehouse.database import schema
from tests.support import Gate, Postgres, Provider, free_port, running, wait_for

RUNS, METRICS, STEPS = int(os.environ.get("RUNS", "2000")), 4, 100
SAMPLE = 20


def write(path: Path) -> None:
    """Write the source."""
    with schema.locked(schema.make_engine(f"sqlite:///{path}")) as connection:
        schema.create(connection)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (0, 'Default', 'mlflow-artifacts:/0', 'active')"
        )
        ids = [f"{number:032x}" for number in range(RUNS)]
        connection.executemany(
            "INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, 'r', 'ann', 'FINISHED', 5, 'active', 'mlflow-artifacts:/0/' || ? || '/artifacts', 0)",
            [(key, key) for key in ids],
        )
        for table in ("metrics", "latest_metrics"):
            steps = range(STEPS) if table == "metrics" else [STEPS - 1]
            connection.executemany(
                f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, 0, ?)",
                ((f"m{m}", step / 3, step, step, key) for key in ids for m in range(METRICS) for step in steps),
            )
        pairs = [(f"p{number}", "v", key) for key in ids for number in range(5)]
        connection.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", pairs)
        connection.commit()


def by_sdk(source: str, gate: Gate) -> float:
    """Return the seconds that a run takes by the SDK."""
    from mlflow import MlflowClient

    os.environ["MLFLOW_TRACKING_TOKEN"] = gate.provider.token("bob")
    old, new = MlflowClient(source), MlflowClient(gate.url)
    runs = old.search_runs(["0"], max_results=SAMPLE)
    began = time.monotonic()
    for each in runs:
        run = old.get_run(each.info.run_id)
        made = new.create_run("0", start_time=run.info.start_time, tags=run.data.tags)
        metrics = [value for key in run.data.metrics for value in old.get_metric_history(run.info.run_id, key)]
        for start in range(0, len(metrics), 1000):
            new.log_batch(made.info.run_id, metrics=metrics[start : start + 1000])
        for key, value in run.data.params.items():
            new.log_param(made.info.run_id, key, value)
        new.set_terminated(made.info.run_id, run.info.status, run.info.end_time)
    return (time.monotonic() - began) / len(runs)


def main() -> None:
    """Measure, and print."""
    provider, postgres = Provider(), Postgres()
    try:
        with tempfile.TemporaryDirectory() as name:
            source = Path(name, "old.db")
            write(source)
            uri = postgres.create("bench")
            environment = {**os.environ, "BACKEND_STORE_URI": uri, "ARTIFACTS_DESTINATION": name + "/artifacts"}
            command = [sys.executable, "-m", "gatehouse", "import", str(source), "--artifacts", "keep"]
            began, before = time.monotonic(), os.times()
            subprocess.run(command, env=environment, check=True)
            took, after = time.monotonic() - began, os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            rows = RUNS * METRICS * STEPS
            print(
                f"gatehouse import: {RUNS} runs, {rows} values: {took:.1f} s, {cpu:.1f} s of processor, {rows / took:.0f} values/s"
            )
            port = free_port()
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{source}", "--workers", "1",
                 "--port", str(port)],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                gate = Gate(Path(name, "gate"), provider, BACKEND_STORE_URI=postgres.create("sdk"))
                with running(gate):
                    import requests

                    def answers() -> bool:
                        with contextlib.suppress(requests.RequestException):
                            return requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok
                        return False

                    wait_for(answers, "the plain server", 120)
                    each = by_sdk(f"http://127.0.0.1:{port}", gate)
            finally:
                server.terminate()
                server.wait()
            print(
                f"by the SDK: {each:.2f} s a run (of {SAMPLE}), so {each * RUNS:.0f} s for {RUNS}: {each * RUNS / took:.0f} times as long"
            )
    finally:
        provider.stop()
        postgres.remove()


if __name__ == "__main__":
    main()
