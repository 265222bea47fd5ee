"""The first half of `make run`: Python's packages and oauth2-proxy, made at the same time, with progress.

It becomes `local.run` in the virtual environment. Standard library alone: it runs before there is one.

It handles INT and TERM from its first moment, for itself and what it starts: a script's shell without job control
starts its background commands with INT ignored, and a signal that is ignored stays so in every program that inherits
it, unless it is handled in between.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from local.go_program import ROOT

PYTHON = ROOT / ".venv" / "bin" / "python"
#: What a shell returns for a command that Ctrl-C ended.
INTERRUPTED = 130
LOOK_S = 0.1


class Stopped(BaseException):
    """INT or TERM came."""


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise Stopped


def end(parts: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs, each with the processes of its own."""
    for part in parts:
        if part.poll() is None:
            os.killpg(part.pid, signal.SIGTERM)
    for part in parts:
        part.wait()


def set_up() -> int:
    """Make both; return 0, or the exit code of the one that failed, with the other one stopped."""
    commands = [["make", "--silent", "client"], [sys.executable, "-m", "local.proxy_binary"]]
    # Each leads a process group, so that its compilers and installers end with it.
    parts = [subprocess.Popen(command, cwd=ROOT, start_new_session=True) for command in commands]
    try:
        while any(part.poll() is None for part in parts):
            if any(part.returncode for part in parts):
                break
            time.sleep(LOOK_S)
    finally:
        end(parts)
    return next((part.returncode for part in parts if part.returncode > 0), 0)


def main() -> int:
    """Set up, then become `local.run`; a handled signal is the default one in what is executed."""
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        status = set_up()
    except Stopped:
        print("make run: stopped", file=sys.stderr)
        return INTERRUPTED
    if status == 0:
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), "-m", "local.run"])  # noqa: S606 - a program of our own, and no shell
    return status


if __name__ == "__main__":
    sys.exit(main())
