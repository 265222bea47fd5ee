"""The neighbours' own libraries, in an environment that has the client and nothing of the server."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from local.go_program import digest
from local.proxy_binary import ROOT
from tests.support import Gate, Provider

INSTALL_LIMIT_S = 900
RUN_LIMIT_S = 180
EXAMPLES = ROOT / "examples" / "neighbours"
#: Runs a script of `examples/neighbours`; returns what it prints.
Run = Callable[..., str]


def environment_of(name: str) -> Path:
    """Return the Python of a throw-away environment with ``requirements/NAME.txt`` and the client, made once for each state."""
    pins = ROOT / "requirements" / f"{name}.txt"
    folder = ROOT / ".build" / f"{name}-{digest([pins])}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            uv = Path(sys.executable).parent / "uv"
            python = folder / "bin" / "python"
            commands = (
                ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
                ["pip", "install", "--quiet", "--python", str(python), "--require-hashes", "--requirement", str(pins)],
            )
            for command in commands:
                done = subprocess.run(
                    [str(uv), *command], capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
                )
                assert done.returncode == 0, done.stderr
            (folder / "ready").touch()
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def client_wheel() -> Path:
    """The client as the server hands it out."""
    command = [sys.executable, str(ROOT / "client" / "build_wheel.py"), str(ROOT / "dist")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def neighbour(client_wheel: Path) -> Path:
    """The Python in which Jupyter, Dask, Prefect and Dagster are."""
    return _with_client("neighbours", client_wheel)


@pytest.fixture(scope="session")
def heavy_neighbour(client_wheel: Path) -> Path:
    """The Python in which Ray and Kubeflow Pipelines are."""
    return _with_client("neighbours-heavy", client_wheel)


def _with_client(name: str, wheel: Path) -> Path:
    python = environment_of(name)
    command = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-deps", "--reinstall"]
    subprocess.run([*command, "--python", str(python), str(wheel)], check=True, timeout=120)
    return python


@pytest.fixture
def run(gate: Gate, provider: Provider, tmp_path: Path) -> Run:
    """Run a script as bob, who has a file with a token and no other credential."""
    token = tmp_path / "token"
    token.write_text(provider.token("bob"))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": gate.url,
        "MLFLOW_TRACKING_AUTH": "gatehouse",
        "MLFLOW_TRACKING_TOKEN_FILE": str(token),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "150",
        "DAGSTER_HOME": "",
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def run_script(python: Path, *command: str, limit_s: float = RUN_LIMIT_S) -> str:
        done = subprocess.run(
            [str(python), *command],
            env={name: value for name, value in environment.items() if value},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}\n{gate.log()[-4000:]}"
        assert token.read_text() not in done.stdout + done.stderr, "the token was printed"
        return done.stdout

    return run_script
