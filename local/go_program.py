"""Build a pinned Go program, once for each state of its pins, and say how far it is."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_TIMEOUT_S = 1500
#: Until the first word about a build that goes on; from one to the next it takes longer, up to a limit.
FIRST_WORD_S, LONGEST_SILENCE_S = 5, 30


class NoProgramError(Exception):
    """A program is missing and can't be built."""


@contextlib.contextmanager
def only_one(name: str) -> Iterator[None]:
    """Let one process at a time make the part of that name in ``.build``."""
    place = ROOT / ".build"
    place.mkdir(exist_ok=True)
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(files: Sequence[Path]) -> str:
    """Return twelve hexadecimal digits that stand for the names and contents of these files."""
    parts = b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in sorted(files))
    return hashlib.sha256(parts).hexdigest()[:12]


def build(
    name: str,
    package: str,
    folder: Path,
    target: Path,
    say: Callable[[str], None],
    ldflags: str = "-s -w",
    script: Path | None = None,
) -> Path:
    """Return ``target``, which is built first if it isn't there.

    Args:
        name: what people call the program.
        package: the Go package of its ``main``.
        folder: the module to build in, whose go.mod and go.sum pin everything.
        target: where the program is kept; built aside and moved there whole.
        say: gets a line of progress every few seconds.
        ldflags: for Go's linker.
        script: what builds it, given the target, instead of a plain ``go build``.

    Raises:
        NoProgramError: without Go, or when the build fails; with Go's own words.
    """
    with only_one(name):
        if target.exists():
            return target
        if not shutil.which("go"):
            raise NoProgramError(
                f"{name} isn't built yet, and there is no Go to build it\n    fix: install Go 1.26 or newer"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=target.parent) as aside:
            made = Path(aside) / target.name
            command = ["go", "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", ldflags, "-o", str(made), package]
            if script is not None:
                command = [str(script), str(made)]
            _run(name, command, folder, say)
            made.replace(target)
    return target


def _run(name: str, command: list[str], folder: Path, say: Callable[[str], None]) -> None:
    say(f"{name}: building it with Go, once ...")
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "CGO_ENABLED": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_pass_on, args=(process, lines), daemon=True)
    reader.start()
    try:
        log = _watch(name, started, lines, say)
        if process.wait(10) != 0:
            raise NoProgramError(f"`{' '.join(command)}` failed:\n" + "\n".join(log[-40:]))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    say(f"{name}: built in {time.monotonic() - started:.0f} s")


def _pass_on(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in process.stderr or ():
        lines.put(line.rstrip())
    lines.put(None)


def _watch(name: str, started: float, lines: queue.SimpleQueue[str | None], say: Callable[[str], None]) -> list[str]:
    """Return all that Go said (``-v``: a line for each package), having told now and then how far it is."""
    log: list[str] = []
    told, pause = started, FIRST_WORD_S
    while True:
        now = time.monotonic()
        if now - started > BUILD_TIMEOUT_S:
            raise NoProgramError(f"{name} isn't built after {BUILD_TIMEOUT_S} s")
        if now - told >= pause:
            compiled = sum(not line.startswith("go: ") for line in log)
            fetched = len(log) - compiled
            say(f"{name}: {now - started:.0f} s, {fetched} modules fetched, {compiled} packages compiled")
            told, pause = now, min(2 * pause, LONGEST_SILENCE_S)
        try:
            line = lines.get(timeout=max(0.0, told + pause - now))
        except queue.Empty:
            continue
        if line is None:
            return log
        log.append(line)
