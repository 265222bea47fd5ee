"""docs/upstream: each patch applies to what is pinned here, does what its text says, and is on the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from local.proxy_binary import ROOT

PATCHES = sorted((ROOT / "docs" / "upstream").glob("*.patch"))
OF_MLFLOW = [patch for patch in PATCHES if patch.name.startswith("mlflow-")]
OF_PROXY = [patch for patch in PATCHES if patch.name.startswith("oauth2-proxy-")]


def package() -> Path:
    """The folder of the installed MLflow."""
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def apply(patch: Path, folder: Path, *options: str) -> None:
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--batch", *options, "-d", str(folder), "-i", str(patch)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("patch", OF_MLFLOW, ids=lambda patch: patch.stem)
def test_it_applies_to_the_pinned_mlflow(patch: Path) -> None:
    apply(patch, package().parent, "--dry-run")


@pytest.mark.parametrize("patch", OF_PROXY, ids=lambda patch: patch.stem)
def test_it_applies_to_the_pinned_oauth2_proxy(patch: Path) -> None:
    module = "github.com/oauth2-proxy/oauth2-proxy/v7"
    subprocess.run(["go", "mod", "download", module], cwd=ROOT / "proxy", check=True, capture_output=True)
    listed = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", module], cwd=ROOT / "proxy", check=True, capture_output=True, text=True
    )
    apply(patch, Path(listed.stdout.strip()), "--dry-run")


def test_the_proxy_is_built_with_what_its_patch_changes() -> None:
    patch = (ROOT / "docs" / "upstream" / "oauth2-proxy-path-cleaning.patch").read_text()
    changes = re.findall(r"^change (\S+) '(.*)' '(.*)'$", (ROOT / "proxy" / "build.sh").read_text(), re.MULTILINE)
    hunks = patch.split("\n+++ b/")[1:]
    assert len(hunks) == 2
    for hunk in hunks:
        file = hunk.partition("\n")[0]
        (gone,) = re.findall(r"^-(?!--)(.*)$", hunk, re.MULTILINE)
        (come,) = re.findall(r"^\+(.*)$", hunk, re.MULTILINE)
        assert come in [gone.replace(old, new) for changed, old, new in changes if changed == file and old in gone]


def look(folder: Path) -> dict[str, bool]:
    """Return which of the patches hold in the MLflow of a folder."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("patched.py"))],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, bool] = json.loads(done.stdout)
    return found


def test_each_changes_what_its_text_says(tmp_path: Path) -> None:
    """All of MLflow's patches together, on a copy of links; beside them, MLflow as it is installed."""
    shutil.copytree(package(), tmp_path / "mlflow", copy_function=os.symlink, symlinks=True)
    for patch in OF_MLFLOW:
        for line in patch.read_text().splitlines():
            if line.startswith("+++ b/"):
                file = tmp_path / line.removeprefix("+++ b/")
                content = file.read_bytes()
                file.unlink()
                file.write_bytes(content)
        apply(patch, tmp_path, "--no-backup-if-mismatch")
    names = {patch.name for patch in OF_MLFLOW}
    assert look(tmp_path) == dict.fromkeys(names, True)
    assert look(package().parent) == dict.fromkeys(names, False)


def test_the_page_has_each_patch_and_the_versions() -> None:
    page = (ROOT / "docs" / "upstream" / "README.md").read_text()
    assert [patch.name for patch in PATCHES if f"]({patch.name})" not in page] == []
    assert f"MLflow {version('mlflow')}" in page
    pinned = (
        (ROOT / "proxy" / "go.mod").read_text().partition("github.com/oauth2-proxy/oauth2-proxy/v7 v")[2].split()[0]
    )
    assert f"oauth2-proxy {pinned}" in page
