"""A database of an older MLflow release: refused as it is, upgraded on purpose, nothing lost.

The older release is a real one, in a virtual environment of its own (requirements/older-mlflow.in).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatehouse.exit_codes import Exit
from local.proxy_binary import ROOT
from tests.container.parts import HARDENED, Engine, Site, settings, socket_mount, socket_url
from tests.support import Postgres

WRITE = """
import json, mlflow
client = mlflow.MlflowClient()
experiment = client.create_experiment("made by an older release", artifact_location="mlflow-artifacts:/1")
run = client.create_run(experiment, tags={"kept": "yes"})
client.log_param(run.info.run_id, "depth", 3)
for step in range(3):
    client.log_metric(run.info.run_id, "loss", 1.5 - step / 2, step=step)
client.set_terminated(run.info.run_id)
client.create_registered_model("older model")
print(json.dumps({"version": mlflow.__version__, "run": run.info.run_id}))
"""


COLUMNS = (
    "SELECT table_name, column_name, data_type FROM information_schema.columns "
    "WHERE table_schema = 'public' ORDER BY 1, 2"
)


def run(*command: str, **environment: str) -> str:
    """Run a command; return what it prints."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def older_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a virtual environment with an older MLflow release."""
    folder = tmp_path_factory.mktemp("older")
    python = str(folder / "bin" / "python")
    uv = str(Path(sys.executable).parent / "uv")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    locked = ("--no-deps", "--require-hashes", "-r", "requirements/older-mlflow.txt")
    run(uv, "pip", "install", "--quiet", "--python", python, *locked)
    return python


def test_an_older_schema_is_refused_untouched_and_migrate_keeps_its_data(
    engine: Engine, postgres: Postgres, database: str, older_python: str
) -> None:
    output = run(older_python, "-c", WRITE, MLFLOW_TRACKING_URI=database, GIT_PYTHON_REFRESH="quiet")
    written = json.loads(output.splitlines()[-1])
    name = database.rpartition("/")[2]

    def schema() -> str:
        return postgres.sql("SELECT version_num FROM alembic_version", name) + postgres.sql(COLUMNS, name)

    before = schema()
    store = {"BACKEND_STORE_URI": socket_url(name), "ARTIFACTS_DESTINATION": "/tmp/artifacts"}
    mounts = [socket_mount(postgres)]

    refused = engine.start(environment=settings(**store), mounts=mounts, **HARDENED)
    assert refused.wait_end() == Exit.SCHEMA_OLDER
    assert "run: gatehouse migrate" in refused.log()
    assert schema() == before

    migrated = engine.start("gatehouse", "migrate", environment=store, mounts=mounts, **HARDENED)
    assert migrated.wait_end() == Exit.OK, migrated.log()
    assert schema() != before

    site = Site(engine, environment=store, mounts=mounts)
    session = site.session()
    api = f"{site.url}/api/2.0/mlflow"
    run_id = {"run_id": written["run"]}
    data = session.get(f"{api}/runs/get", params=run_id, timeout=10).json()["run"]["data"]
    assert data["params"] == [{"key": "depth", "value": "3"}]
    assert {"key": "kept", "value": "yes"} in data["tags"]
    history = session.get(f"{api}/metrics/get-history", params={**run_id, "metric_key": "loss"}, timeout=10)
    assert [point["value"] for point in history.json()["metrics"]] == [1.5, 1.0, 0.5]
    models = session.get(f"{api}/registered-models/search", timeout=10).json()["registered_models"]
    assert [model["name"] for model in models] == ["older model"]
