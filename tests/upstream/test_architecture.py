"""docs/architecture.md tells the trips by file and name: these are there, in the order in which they are composed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from local.proxy_binary import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
SOURCES = ROOT / "src" / "gatehouse"
STOPS = re.findall(r"`([\w/]+\.py)` `(\w+)`", PAGE)
MENTIONED = sorted(set(re.findall(r"`([\w/]+\.(?:py|svg|md))`", PAGE)))
CORE = re.findall(r"`([\w/]+\.py)`", PAGE.partition("<!-- core path -->")[2].partition("<!-- /core path -->")[0])
#: Lines, blank ones and comments included, that one reads in half an hour.
READABLE = 1500


def defined(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


@pytest.mark.parametrize(("file", "name"), STOPS)
def test_every_stop_is_there(file: str, name: str) -> None:
    assert name in defined(SOURCES / file)


@pytest.mark.parametrize("file", MENTIONED)
def test_every_file_is_there(file: str) -> None:
    assert (SOURCES / file).is_file()


def test_the_layers_are_told_in_the_order_that_requests_meet_them() -> None:
    source = (SOURCES / "start" / "application.py").read_text()
    composed = re.findall(r"\b([A-Z]\w+Layer|Dispatcher)\b", source[source.index("layers: list[Layer] = [") :])
    order = list(dict.fromkeys(composed))
    assert order == [name for _, name in STOPS if name in set(order)]


def test_every_room_has_its_paragraph() -> None:
    for face in sorted(SOURCES.glob("*/__init__.py")):
        assert f"**{face.parent.name}**" in PAGE


def test_the_core_path_is_short_enough_to_be_read_in_half_an_hour() -> None:
    whole = {f"{room}/{file.name}" for room in ("pipeline", "request") for file in (SOURCES / room).glob("*.py")}
    assert whole - {"pipeline/__init__.py", "request/__init__.py"} <= set(CORE)
    assert {"audit/layer.py", "bodies/layer.py", "dispatch/dispatcher.py"} <= set(CORE)
    assert sum(len((SOURCES / file).read_text().splitlines()) for file in CORE) < READABLE


def test_each_decision_has_a_number_of_its_own_and_says_it() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert sorted(set(numbers)) == numbers
    assert [page.name for page in pages if not page.read_text().startswith(f"# {int(page.name[:4])}. ")] == []


def test_docstrings_have_one_dialect() -> None:
    """ruff holds what Google's style has; that nothing of Sphinx's is in them, it can't tell."""
    files = [file for folder in ("src", "client/src", "deploy", "local") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    fields = re.compile(r"^\s*:(param|type|raises?|returns?|rtype)\b.*:", re.MULTILINE)
    assert [str(file) for file in files if fields.search(file.read_text())] == []
