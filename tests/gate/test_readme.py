"""The README's tables are those of the code, and prose is narrow enough to be read beside code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gatehouse.exit_codes import Exit
from gatehouse.start.settings import TABLE
from local.proxy_binary import ROOT

README = (ROOT / "README.md").read_text()


def section(name: str, page: str = README) -> str:
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.S)
    assert match
    return match[1]


def test_the_table_of_settings_is_the_codes() -> None:
    rows = [
        f"| `{s.name}`{' (or `_FILE`)' if s.secret else ''} | {s.help} |{f' `{s.default}`' if s.default else ''} |"
        for s in TABLE
    ]
    assert section("settings").splitlines()[2:] == rows


def test_the_table_of_exit_codes_is_the_codes() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) ", section("exit codes", page), re.M)] == sorted(Exit)


def test_start_sh_uses_the_same_exit_codes() -> None:
    constants = re.findall(r"exit (\d+) # Exit\.([A-Z_]+)", (ROOT / "start.sh").read_text())
    assert constants
    assert all(Exit[name] == int(code) for code, name in constants)


def test_the_readme_stays_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for target in re.findall(r"\]\(((?!https?://)[^)#]+)", README):
        assert (ROOT / target).exists(), target


def prose(page: str) -> list[str]:
    """Return the lines of a page without tables, pictures and what is indented or fenced as code."""
    outside = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    return [line for line in outside.splitlines() if not line.startswith(("|", "![", "    "))]


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "client" / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_wider_than_120(page: Path) -> None:
    assert [line for line in prose(page.read_text()) if len(line) > 120] == []
