"""What nobody was asked about isn't called clean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from release import audit

LOOKED_AT = {"name": "requests", "version": "2.33.0", "vulns": []}
FLAWED = {"name": "idna", "version": "3.6", "vulns": [{"id": "PYSEC-2024-60", "fix_versions": ["3.7"], "aliases": []}]}
SKIPPED = {"name": "mlflow", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def answer(*packages: Mapping[str, object]) -> audit.Answer:
    return audit.python_answer("Python", json.dumps({"dependencies": packages, "fixes": []}))


def test_a_package_that_was_skipped_leaves_the_question_open() -> None:
    """pip-audit prints "No known vulnerabilities found" and exits 0 with every package skipped, as behind a mirror."""
    told = answer(LOOKED_AT, SKIPPED)
    assert told.clean is None
    assert "1 of 2 packages weren't looked at" in told.text


def test_a_finding_counts_also_beside_a_skipped_one() -> None:
    told = answer(SKIPPED, FLAWED)
    assert told.clean is False
    assert told.text == "idna 3.6: PYSEC-2024-60, fixed in 3.7"


def test_all_looked_at_and_nothing_found_is_clean() -> None:
    assert answer(LOOKED_AT).clean is True


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"dependencies": []}', "no JSON"])
def test_no_report_is_no_answer(report: str) -> None:
    assert audit.python_answer("Python", report, "connection refused").clean is None


def test_the_real_pip_audit_says_which_it_is(tmp_path: Path) -> None:
    """A release with published flaws is found where the advisories can be had, and never called clean where they can't."""
    lock = tmp_path / "lock.txt"
    lock.write_text(f"requests==2.19.0 --hash=sha256:{'0' * 64}\n")
    assert audit.python_packages(lock).clean in {False, None}


def test_findings_win_over_open_questions_in_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    clean, found, open_ = audit.Answer("a", True, ""), audit.Answer("b", False, "x"), audit.Answer("c", None, "y")
    assert audit.report([clean]) == 0
    assert audit.report([clean, open_]) == 75
    assert audit.report([open_, found, clean]) == 1
    assert "can't be told" in capsys.readouterr().out
