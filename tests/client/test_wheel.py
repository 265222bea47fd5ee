"""The client's wheel next to MLflow, oldest and newest: quick, light, and enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tomllib

from local.proxy_binary import ROOT
from tests.client.conftest import PATIENCE, Machine, read_until
from tests.client.googleapis import ACCOUNT, Google
from tests.client.openid import sign_in
from tests.support import Gate

UV = [sys.executable, "-m", "uv"]
#: What may come with the client: its two libraries and what these need.
LIGHT = {
    "mlflow-gatehouse", "google-auth", "requests",
    "certifi", "charset-normalizer", "idna", "urllib3",
    "cachetools", "cffi", "cryptography", "pyasn1", "pyasn1-modules", "pycparser", "rsa", "typing-extensions",
}  # fmt: skip

SCRIPT = """
import json, os, mlflow
client = mlflow.MlflowClient()
experiment = mlflow.set_experiment("wheel " + mlflow.__version__).experiment_id
run = client.create_run(experiment).info.run_id
client.log_metric(run, "m", 1.5)
open("artifact.txt", "w").write("content")
client.log_artifact(run, "artifact.txt")
os.makedirs("back", exist_ok=True)
back = open(client.download_artifacts(run, "artifact.txt", "back")).read()
client.set_terminated(run)
print(json.dumps([mlflow.__version__, client.get_run(run).data.metrics["m"], back]))
"""


def run(*command: str) -> str:
    """Run a command with this machine's own settings, such as where packages come from."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd="/", env=dict(os.environ)
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def environment_with(folder: Path, *packages: str) -> tuple[str, set[str]]:
    """Make a clean environment; return its Python and the names of what is in it."""
    python = str(folder / "bin" / "python")
    run(*UV, "venv", "--quiet", "--python", sys.executable, str(folder))
    run(*UV, "pip", "install", "--quiet", "--python", python, *packages)
    listed = json.loads(run(*UV, "pip", "list", "--quiet", "--format=json", "--python", python))
    return python, {package["name"].lower().replace("_", "-") for package in listed}


def test_the_wheel_alone_pulls_in_nothing_of_the_server(wheel: Path, tmp_path: Path, front: Gate) -> None:
    python, packages = environment_with(tmp_path / "clean", str(wheel))
    assert packages <= LIGHT, packages - LIGHT
    home = tmp_path / "home"
    home.mkdir()
    machine = Machine(home, front.url, python=python)
    assert "login" in machine.gatehouse("--help").stdout
    assert "environment" in machine.gatehouse("token", expect=67).stderr


# mlflow-skinny is MLflow's client without the server's dependencies; the code of the client is the same. The newest one
# is in test_install.py.
OLDEST = ("mlflow-skinny==2.9.0", "google-auth==2.23.0", "requests==2.28.0", "urllib3<2", "setuptools<80")


def test_the_wheel_serves_the_oldest_supported_mlflow(wheel: Path, tmp_path: Path, front: Gate, google: Google) -> None:
    python, _ = environment_with(tmp_path / "clean", str(wheel), *OLDEST)
    home = tmp_path / "home"
    home.mkdir()
    machine = Machine(home, front.url, python=python)
    done = machine.script(SCRIPT, NO_GCE_CHECK="", env=google.as_metadata)
    assert json.loads(done.stdout.splitlines()[-1]) == ["2.9.0", 1.5, "content"], done.stderr
    assert ACCOUNT in machine.gatehouse("whoami", NO_GCE_CHECK="", env=google.as_metadata).stdout


def test_the_oldest_supported_libraries_are_those_that_are_declared() -> None:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["google-auth>=2.23", "requests>=2.28"]
    assert project["requires-python"] == ">=3.10"


def test_the_sign_in_is_kept_in_a_keyring_where_there_is_one(wheel: Path, tmp_path: Path, front: Gate) -> None:
    python, _ = environment_with(tmp_path / "clean", f"{wheel}[keyring]", "keyrings.alt")
    home = tmp_path / "home"
    home.mkdir()
    machine = Machine(home, front.url, python=python)
    machine.environment |= {
        "GATEHOUSE_KEYRING": "on",
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
    }
    process = machine.start(python, "-m", "mlflow_gatehouse", "login", "--browser")
    sign_in(read_until(process, r"^  (http\S+)"))
    _, said = process.communicate(timeout=PATIENCE)
    assert "kept in the system's keyring" in said
    assert list((home / ".config" / "gatehouse").glob("*.json")) == []
    assert machine.gatehouse("token").stdout.strip()
    machine.gatehouse("logout")
    assert "nobody has signed in" in machine.gatehouse("token", expect=67).stderr
