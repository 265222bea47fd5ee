"""Private names of other packages: each is in one room, in one table, and still what it was."""

from __future__ import annotations

import ast
import io
import random
import re
import warnings
from pathlib import Path

import pytest

from gatehouse.upstream import names, routing
from local.proxy_binary import ROOT

SOURCES = ROOT / "src" / "gatehouse"
FILES = sorted(file for file in SOURCES.rglob("*.py") if "client" not in file.relative_to(SOURCES).parts)
OTHERS = ("mlflow", "fastapi", "starlette", "werkzeug", "alembic", "flask", "uvicorn", "sqlalchemy", "pydantic")


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def uses(file: Path) -> set[str]:
    """Return the private names of other packages that a file imports, takes off something that it imported, or sets."""
    found: set[str] = set()
    foreign: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OTHERS:
            found |= {alias.name for alias in node.names if private(alias.name)}
            found |= {part for part in (node.module or "").split(".") if private(part)}
            foreign |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            foreign |= {alias.name.partition(".")[0] for alias in node.names if alias.name.partition(".")[0] in OTHERS}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"_MLFLOW_\w", node.value):
            found.add(node.value)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and private(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and root.id in foreign:
                found.add(node.attr)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCES)))
def test_only_the_upstream_room_knows_private_names(file: Path) -> None:
    if file.relative_to(SOURCES).parts[0] == "upstream":
        known = {part for name in names.NAMES for part in name.where.partition(":")[2].split(".")} | set(
            names.VARIABLES
        )
        assert uses(file) <= known, "add these to gatehouse/upstream/names.py"
    else:
        assert uses(file) == set(), "put these behind a function of gatehouse/upstream"


def test_a_private_name_elsewhere_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from mlflow.server import handlers\nfrom mlflow.store.db.utils import _a\nimport flask\n"
        "handlers._b()\nflask.x.y()._c\nself._d\nE = '_MLFLOW_E'\n"
    )
    assert uses(file) == {"_a", "_b", "_c", "_MLFLOW_E"}


def test_each_private_name_is_what_it_was() -> None:
    assert names.problems() == []


def test_a_name_that_is_gone_or_takes_something_else_is_told() -> None:
    gone = names.Name("mlflow.server.handlers:_no_such_function", "nothing", "none", ())
    assert "is gone" in str(gone.problem())
    changed = names.Name("mlflow.server.handlers:_get_tracking_store", "nothing", "none", ("another",))
    assert "not (another, …)" in str(changed.problem())
    assert names.variable_problem("_MLFLOW_OTHER", "mlflow.server.constants:ARTIFACT_ROOT_ENV_VAR")


def test_every_guard_is_a_test_that_is_there() -> None:
    assert {name.guard for name in names.NAMES if not (ROOT / name.guard).is_file()} == set()


def test_the_wsgi_environment_is_the_one_that_starlette_made() -> None:
    """Starlette's function is deprecated, so ours is its copy: the same for any request."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its deprecation
        from starlette.middleware.wsgi import build_environ

    draw = random.Random(3)  # noqa: S311
    for _ in range(200):
        scope = {
            "type": "http",
            "http_version": draw.choice(["1.0", "1.1", "2"]),
            "method": draw.choice(["GET", "POST", "PATCH"]),
            "scheme": draw.choice(["http", "https"]),
            "path": draw.choice(["/", "/api/2.0/mlflow/runs/get", "/mlflow/ü/ %2F", "/a" * 40]),
            "root_path": draw.choice(["", "/mlflow", "/ä"]),
            "query_string": draw.choice([b"", b"a=b&c=%C3%BC"]),
            "server": draw.choice([None, ("gate", 80), ("gate", None)]),
            "client": draw.choice([None, ("192.0.2.1", 0)]),
            "headers": [
                (
                    draw.choice([b"host", b"content-type", b"content-length", b"x-a", b"cookie"]),
                    draw.choice([b"", b"1", b"\xe4"]),
                )
                for _ in range(draw.randrange(6))
            ],
        }
        body = draw.choice([b"", b"{}"])
        ours, theirs = routing.build_environ(scope, body), build_environ(scope, body)
        for environ in (ours, theirs):
            environ["wsgi.input"] = environ["wsgi.input"].read()
            assert isinstance(environ.pop("wsgi.errors"), io.TextIOBase)
        assert list(ours.items()) == list(theirs.items())
