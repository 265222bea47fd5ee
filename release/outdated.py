"""Which pin is behind: ``python -m release.outdated``. It changes nothing.

Python: what a fresh resolution would choose (so a release that can't be installed isn't one), also for what is pinned
exactly. Go: the modules of the programs that are built, and Go itself within its line. npm: Azurite. What no registry
here can tell, it says.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from local.go_program import ROOT

REQUIREMENTS = ROOT / "requirements"
LIMIT_S = 300
#: Locks that stay behind on purpose; the .in file says why.
HELD = ("older-mlflow",)
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.M)


@dataclass(frozen=True, order=True)
class Pin:
    """A pinned part: where, what, its version and the newest that could be taken (the empty string: can't be told)."""

    home: str
    name: str
    version: str
    newest: str


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    try:
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"outdated: {error}", file=sys.stderr)
        return ""
    if done.returncode != 0:
        print(f"outdated: {command[0]}: {done.stderr.strip()[-400:]}", file=sys.stderr)
        return ""
    return done.stdout


def python_pins() -> list[Pin]:
    """Return every pin of every lock file."""
    found: dict[tuple[str, str, str], Pin] = {}
    with tempfile.TemporaryDirectory() as folder:
        free = Path(folder)
        for source in (*REQUIREMENTS.glob("*.in"), REQUIREMENTS / "not-in-server.txt"):
            (free / source.name).write_text(re.sub(r"==[0-9][^ ;]*", "", source.read_text()))
        for lock in sorted(REQUIREMENTS.glob("*.in")):
            if lock.stem in HELD:
                continue
            command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-header"]
            if lock.stem in ("server", "all-stores"):
                command += ["--override", str(free / "not-in-server.txt")]
            text = _run(sys.executable, "-m", *command, free / lock.name)
            # One name can have several versions, each for some releases of Python.
            newest = {name: [pin[1] for pin in PIN.findall(text) if pin[0] == name] for name, _ in PIN.findall(text)}
            for name, version in PIN.findall((REQUIREMENTS / f"{lock.stem}.txt").read_text()):
                known = newest.get(name, [version] if newest else [""])
                best = version if version in known else known[-1]
                found.setdefault((name, version, best), Pin(f"requirements/{lock.stem}.txt", name, version, best))
    return list(found.values())


def go_pins() -> list[Pin]:
    """Return the programs that are built with Go; what they need in turn is their makers' choice."""
    found = []
    for file in sorted(ROOT.glob("**/go.mod")):
        if any(part.startswith(".") for part in file.relative_to(ROOT).parts):
            continue
        for tool in re.findall(r"^tool (\S+)", file.read_text(), re.M):
            module = _run("go", "list", "-f", "{{.Module.Path}}", tool, cwd=file.parent).strip()
            form = "{{.Version}} {{with .Update}}{{.Version}}{{end}}"
            version, _, update = (
                _run("go", "list", "-m", "-u", "-f", form, module, cwd=file.parent).strip().partition(" ")
            )
            found.append(Pin(str(file.relative_to(ROOT)), module or tool, version, update or version))
    return found


def go_itself() -> list[Pin]:
    """Return the image's Go, and the newest release of its line, which gets the security fixes of the next one too."""
    pinned = re.search(r"^ARG GO=go([0-9.]+)$", (ROOT / "Dockerfile").read_text(), re.M)
    version = pinned[1] if pinned else ""
    line = version.rpartition(".")[0]
    served = _run("go", "list", "-m", "-versions", "go").split()
    numbers = [
        int(release.rpartition(".")[2]) for release in served if re.fullmatch(rf"{re.escape(line)}\.[0-9]+", release)
    ]
    return [Pin("Dockerfile", "go", version, f"{line}.{max(numbers)}" if numbers else "")]


def npm_pins() -> list[Pin]:
    """Return Azurite, the tests' Azure server."""
    folder = ROOT / "tests" / "artifacts" / "servers" / "azure"
    npm = shutil.which("npm")
    found = []
    for name, version in json.loads((folder / "package.json").read_text())["dependencies"].items():
        newest = _run(npm, "view", name, "version").strip() if npm else ""
        found.append(Pin(str((folder / "package.json").relative_to(ROOT)), name, version, newest))
    return found


def base_image() -> list[Pin]:
    """Return the base image: its registry is asked by Docker, where it can be reached."""
    pinned = re.search(r"^ARG DEBIAN=debian:(\S+?)@(sha256:\S+)", (ROOT / "Dockerfile").read_text(), re.M)
    if not pinned:
        return []
    tag, digest = pinned.groups()
    found = _run("docker", "manifest", "inspect", "--verbose", "debian:trixie-slim")
    newest = next(iter(re.findall(r"sha256:[0-9a-f]{64}", found)), "")
    return [Pin("Dockerfile", f"debian:{tag}", digest[:19], newest[:19])]


def main() -> int:
    """Print what is behind, then what can't be told."""
    pins = sorted([*python_pins(), *go_pins(), *go_itself(), *npm_pins(), *base_image()])
    behind = [pin for pin in pins if pin.newest and pin.newest != pin.version]
    for pin in behind:
        print(f"{pin.name} {pin.version} -> {pin.newest}    {pin.home}")
    for pin in pins:
        if not pin.newest:
            print(f"{pin.name} {pin.version}: can't be told here    {pin.home}")
    print(
        f"{len(behind)} of {len(pins)} pins are behind; make lock UPGRADE=1 takes Python's, go get -tool NAME@latest "
        "Go's"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
