"""The virtual environments that are compared: each has what its users install, and nothing of the developer's.

The plain one is ``pip install mlflow psycopg2-binary google-cloud-storage``; Gatehouse's is what its image has. Both
are locked to the same versions (requirements/plain.txt, requirements/server.txt) and compiled beforehand, as an image
is.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local.proxy_binary import ROOT

UV = Path(sys.executable).parent / "uv"


def run(*command: str | Path) -> None:
    """Run a command; its output is shown if it fails.

    Raises:
        RuntimeError: with the output.
    """
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def install(lock: str) -> Path:
    """Return the folder of programs of an environment with the packages of ``requirements/LOCK.txt``, made if need be."""
    file = ROOT / "requirements" / f"{lock}.txt"
    key = hashlib.sha256(file.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / ".build" / "bench" / f"{lock}-{key}"
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
        # A lock is complete: what a package asks for besides isn't wanted.
        run(UV, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", "--python", python, file)
        done.touch()
    return folder / "bin"


@functools.cache
def install_gatehouse() -> Path:
    """Return the folder of programs of the server's environment, with this checkout as it is now."""
    programs = install("server")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
        [wheel] = Path(folder).glob("*.whl")
        python = programs / "python"
        run(
            UV, "pip", "install", "--quiet", "--no-deps", "--reinstall", "--compile-bytecode", "--python", python, wheel
        )
    return programs
