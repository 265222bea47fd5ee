"""The bill of materials names what is in the image:

no package less than the image's own tools list, and at the same version.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from local.go_program import ROOT
from tests.container.parts import GATEHOUSE
from tests.support import missing


@pytest.fixture(scope="module")
def parts(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[str, str]]]:  # noqa: ARG001
    """Names and versions by kind, as `make sbom` writes them."""
    file = tmp_path_factory.mktemp("sbom") / "image.cdx.json"
    command = [str(ROOT / ".venv" / "bin" / "python"), "-m", "release.sbom", GATEHOUSE, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, set[tuple[str, str]]] = {}
    for part in json.loads(file.read_text())["components"]:
        if url := part.get("purl"):
            kind = url.removeprefix("pkg:").split("/", 1)[0]
            found.setdefault(kind, set()).add((part["name"], unquote(part["version"])))
    return found


def in_image(*command: str) -> str:
    """Return what a program in the image prints."""
    run = ["docker", "run", "--rm", "--network", "none", "--entrypoint", command[0], GATEHOUSE, *command[1:]]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout


def pairs(text: str) -> set[tuple[str, str]]:
    return {(name, version) for name, version in (line.split() for line in text.splitlines())}


def test_debian_packages(parts: dict[str, set[tuple[str, str]]]) -> None:
    listed = in_image("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n")
    assert parts["deb"] == pairs(listed)


def test_python_distributions(parts: dict[str, set[tuple[str, str]]]) -> None:
    program = "from importlib.metadata import distributions as d; [print(x.metadata['Name'], x.version) for x in d()]"
    listed = pairs(in_image("/opt/gatehouse/bin/python", "-c", program))

    def same(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
        return {(name.lower().replace("_", "-").replace(".", "-"), version) for name, version in found}

    assert same(listed) <= same(parts["pypi"])


def test_go_modules(parts: dict[str, set[tuple[str, str]]], tmp_path: Path) -> None:
    program = tmp_path / "oauth2-proxy"
    with program.open("wb") as file:
        run = ["docker", "run", "--rm", "--entrypoint", "cat", GATEHOUSE, "/usr/local/bin/oauth2-proxy"]
        subprocess.run(run, stdout=file, timeout=120, check=True)
    try:
        done = subprocess.run(["go", "version", "-m", program], capture_output=True, text=True, timeout=60, check=True)
    except FileNotFoundError:
        missing("Go", "install Go 1.26 or newer")
    lines = [line.split() for line in done.stdout.splitlines()]
    listed = {(line[1], line[2]) for line in lines if len(line) > 2 and line[0] == "dep"}
    assert listed
    assert listed <= parts["golang"]
