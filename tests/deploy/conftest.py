"""The deploy tool as a process, the real gcloud, and the emulated cloud."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.__main__ import main as deploy_main
from tests.deploy.emulator import Emulator
from tests.support import missing

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TIMEOUT_S = 240

PROJECT, NUMBER, REGION = "demo-project", "123456789012", "europe-west1"
URL = f"https://mlflow-dev-{NUMBER}.{REGION}.run.app"
ACCOUNT = f"mlflow-dev@{PROJECT}.iam.gserviceaccount.com"
CLIENT_ID, CLIENT_SECRET = "123456789012-abc.apps.googleusercontent.com", "GOCSPX-only-the-vault-knows-this"

#: The smallest environment that is complete.
DEV: dict[str, Any] = {
    "project": PROJECT,
    "region": REGION,
    "namespace": "dev",
    "oauth": {"email_domains": ["example.com"]},
}


def sdk_root() -> tuple[Path, str]:
    """Return (the Google Cloud CLI's folder, its Python)."""
    program = shutil.which("gcloud")
    if program is None:
        missing("gcloud", "install the Google Cloud CLI")
        raise AssertionError
    command = [program, "info", "--format=value(installation.sdk_root, basic.python_location)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    root, python = done.stdout.strip().split("\t")
    return Path(root), python


@pytest.fixture(scope="session")
def gcloud_folder() -> Iterator[Path]:
    """A folder for PATH whose `gcloud` is the real one, loaded once (see gcloud_server.py)."""
    root, python = sdk_root()
    folder = Path(tempfile.mkdtemp(prefix="gcloud", dir="/tmp"))  # a socket's path must be short
    path, server = folder / "socket", HERE / "gcloud_server.py"
    command = [python, "-S", str(server), str(root), str(path)]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, env={"PATH": os.environ["PATH"], "HOME": str(folder)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", (folder / "log").read_text()
    program = folder / "gcloud"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {server} --client {path} "$@"\n')
    program.chmod(0o755)
    yield folder
    process.kill()
    process.wait(10)
    log.close()
    shutil.rmtree(folder)


@dataclass
class Result:
    """How a run of the tool ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err


@dataclass
class Tool:
    """`python -m deploy`, on an environment's file of the test's own."""

    cloud: Emulator
    home: Path
    gcloud: Path
    file: Path
    extra: dict[str, str] = field(default_factory=dict)
    #: The checkout that the tool runs from, where that is not this one.
    sources: Path = ROOT
    printed: list[str] = field(default_factory=list)

    @property
    def record(self) -> Path:
        """The file with every gcloud argument list, a JSON line each."""
        return self.home / "argv.jsonl"

    def environment(self) -> dict[str, str]:
        """Return the environment of the tool's processes."""
        return {
            "PATH": os.pathsep.join([str(self.gcloud), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.sources),
            "GCLOUD_RECORD": str(self.record),
            "GATEHOUSE_DEPLOY_PATIENCE": "30",
            **self.cloud.environment(self.home / "sdk"),
            **self.extra,
        }

    def configure(self, **changes: Any) -> None:
        """Write the environment's file: DEV with changes."""
        self.file.write_text(yaml.safe_dump(DEV | {"image": image("1")} | changes))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the tool in a session of its own: killing its group kills it with every gcloud."""
        command = [sys.executable, "-m", "deploy", arguments[0], str(self.file), *arguments[1:]]
        return subprocess.Popen(
            command,
            env=self.environment(),
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, answers: str = "") -> Result:
        """Run the tool to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(answers, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"deploy {arguments} did not end in {TIMEOUT_S} s:\n{out}{err}") from None
        self.printed.append(out + err)
        return Result(process.returncode, out, err)

    def here(self, *arguments: str, answers: str = "") -> Result:
        """Run the tool in this process:

        its own code and the real gcloud, without a new Python for each of many runs.
        """
        out, err, before = io.StringIO(), io.StringIO(), (dict(os.environ), sys.stdin, Path.cwd())
        environment = self.environment()
        try:
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(self.home)
            sys.stdin = io.StringIO(answers)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = deploy_main([arguments[0], str(self.file), *arguments[1:]])
                except SystemExit as end:
                    code = int(end.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before[0])
            sys.stdin = before[1]
            os.chdir(before[2])
        self.printed.append(out.getvalue() + err.getvalue())
        return Result(code, out.getvalue(), err.getvalue())

    def here_good(self, *arguments: str) -> Result:
        """Run the tool in this process; fail with what it printed unless it succeeds."""
        result = self.here(*arguments)
        assert result.code == 0, f"deploy {' '.join(arguments)}: exit code {result.code}\n{result.text}{self.refused()}"
        return result

    def good(self, *arguments: str, answers: str = "") -> Result:
        """Run the tool; fail with what it printed unless it succeeds."""
        result = self.run(*arguments, answers=answers)
        assert result.code == 0, f"deploy {' '.join(arguments)}: exit code {result.code}\n{result.text}{self.refused()}"
        return result

    def apply(self, *arguments: str) -> Result:
        """Apply with the OAuth client's file, without questions and without the smoke test."""
        return self.good("apply", "--yes", "--no-smoke", "--oauth-client", str(self.client_file()), *arguments)

    def client_file(self) -> Path:
        """Return the JSON file that the console gives for an OAuth client."""
        path = self.home / "client.json"
        web = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "redirect_uris": [f"{URL}/oauth2/callback"],
        }
        path.write_text(json.dumps({"web": web}))
        return path

    def commands(self) -> list[list[str]]:
        """Return the argument lists of every gcloud command so far."""
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def refused(self) -> str:
        """Return the requests that were no valid API calls."""
        return "\n".join(f"{r.status} {r.method} {r.path}: {r.answer[:300]}" for r in self.cloud.unknown())


def image(tag: str) -> str:
    """Return the full name of an image that exists already."""
    return f"{REGION}-docker.pkg.dev/{PROJECT}/shared/gatehouse:{tag}"


def new_cloud(folder: Path) -> Emulator:
    """Return an empty project (not served yet), next to which others have images."""
    cloud = Emulator(folder, PROJECT, NUMBER)
    cloud.registry.seed(f"{REGION}/shared", ["gatehouse:1", "gatehouse:2", "gatehouse:broken"])
    return cloud


@pytest.fixture
def make_cloud(tmp_path: Path) -> Iterator[Callable[[], Emulator]]:
    """Make emulated clouds; they end with the test."""
    made: list[Emulator] = []

    def make() -> Emulator:
        made.append(new_cloud(tmp_path / f"cloud{len(made)}"))
        return made[-1].__enter__()

    yield make
    for cloud in made:
        cloud.__exit__(None, None, None)


@pytest.fixture
def cloud(make_cloud: Callable[[], Emulator]) -> Emulator:
    """An empty project."""
    return make_cloud()


def tool_for(cloud: Emulator, home: Path, gcloud: Path) -> Tool:
    """Return a tool for a cloud, with DEV as its environment's file."""
    home.mkdir()
    tool = Tool(cloud, home, gcloud, home / "dev.yaml")
    tool.configure()
    return tool


@pytest.fixture
def make_tool(tmp_path: Path, gcloud_folder: Path) -> Callable[[Emulator], Tool]:
    """Make a tool for a cloud."""
    return lambda cloud: tool_for(cloud, tmp_path / f"home-{cloud.port}", gcloud_folder)


@pytest.fixture
def tool(cloud: Emulator, make_tool: Callable[[Emulator], Tool]) -> Tool:
    """The tool on the empty project."""
    return make_tool(cloud)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, gcloud_folder: Path) -> Iterator[Tool]:
    """The tool on a project where `apply` ran once, without any incident. Only to look at, and to copy."""
    folder = tmp_path_factory.mktemp("straight")
    with new_cloud(folder / "cloud") as cloud:
        tool = tool_for(cloud, folder / "home", gcloud_folder)
        tool.apply()
        yield tool


@pytest.fixture
def deployed(tool: Tool, straight: Tool) -> Tool:
    """A tool of the test's own on a copy of that project."""
    tool.cloud.adopt(straight.cloud)
    return tool
