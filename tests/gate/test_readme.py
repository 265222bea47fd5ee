"""The README's tables are those of the code."""

from __future__ import annotations

import re

from gatehouse.exit_codes import Exit
from gatehouse.start.settings import TABLE
from local.proxy_binary import ROOT

README = (ROOT / "README.md").read_text()


def section(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.S)
    assert match
    return match[1]


def test_the_table_of_settings_is_the_codes() -> None:
    rows = [
        f"| `{s.name}`{' (or `_FILE`)' if s.secret else ''} | {s.help} |{f' `{s.default}`' if s.default else ''} |"
        for s in TABLE
    ]
    assert section("settings").splitlines()[2:] == rows


def test_the_table_of_exit_codes_is_the_codes() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d+) ", section("exit codes"), re.M)] == sorted(Exit)


def test_start_sh_uses_the_same_exit_codes() -> None:
    constants = re.findall(r"exit (\d+) # Exit\.([A-Z_]+)", (ROOT / "start.sh").read_text())
    assert constants
    assert all(Exit[name] == int(code) for code, name in constants)


def test_the_readme_stays_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for target in re.findall(r"\]\(((?!https?://)[^)#]+)", README):
        assert (ROOT / target).exists(), target
