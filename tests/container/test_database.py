"""A database of an older MLflow release: refused as it is, upgraded on purpose, nothing lost.

The older release is a real one, in a virtual environment of its own (requirements/older-mlflow.in), and it writes real data.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gatehouse.exit_codes import Exit
from local.proxy_binary import ROOT
from tests.container.parts import CLOUD_SQL, HARDENED, Engine, Site, socket_mount, socket_url
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


@pytest.fixture(scope="module")
def older_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with an older MLflow release."""
    folder = tmp_path_factory.mktemp("older")
    python = folder / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes", "-r", "requirements/older-mlflow.txt"],
    ):
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        done = subprocess.run(command, cwd=ROOT, env=env_with(path), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return python


def env_with(path: str) -> dict[str, str]:
    """Return this process's environment with another PATH."""
    import os

    return {**os.environ, "PATH": path}


def test_an_older_schema_is_refused_untouched_and_migrate_keeps_its_data(
    engine: Engine, postgres: Postgres, database: str, older_python: Path
) -> None:
    done = subprocess.run(
        [str(older_python), "-c", WRITE], env={"MLFLOW_TRACKING_URI": database, "GIT_PYTHON_REFRESH": "quiet"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout.splitlines()[-1])
    name = database.rpartition("/")[2]

    def schema() -> str:
        columns = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        return postgres.sql("SELECT version_num FROM alembic_version", name) + postgres.sql(columns, name)

    before = schema()
    environment = {"BACKEND_STORE_URI": socket_url(name), "ARTIFACTS_DESTINATION": "/tmp/artifacts"}
    options = {"mounts": [socket_mount(postgres)], **HARDENED}

    from tests.container.parts import settings

    refused = engine.start(environment=settings(**environment), **options)
    assert refused.wait_end() == Exit.SCHEMA_OLDER
    assert "gatehouse migrate" in refused.log()
    assert schema() == before

    migrated = engine.start("gatehouse", "migrate", environment={"BACKEND_STORE_URI": environment["BACKEND_STORE_URI"]}, **options)
    assert migrated.wait_end() == Exit.OK, migrated.log()
    assert schema() != before

    site = Site(engine, environment=environment, **{"mounts": [socket_mount(postgres)]})
    run = site.session().get(f"{site.url}/api/2.0/mlflow/runs/get", params={"run_id": written["run"]}, timeout=10).json()["run"]
    assert run["data"]["params"] == [{"key": "depth", "value": "3"}]
    assert {"key": "kept", "value": "yes"} in run["data"]["tags"]
    history = site.session().get(
        f"{site.url}/api/2.0/mlflow/metrics/get-history", params={"run_id": written["run"], "metric_key": "loss"}, timeout=10
    )
    assert [point["value"] for point in history.json()["metrics"]] == [1.5, 1.0, 0.5]
    models = site.session().get(f"{site.url}/api/2.0/mlflow/registered-models/search", timeout=10).json()
    assert [model["name"] for model in models["registered_models"]] == ["older model"]
    assert CLOUD_SQL in environment["BACKEND_STORE_URI"]
