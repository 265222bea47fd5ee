"""What runs with the project's rights at GitHub is named by the commit, which nobody can move."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from local.go_program import ROOT

WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "deploy" / "github-workflow.yaml"]
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
USES = re.compile(r"\buses: *([^\s#]+)( *# *v\d+\.\d+\.\d+)?")


@pytest.mark.parametrize("file", WORKFLOWS + DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_action_is_pinned_by_commit_with_its_release_beside_it(file: Path) -> None:
    found = USES.findall(file.read_text())
    assert found or file not in WORKFLOWS
    loose = [
        name
        for name, release in found
        if not name.startswith("./") and not (re.search(r"@[0-9a-f]{40}$", name) and release)
    ]
    assert loose == []


def test_one_action_has_one_pin() -> None:
    """Two commits of one action are one that was forgotten."""
    pins: dict[str, set[str]] = {}
    for file in WORKFLOWS + DOCUMENTS:
        for name, _release in USES.findall(file.read_text()):
            action, _, commit = name.partition("@")
            if commit:
                pins.setdefault(action, set()).add(commit)
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}
