"""docs/clients.md says what the code does."""

from __future__ import annotations

import re

from local.proxy_binary import ROOT
from mlflow_gatehouse import errors
from mlflow_gatehouse.cli import COMMANDS
from mlflow_gatehouse.sources import DECIDING, SOURCES

DOCS = (ROOT / "docs" / "clients.md").read_text()
CLIENT = "".join(path.read_text() for path in sorted((ROOT / "client" / "src").rglob("*.py")))


def section(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", DOCS, re.S)
    assert match
    return match[1]


def test_the_order_of_the_sources_is_the_codes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section("sources"), re.M)
    assert rows == [(source.name, source.summary) for source in SOURCES]


def test_every_variable_of_ours_is_documented() -> None:
    documented = re.findall(r"^\| `(GATEHOUSE_\w+)`", section("settings"), re.M)
    assert sorted(documented) == sorted(set(re.findall(r"GATEHOUSE_[A-Z_]+", CLIENT)))
    assert set(DECIDING) <= set(re.findall(r"[A-Z_]{6,}", DOCS))


def test_the_exit_codes_are_the_codes() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EX_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) ", section("exit codes"), re.M)} == codes


def test_the_commands_exist() -> None:
    assert set(re.findall(r"mlflow-gatehouse (\w+)", DOCS)) <= set(COMMANDS)
