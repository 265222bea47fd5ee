"""Find oauth2-proxy at the pinned version, or build it with Go (proxy/build.sh). The pin's home is proxy/go.mod."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from local.go_program import ROOT as ROOT
from local.go_program import NoProgramError, build

MODULE = "github.com/oauth2-proxy/oauth2-proxy/v7"


def pinned_version() -> str:
    """Return the version in proxy/go.mod, as proxy/build.sh marks it, for example ``v7.15.6+gatehouse.2``."""
    match = re.search(rf"{re.escape(MODULE)} (v[0-9.]+)", (ROOT / "proxy" / "go.mod").read_text())
    if not match:
        raise NoProgramError(f"proxy/go.mod doesn't require {MODULE}")
    changes = re.search(r"^readonly CHANGES=(\d+)$", (ROOT / "proxy" / "build.sh").read_text(), re.MULTILINE)
    if not changes:
        raise NoProgramError("proxy/build.sh doesn't count its changes")
    return f"{match[1]}+gatehouse.{changes[1]}"


def version_of(binary: str | Path) -> str:
    """Return the version that a binary reports, or the empty string."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.match(r"oauth2-proxy (v\S+)", done.stdout)
    return match[1] if match else ""


def find_or_build(say: Callable[[str], None]) -> Path:
    """Return the path of oauth2-proxy at the pinned version, saying where it comes from.

    A release from the network is no option: no checksum of it was known when this was written.

    Raises:
        NoProgramError: if there is neither the program nor Go.
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
        raise NoProgramError(
            f"oauth2-proxy {version} is neither on PATH nor can it be built: there is no Go\n"
            f"    fix: install Go 1.26 or newer, or put what proxy/build.sh makes on PATH"
        )
    build("oauth2-proxy", MODULE, ROOT / "proxy", built, say, script=ROOT / "proxy" / "build.sh")
    if version_of(built) != version:
        raise NoProgramError(f"{built} says that it is {version_of(built) or 'nothing known'}, not {version}")
    return built


if __name__ == "__main__":
    try:
        find_or_build(lambda line: print(line, file=sys.stderr, flush=True))
    except NoProgramError as error:
        sys.exit(f"make: error: {error}")
