"""Each route of the installed MLflow has a class, and the router finds the one that MLflow will serve."""

from __future__ import annotations

import ast
import inspect
import os
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.operations import graphql, router, table
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Router


def load_mlflow() -> tuple[Any, Any]:
    """Return MLflow's FastAPI and Flask applications; nothing is opened before a request comes."""
    os.environ.setdefault("_MLFLOW_SERVER_FILE_STORE", "sqlite:////nonexistent/mlflow.db")
    os.environ.setdefault("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.server import app as flask_app
        from mlflow.server.fastapi_app import app
    return app, flask_app


APP, FLASK = load_mlflow()
ROUTER = Router(APP, FLASK)
REGISTERED = list(ROUTER.operations())


def scope(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}


def served_by_mlflow(method: str, path: str) -> str | None:
    """Return the name of the function that MLflow would call, found by dispatching as the frameworks do."""
    from starlette.routing import Match

    for route in APP.router.routes[:-1]:
        if route.matches(scope(method, path))[0] is Match.FULL:
            context = route._match(scope(method, path))[3]
            assert context is not None
            return str(context.original_route.endpoint.__name__)
    environ = {"PATH_INFO": path.encode().decode("latin-1"), "REQUEST_METHOD": method}
    with FLASK.test_request_context(environ_overrides=environ) as context:
        rule = context.request.url_rule
        if rule is None or (method == "OPTIONS" and rule.provide_automatic_options):
            return None
        return str(rule.endpoint)


def test_every_operation_of_the_installed_mlflow_is_classified_and_nothing_else_is() -> None:
    names = {operation for _, _, operation in REGISTERED} - {table.GRAPHQL}
    assert len(names) > 200
    assert sorted(names - set(table.OPERATIONS)) == [], "classify these in gatehouse/operations/table.py"
    assert sorted(set(table.OPERATIONS) - names) == [], "MLflow has these no more"


def test_no_operation_has_two_classes() -> None:
    listed = " ".join((table._READ, table._WRITE, table._ADMIN, table._CLOSED)).split()
    assert sorted(listed) == sorted(set(listed))


def test_every_field_of_the_graphql_schema_is_classified_and_nothing_else_is() -> None:
    from mlflow.server.graphql.graphql_schema_extensions import schema

    graphql = schema.graphql_schema
    assert graphql.subscription_type is None
    fields = {f"query.{name}" for name in graphql.query_type.fields}
    fields |= {f"mutation.{name}" for name in graphql.mutation_type.fields}
    classified = {name for name in table.GRAPHQL_FIELDS if not name.partition(".")[2].startswith("__")}
    assert classified == fields


def test_an_operation_that_is_not_in_the_table_is_for_admins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehouse.operations.router.OPERATIONS", {})
    assert Router(APP, FLASK).find(scope("GET", "/api/2.0/mlflow/runs/get")).access is Access.ADMIN
    assert Router(APP, FLASK).find(scope("POST", "/v1/traces")).access is Access.ADMIN


@pytest.mark.parametrize(
    ("query", "access"),
    [
        ('{ mlflowGetRun(input: {runId: "1"}) { run { info { runId } } } }', Access.READ),
        ("mutation { mlflowSearchRuns(input: {}) { runs { info { runId } } } }", Access.READ),
        ("mutation { mlflowDeleteEverything }", Access.ADMIN),
        ('query a { test(inputString: "x") { output } } mutation b { hidden }', Access.ADMIN),
        ("mutation { ...f } fragment f on Mutation { hidden }", Access.ADMIN),
        ("mutation { ... on Mutation { ...f } } fragment f on Mutation { a: hidden }", Access.ADMIN),
        ("mutation { ...f } fragment f on Mutation { ...g } fragment g on Mutation { ...f hidden }", Access.ADMIN),
        ("query { harmless: mlflowDeleteEverything }", Access.ADMIN),
        ("subscription { test }", Access.ADMIN),
    ],
)
def test_a_graphql_document_is_as_dangerous_as_its_worst_field(query: str, access: Access) -> None:
    assert graphql.graphql_access(query)[0] is access


def fill(path: str) -> str:
    """Return a path template with its variables filled in."""
    return re.sub(r"<[^>]*>|{[^}]*}", "x1", path)


SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda path: path,
    lambda path: path + "/",
    lambda path: path.rstrip("/"),
    lambda path: "/" + path,
    lambda path: path.replace("/", "//", 2),
    lambda path: path.upper(),
    lambda path: path.replace("/mlflow", "/./mlflow"),
    lambda path: "/x/.." + path,
    lambda path: path.replace("mlflow/", "mlflow%2F", 1),
    lambda path: path + "\n",
    lambda path: path + "%00",
    lambda path: path + "\x00",
    lambda path: path + ";a=b",
    lambda path: path.replace("a", "а"),
)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "post", "PROPFIND")


@pytest.mark.parametrize("method", METHODS)
def test_the_router_finds_what_mlflow_serves_for_each_spelling_of_each_route(method: str) -> None:
    wrong = []
    for path in sorted({fill(template) for _, template, _ in REGISTERED}):
        for spell in SPELLINGS:
            spelled = spell(path)
            served = served_by_mlflow(method, spelled)
            found = ROUTER.find(scope(method, spelled)).operation
            if found != (router.operation_name(served) if served else None):
                wrong.append((method, spelled, served, found))
    assert not wrong


@settings(max_examples=400, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    parts=st.lists(
        st.one_of(
            st.sampled_from(sorted({part for _, path, _ in REGISTERED for part in path.split("/")})),
            st.text(max_size=8),
        ),
        max_size=8,
    ),
)
def test_the_router_finds_what_mlflow_serves_for_any_path(method: str, parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    try:
        path.encode()
    except UnicodeEncodeError:
        return  # no server hands on such a path
    served = served_by_mlflow(method, path)
    assert ROUTER.find(scope(method, path)).operation == (router.operation_name(served) if served else None)


def test_a_client_cannot_make_the_router_remember_more_and_more() -> None:
    router = Router(APP, FLASK)
    for number in range(3000):
        router.find(scope("GET", f"/api/3.0/mlflow/traces/tr-{number}"))
        router.find(scope("GET", f"/nowhere/{number}"))
        router.find(scope(f"METHOD{number}", "/"))
    assert len(router._known) < 10


def test_whatever_submits_a_job_is_an_admins() -> None:
    """It runs code on the server and spends a provider's money.

    Found in MLflow's sources, so that a new one can't hide.
    """
    from mlflow.server import handlers, job_api

    submitting = set()
    for module in (handlers, job_api):
        for function in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "submit_job"
                for call in ast.walk(function)
            ):
                submitting.add(function.name.removeprefix("_").removesuffix("_handler"))
    assert "invoke_scorer" in submitting
    assert {name: table.OPERATIONS[name] for name in submitting} == dict.fromkeys(submitting, Access.ADMIN)
    assert table.OPERATIONS["upsert_online_scoring_config"] is Access.ADMIN  # MLflow submits jobs by it from then on
