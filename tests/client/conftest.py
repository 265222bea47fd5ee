"""Fixtures of the client's tests:

a certified provider with short tokens, a gate in front of MLflow, Google's endpoints.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local.proxy_binary import ROOT
from tests.client.googleapis import GCLOUD_AUDIENCE, Google
from tests.client.openid import GATE_SECRET, HOURLY_CLIENT_ID, LOGIN_CLIENT_ID, OpenIdProvider, sign_in
from tests.support import Gate, free_port, running

#: Seconds that a token lives, and that the long run takes. The README's figures: 20 and 180.
TOKEN_LIFE = int(os.environ.get("GATEHOUSE_TEST_TOKEN_LIFE", "5"))
RUN = float(os.environ.get("GATEHOUSE_TEST_RUN", "12"))
#: Besides the gate's own address.
AUDIENCES = (LOGIN_CLIENT_ID, HOURLY_CLIENT_ID, GCLOUD_AUDIENCE)
PATIENCE = 60  # seconds that one command may take


@pytest.fixture(scope="session")
def openid() -> Iterator[OpenIdProvider]:
    """The OpenID provider; tokens of ``mlflow-gatehouse login`` live TOKEN_LIFE seconds."""
    part = OpenIdProvider(TOKEN_LIFE)
    yield part
    part.stop()


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The client's wheel, where a gate of this checkout finds it to hand it out."""
    command = [sys.executable, str(ROOT / "client" / "build_wheel.py"), str(ROOT / "dist")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def front(openid: OpenIdProvider, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:  # noqa: ARG001
    """A gate whose provider that is. People of example.com and one project's service accounts may come in."""
    port = free_port()
    gate = Gate(
        tmp_path_factory.mktemp("front"),
        openid,  # type: ignore[arg-type]
        PORT=str(port),
        OAUTH2_PROXY_CLIENT_SECRET=GATE_SECRET,
        LOGIN_CLIENT_ID=LOGIN_CLIENT_ID,
        OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES=",".join([f"http://localhost:{port}", *AUDIENCES]),
        OAUTH2_PROXY_EMAIL_DOMAINS="example.com,project.iam.gserviceaccount.com",
    )
    with running(gate):
        yield gate


@pytest.fixture
def google(openid: OpenIdProvider, tmp_path: Path) -> Iterator[Google]:
    """Google's endpoints, whose tokens the gate trusts."""
    part = Google(tmp_path, openid.sign)
    yield part
    part.stop()


@dataclass
class Machine:
    """A machine that nobody has signed in on: an empty home, a clean environment, the installed client."""

    home: Path
    url: str
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {
            "PATH": f"{Path(self.python).parent}:/usr/bin:/bin",
            "HOME": str(self.home),
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_AUTH": "gatehouse",
            "GATEHOUSE_KEYRING": "off",
            "NO_GCE_CHECK": "true",
            "CLOUDSDK_CONFIG": str(self.home / "gcloud"),
            "PYTHONUNBUFFERED": "1",
            "GIT_PYTHON_REFRESH": "quiet",
        } | self.environment

    def start(
        self, *command: str, env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command; an empty value takes a variable away."""
        given = {**self.environment, **(env or {}), **environment}
        merged = {name: value for name, value in given.items() if value}
        return subprocess.Popen(
            command,
            env=merged,
            cwd=self.home,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *command: str, expect: int = 0, env: Mapping[str, str] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and check its exit code."""
        process = self.start(*command, env={**(env or {}), **environment})
        try:
            output, errors = process.communicate(timeout=max(120.0, RUN + 60))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its forked workers too: they hold the pipes
            output, errors = process.communicate()
            raise AssertionError(f"{command} never ended\n{output}\n{errors}") from None
        assert process.returncode == expect, f"{command} ended with {process.returncode}\n{output}\n{errors}"
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def gatehouse(
        self, *arguments: str, expect: int = 0, env: Mapping[str, str] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``mlflow-gatehouse …``."""
        return self.run(self.python, "-m", "mlflow_gatehouse", *arguments, expect=expect, env=env, **environment)

    def script(
        self, text: str, expect: int = 0, env: Mapping[str, str] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python script."""
        return self.run(self.python, "-c", text, expect=expect, env=env, **environment)


@pytest.fixture
def machine(front: Gate, tmp_path: Path) -> Machine:
    """A machine that is set to use the gate."""
    home = tmp_path / "home"
    home.mkdir()
    return Machine(home, front.url)


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Read a command's messages until one matches; return its first group."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if match := re.search(pattern, line):
            return match[1]
    raise AssertionError(f"never said {pattern}:\n{said}")


def login(machine: Machine, *options: str, person: str = "alice@example.com") -> str:
    """Sign in as a person would; return what the command said at the end."""
    process = machine.start(machine.python, "-m", "mlflow_gatehouse", "login", "--browser", *options)
    sign_in(read_until(process, r"^  (http\S+)"), person)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return said
