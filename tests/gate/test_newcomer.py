"""A newcomer's first hour: a fresh clone, `make run`, and every command that the README gives."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.go_program import ROOT
from tests.support import free_port, wait_for

SET_UP_LIMIT_S = 600
#: Run by CI itself, and this test is a part of them.
NOT_HERE = ("make run", "make check", "make test")


def commands() -> list[str]:
    """Return the README's shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [block.strip() for block in blocks]
    assert lines[0] == "make run"
    assert lines[-1] == "make check\nmake test"
    return [block for block in lines if not all(line in NOT_HERE for line in block.splitlines())]


class Clone:
    """A fresh clone with `make run` in the background."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, timeout=60)
        self.folder, self.port = folder, free_port()
        kept = (
            "PATH",
            "HOME",
            "TMPDIR",
            "LANG",
            "SSL_CERT_FILE",
            "PIP_CERT",
            "REQUESTS_CA_BUNDLE",
            "GOFLAGS",
            "GOPROXY",
            "GOCACHE",
            "GOMODCACHE",
        )
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {"PORT": str(self.port)}
        self.log_path = folder.parent / "run.log"
        with self.log_path.open("wb") as log:
            # In a session of its own, so that INT can be sent to all of it, as the terminal does on Ctrl-C.
            self.process = subprocess.Popen(
                ["make", "run"], cwd=folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        return f"Gatehouse is ready: http://localhost:{self.port}\n" in self.log()

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.replace("4180", str(self.port))],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}{self.log()}"
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    part = Clone(tmp_path_factory.mktemp("newcomer") / "gatehouse")
    try:
        wait_for(part.ready, "make run", SET_UP_LIMIT_S, part.log)
        yield part
    finally:
        if part.process.poll() is None:
            os.killpg(part.process.pid, signal.SIGTERM)
            part.process.wait(30)


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.splitlines()[0][:40])
def test_each_command_of_the_readme_works(clone: Clone, command: str) -> None:
    assert clone.run(command)


@pytest.mark.parametrize("person", ["alice", "bob", "carol"])
def test_a_token_is_of_the_person_asked_for(clone: Clone, person: str) -> None:
    import base64
    import json

    token = clone.run(f"make -s token USER={person}").strip()
    body = token.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["email"] == f"{person}@example.com"


def test_the_state_is_where_it_says_and_git_stays_clean(clone: Clone) -> None:
    assert (clone.folder / ".gatehouse" / "mlflow.db").exists()
    assert clone.run("git status --porcelain") == ""


def test_ctrl_c_stops_all_of_it(clone: Clone) -> None:
    listing = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    assert str(clone.folder) in listing
    os.killpg(clone.process.pid, signal.SIGINT)
    clone.process.wait(30)

    def gone() -> bool:
        return (
            str(clone.folder)
            not in subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
        )

    wait_for(gone, "the end of every process of the clone", 15, clone.log)
    assert not (clone.folder / ".gatehouse" / "run.json").exists()


#: A script's shell has no job control: what it starts in the background, it starts with INT ignored.
IN_THE_BACKGROUND = "make run & wait"


def started_with(word: str) -> list[str]:
    """Return the processes in whose environment or command line this word is."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if any(word.encode() in (folder / name).read_bytes() for name in ("environ", "cmdline")):
                found.append(folder.name)
    return found


@pytest.mark.parametrize("moment", ["while it builds", "when it is ready"])
def test_ctrl_c_stops_it_also_in_the_background_of_a_script(clone: Clone, moment: str, tmp_path: Path) -> None:
    folder = clone.folder.parent / "again" / moment.replace(" ", "-")
    log = tmp_path / "run.log"
    if moment == "while it builds":
        # A clone whose oauth2-proxy has to be compiled anew, from the first package on.
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, timeout=60)
        environment, sign = {**clone.environment, "GOCACHE": str(tmp_path / "cache")}, "building it with Go"
    else:
        folder, environment, sign = clone.folder, clone.environment, "Gatehouse is ready"
    environment |= {"PORT": str(free_port()), "DATA": str(tmp_path / "data")}
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["sh", "-c", IN_THE_BACKGROUND], cwd=folder, env=environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: sign in log.read_text(), sign, SET_UP_LIMIT_S, log.read_text)
        assert started_with(str(tmp_path))
        os.killpg(shell.pid, signal.SIGINT)

        wait_for(lambda: not started_with(str(tmp_path)), "the end of all that it started", 30, log.read_text)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
