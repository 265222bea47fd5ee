"""Find oauth2-proxy at the pinned version, or build it with Go. The pin's home is proxy/go.mod."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE = "github.com/oauth2-proxy/oauth2-proxy/v7"
BUILD_TIMEOUT_S = 900


class NoProxyError(Exception):
    """oauth2-proxy can be neither found nor built."""


def pinned_version() -> str:
    """Return the version in proxy/go.mod, for example ``v7.15.4``."""
    match = re.search(rf"{re.escape(MODULE)} (v[0-9.]+)", (ROOT / "proxy" / "go.mod").read_text())
    if not match:
        raise NoProxyError(f"proxy/go.mod doesn't require {MODULE}")
    return match[1]


def version_of(binary: str | Path) -> str:
    """Return the version that a binary reports, or the empty string."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.match(r"oauth2-proxy (v[0-9.]+)", done.stdout)
    return match[1] if match else ""


def find_or_build(say: Callable[[str], None]) -> Path:
    """Return the path of oauth2-proxy at the pinned version, saying where it comes from.

    A release from the network is no option: no checksum of it was known when this was written.

    Raises:
        NoProxyError: if there is neither the program nor Go.
    """
    version = pinned_version()
    on_path = shutil.which("oauth2-proxy")
    if on_path and version_of(on_path) == version:
        say(f"oauth2-proxy {version}: found on PATH, {on_path}")
        return Path(on_path)
    built = ROOT / ".build" / f"oauth2-proxy-{version}" / "oauth2-proxy"
    if version_of(built) == version:
        say(f"oauth2-proxy {version}: built before, {built.relative_to(ROOT)}")
        return built
    if on_path:
        say(f"oauth2-proxy on PATH is {version_of(on_path) or 'of unknown version'}, not {version}: not used")
    if not shutil.which("go"):
        raise NoProxyError(
            f"oauth2-proxy {version} is neither on PATH nor can it be built: there is no Go\n"
            f"    fix: install Go 1.26 or newer, or put oauth2-proxy {version} on PATH"
        )
    say(f"oauth2-proxy {version}: building it with Go (a minute or two, once)")
    built.parent.mkdir(parents=True, exist_ok=True)
    flags = f"-s -w -X {MODULE}/pkg/version.VERSION={version}"
    command = ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(built), MODULE]
    done = subprocess.run(
        command, cwd=ROOT / "proxy", capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0 or version_of(built) != version:
        raise NoProxyError(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
    return built
