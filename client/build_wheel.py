"""Build the client's wheel: ``python client/build_wheel.py FOLDER``; prints the file's path.

The same sources and the same setuptools give the same bytes, wherever and whenever: the wheel that an image hands out
is the one that its release attaches. Needs setuptools alone, and no network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: 1980-01-01, the first moment that a zip file knows.
EPOCH = "315532800"


def build(folder: Path) -> Path:
    """Build the wheel into ``folder``, in place of one that is there; return its path."""
    from setuptools import build_meta

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="gatehouse-wheel.") as made:
        # A copy: setuptools leaves its traces beside what it builds, and a file's mode depends on who checked it out.
        tree = Path(made) / "client"
        shutil.copytree(HERE, tree, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build", "dist"))
        for path in tree.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.environ["SOURCE_DATE_EPOCH"] = EPOCH
        sys.dont_write_bytecode = (
            False  # else setuptools warns that it won't compile, which a wheel of sources never asks for
        )
        os.umask(0o022)
        os.chdir(tree)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                name = build_meta.build_wheel(str(made), {"--global-option": ["--quiet"]})
        finally:
            os.chdir(before)
        # Whoever looks meanwhile sees the old wheel or the new one, whole.
        arriving = folder / f".{name}.{os.getpid()}"
        shutil.copyfile(Path(made) / name, arriving)
        return arriving.replace(folder / name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python client/build_wheel.py FOLDER")
    print(build(Path(sys.argv[1])))
