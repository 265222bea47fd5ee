"""Build gatehouse-listener from the folder `listener`, once for each state of its sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from local.proxy_binary import BUILD_TIMEOUT_S, ROOT, NoProxyError


def find_or_build_listener(say: Callable[[str], None]) -> Path:
    """Return the path of the program.

    Raises:
        NoProxyError: if it isn't built and can't be.
    """
    sources = sorted((ROOT / "listener").iterdir())
    digest = hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:12]
    built = ROOT / ".build" / f"listener-{digest}" / "gatehouse-listener"
    if built.exists():
        return built
    if not shutil.which("go"):
        raise NoProxyError(
            "HTTP2=true needs gatehouse-listener, and there is no Go to build it\n    fix: install Go 1.26"
        )
    say("gatehouse-listener: building it with Go")
    built.parent.mkdir(parents=True, exist_ok=True)
    # Several may build at once; each replaces the other's by the same.
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{folder}/{built.name}", "."]
        done = subprocess.run(
            command, cwd=ROOT / "listener", env={**os.environ, "CGO_ENABLED": "0"},
            capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise NoProxyError(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
        (Path(folder) / built.name).replace(built)
    return built
