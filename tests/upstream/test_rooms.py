"""The rooms of the house: who may import whom is checked, and the check can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.proxy_binary import ROOT

LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{folder / 'src'}:{folder / 'client/src'}"}
    return subprocess.run(
        [str(LINT), "--no-cache", "--no-logo"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources and of the contracts."""
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    for folder in ("src", "client/src"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("src/gatehouse/request/responses.py", "from gatehouse.start import settings"),
        ("src/gatehouse/request/context.py", "from gatehouse.bodies import budget"),
        ("src/gatehouse/pipeline/access.py", "from gatehouse.dispatch import turns"),
        ("src/gatehouse/operations/router.py", "import gatehouse.policy.roles"),
        ("src/gatehouse/artifacts/stores/local.py", "from gatehouse.artifacts.stores import s3"),
        ("src/gatehouse/artifacts/stores/local.py", "from gatehouse.request import responses"),
        ("src/gatehouse/upstream/routing.py", "def late():\n    from gatehouse.database import schema"),
        ("client/src/mlflow_gatehouse/__init__.py", "import gatehouse"),
    ],
)
def test_a_wrong_import_is_refused(copy: Path, file: str, line: str) -> None:
    with (copy / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert "1 broken" in done.stdout


def test_the_sources_keep_the_contracts(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


def test_every_room_is_in_the_contract_and_says_what_it_promises() -> None:
    contracts = (ROOT / "pyproject.toml").read_text()
    for face in sorted((ROOT / "src" / "gatehouse").glob("*/__init__.py")):
        assert f"gatehouse.{face.parent.name}" in contracts
        assert "Promises" in face.read_text() or face.parent.name == "commands"
