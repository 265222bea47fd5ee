"""What the database writes is what MLflow would have answered: byte for byte, for any filter, order and page."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mlflow.entities import (
    Dataset,
    DatasetInput,
    ExperimentTag,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)

from gatehouse.database.reads import text
from gatehouse.start.settings import parse_database
from tests.database.ways import Ways, unordered
from tests.support import Gate, Postgres

#: A failing example is told as it was drawn: making it smaller asks both ways hundreds of times.
DRAWN = (Phase.explicit, Phase.reuse, Phase.generate)
RUNS = "/api/2.0/mlflow/runs"
METRICS = "/api/2.0/mlflow/metrics"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search"
INTERVAL = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
#: Numbers whose printing differs between Python and PostgreSQL, and what MLflow stores in another way.
NUMBERS = [
    0.0, -0.0, 1.0, -1.5, 1 / 3, 1e-320, 5e-324, 1.7e308, float("nan"), float("inf"), float("-inf"), 1e15, 123456789012345678.0,
    999999999999999.0, 1e16, 1e22, 1e23, 2**53 + 2.0, 8.41e21, 1e-4, 1e-5, 1.5e-7,
]  # fmt: skip
TEXTS = ["", "a", "3", "10", "a/b", 'quote"\\', "line\nbreak\ttab", "ü€😀", "\x7f\x1f", "x" * 500, "%_", "null"]
PARAMS = ["p", "a b", "ü", "n.dots"]
TAGS = ["t", "mlflow.source.name", "team"]
KEYS = ["loss", "a/b", "acc"]


#: MLflow's Flask application has these from whichever test set its checks up first; in the gate a layer in front of all
#: answers puts them there.
SECURITY = {b"x-content-type-options", b"x-frame-options"}


def fill(ways: Ways, database: str) -> None:
    """Make runs of which each has something that another hasn't."""
    store = ways.store
    ways.experiments = [store.create_experiment(f"experiment {n} ü") for n in range(3)]
    store.set_experiment_tag(ways.experiments[0], ExperimentTag("team", 'vision "1"'))
    store.set_experiment_tag(ways.experiments[1], ExperimentTag("team", "text"))
    store.set_experiment_tag(ways.experiments[1], ExperimentTag("a b", "ü"))
    for number in range(24):
        experiment = ways.experiments[number % 2]
        tags = [RunTag(tag, TEXTS[(number + n) % len(TEXTS)]) for n, tag in enumerate(TAGS) if (number + n) % 3]
        run = store.create_run(experiment, "u", 1000 + number // 3, tags, f"run {number % 5} ü").info.run_id
        ways.runs.append(run)
        metrics = [
            Metric(key, NUMBERS[(number + n) % len(NUMBERS)], number, number % 4)
            for n, key in enumerate(KEYS)
            if (number + n) % 4
        ]
        params = [Param(key, TEXTS[(number * 2 + n) % len(TEXTS)]) for n, key in enumerate(PARAMS) if (number + n) % 3]
        store.log_batch(run, metrics, params, [])
        if number % 3 == 0:
            store.update_run_info(run, 3, 2000 + number, None)
        if number % 6 == 0:
            named = [InputTag("mlflow.data.context", "train"), InputTag("more", "x")][: number % 4]
            found = [
                DatasetInput(Dataset(f"d{n}", uuid.uuid4().hex[:8], "local", "s", "schema"), named) for n in range(2)
            ]
            models = [store.create_logged_model(experiment, f"m{n}", run).model_id for n in range(3)]
            store.log_inputs(run, found, [LoggedModelInput(models[0])])
            store.log_outputs(run, [LoggedModelOutput(models[1], 0), LoggedModelOutput(models[2], 7)])
    store.log_batch(ways.runs[0], [Metric("long", n / 7, 10 - n % 5, n // 3) for n in range(60)], [], [])
    store.log_batch(ways.runs[1], [Metric("long", NUMBERS[n], 1, n) for n in range(len(NUMBERS))], [], [])
    for run in ways.runs[-4:-2]:
        store.delete_run(run)
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        # As runs of MLflow before 1.30 are.
        cursor.execute("UPDATE runs SET name = '' WHERE run_uuid = %s", (ways.runs[2],))
        cursor.execute("UPDATE runs SET name = NULL WHERE run_uuid = ANY(%s)", (ways.runs[3:5],))
        cursor.execute("DELETE FROM tags WHERE run_uuid = %s", (ways.runs[4],))


@pytest.fixture(scope="module")
def ways(postgres: Postgres) -> Iterator[Ways]:
    """Both ways, on a database with runs."""
    database = postgres.create("reads")
    both = Ways(parse_database(database))
    try:
        fill(both, database)
        yield both
    finally:
        both.close()


def quoted(value: str) -> str:
    return "'" + value.replace("'", "") + "'"


def clauses(comparators: str, left: st.SearchStrategy[str], right: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda a, c, b: f"{a} {c} {b}", left, st.sampled_from(comparators.split()), right)


def name(kind: str, keys: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([f"{kind}.`{key}`" for key in keys] + [f'{kind}."{key}"' for key in keys])


# None ends in a backslash: whether a pattern that does is ever looked at depends on the plan.
TEXT = st.sampled_from([quoted(one.rstrip("\\")) for one in [*TEXTS, "%a%", "run 1%", "FINISHED", "none"]])
NUMBER = st.sampled_from(["0", "1.5", "-1", "1e15", "1003", "2006", "1e400", "99999999999999999999"])
LIST = st.lists(TEXT, min_size=1, max_size=3).map(lambda one: f"({', '.join(one)})")
NUMERIC, WORDS = "= != < <= > >=", "= != LIKE ILIKE"
CLAUSE = st.one_of(
    clauses(NUMERIC, name("metrics", [*KEYS, "none"]), NUMBER),
    clauses(WORDS, name("params", [*PARAMS, "none"]), TEXT),
    clauses(WORDS, name("tags", [*TAGS, "mlflow.runName", "none"]), TEXT),
    st.builds(lambda a, b: f"{a} {b}", name("params", PARAMS) | name("tags", TAGS), st.sampled_from(["IS NULL", "IS NOT NULL"])),
    clauses(WORDS, st.sampled_from(["attributes.status", "run_name", "attributes.`run name`", "user_id", "artifact_uri"]), TEXT),
    clauses(NUMERIC, st.sampled_from(["attributes.start_time", "end_time", "created"]), NUMBER),
    st.builds(lambda c, v: f"attributes.run_id {c} {v}", st.sampled_from(["IN", "NOT IN"]), LIST),
    clauses(WORDS, st.sampled_from(["dataset.name", "dataset.digest", "dataset.context"]), st.sampled_from(["'d0'", "'train'", "'%'"])),
    st.builds(lambda c, v: f"dataset.name {c} {v}", st.sampled_from(["IN", "NOT IN"]), st.just("('d0', 'd9')")),
)  # fmt: skip
FILTER = st.lists(CLAUSE, max_size=3).map(" AND ".join)
ORDER = st.lists(
    st.builds(
        lambda a, b: f"{a} {b}".strip(),
        name("metrics", KEYS) | name("params", PARAMS) | name("tags", TAGS)
        | st.sampled_from(["start_time", "attributes.end_time", "run_name", "run_id", "status", "Created", "artifact_uri", "user_id"]),
        st.sampled_from(["", "ASC", "DESC", "asc"]),
    ),
    max_size=3,
    unique_by=lambda clause: clause.split(" ")[0].strip("`"),
)  # fmt: skip


@settings(max_examples=60, deadline=None, phases=DRAWN)
@given(data=st.data(), filter_string=FILTER, order=ORDER)
def test_any_search_of_runs(ways: Ways, data: st.DataObject, filter_string: str, order: list[str]) -> None:
    fields: dict[str, Any] = {
        "experiment_ids": data.draw(st.lists(st.sampled_from([*ways.experiments, "404"]), max_size=3), "experiments"),
        "max_results": data.draw(st.sampled_from([1, 2, 5, 24, 1000, 50000]), "max_results"),
    }
    if filter_string:
        fields["filter"] = filter_string
    if order:
        fields["order_by"] = order
    if view := data.draw(st.sampled_from([None, "ACTIVE_ONLY", "DELETED_ONLY", "ALL"]), "view"):
        fields["run_view_type"] = view
    for _ in range(3):
        answer = json.loads(ways.compare("POST", f"{RUNS}/search", fields))
        if not answer.get("next_page_token"):
            break
        fields["page_token"] = answer["next_page_token"]


def test_every_run(ways: Ways) -> None:
    for run in [*ways.runs, "0" * 32, "nul\0", "ü"]:
        ways.compare("GET", f"{RUNS}/get", {"run_id": run})
        ways.compare("GET", f"{RUNS}/get", {"run_uuid": run, "run_id": run})


@pytest.mark.parametrize("key", [*KEYS, "long", "none", "ü"])
def test_histories(ways: Ways, key: str) -> None:
    for run in [*ways.runs[:8], "0" * 32]:
        fields: dict[str, Any] = {"run_id": run, "metric_key": key}
        ways.compare("GET", f"{METRICS}/get-history", fields)
        for size in (1, 7, 60, 1000):
            fields = {"run_id": run, "metric_key": key, "max_results": size}
            while fields:
                token = json.loads(ways.compare("GET", f"{METRICS}/get-history", fields)).get("next_page_token")
                fields = {**fields, "page_token": token} if token and size > 1 else {}


@settings(max_examples=60, deadline=None, phases=DRAWN)
@given(
    data=st.data(),
    points=st.none() | st.integers(1, 70),
    steps=st.none() | st.tuples(st.integers(-2, 25), st.integers(-2, 25)),
)
def test_any_sample_of_histories(
    ways: Ways, data: st.DataObject, points: int | None, steps: tuple[int, int] | None
) -> None:
    fields: dict[str, Any] = {
        "run_ids": data.draw(st.lists(st.sampled_from([*ways.runs[:3], "0" * 32]), min_size=1, max_size=4), "runs"),
        "metric_key": data.draw(st.sampled_from(["long", "loss", "none"]), "key"),
    }
    if points:
        fields["max_results"] = points
    if steps:
        fields |= {"start_step": steps[0], "end_step": steps[1]}
    ways.compare("GET", INTERVAL, fields)


EXPERIMENT_CLAUSE = st.one_of(
    clauses(WORDS, st.sampled_from(["name", "attribute.name"]), st.sampled_from(["'experiment 1 ü'", "'%ment%'", "'EXP%'", "''"])),
    clauses(NUMERIC, st.sampled_from(["creation_time", "last_update_time"]), st.sampled_from(["0", "99999999999999"])),
    clauses(WORDS, name("tags", ["team", "a b", "none"]), st.sampled_from(["'text'", "'%e%'", "'ü'"])),
    st.builds(lambda a, b: f"{a} {b}", name("tags", ["team", "none"]), st.sampled_from(["IS NULL", "IS NOT NULL"])),
)  # fmt: skip
EXPERIMENT_ORDER = st.builds(
    lambda a, b: f"{a} {b}".strip(),
    st.sampled_from(["name", "creation_time", "experiment_id", "last_update_time"]),
    st.sampled_from(["", "ASC", "DESC"]),
)


@settings(max_examples=40, deadline=None, phases=DRAWN)
@given(
    method=st.sampled_from(["GET", "POST"]),
    found=st.lists(EXPERIMENT_CLAUSE, max_size=2),
    order=st.lists(EXPERIMENT_ORDER, max_size=2),
    size=st.sampled_from([1, 2, 100]),
    view=st.sampled_from([None, "ACTIVE_ONLY", "DELETED_ONLY", "ALL"]),
)
def test_any_search_of_experiments(
    ways: Ways, method: str, found: list[str], order: list[str], size: int, view: str | None
) -> None:
    fields: dict[str, Any] = {"max_results": size}
    if found:
        fields["filter"] = " AND ".join(found)
    if order:
        fields["order_by"] = order
    if view:
        fields["view_type"] = view
    answer = json.loads(ways.compare(method, EXPERIMENTS, fields))
    if token := answer.get("next_page_token"):
        ways.compare(method, EXPERIMENTS, {**fields, "page_token": token})


@pytest.mark.parametrize(
    "fields",
    [
        {"filter": "metrics.loss"}, {"filter": "params.p > 'a'"}, {"filter": "metrics.loss LIKE 'a'"}, {"filter": "nonsense = 1"},
        {"filter": "params.p = 'b' OR params.p = 'd'"}, {"filter": "status IN ('a')"}, {"filter": "metrics.loss IS NULL"},
        {"filter": "params.p LIKE '\\'"}, {"order_by": ["metrics.loss sideways"]}, {"order_by": ["created", "start_time"]},
        {"order_by": ["nonsense"]}, {"max_results": 0}, {"max_results": 50001}, {"page_token": "x"},
        {"page_token": "eyJvZmZzZXQiOiAtMX0="},
    ],
    ids=str,
)  # fmt: skip
def test_what_mlflow_refuses_it_refuses_itself(ways: Ways, fields: dict[str, Any]) -> None:
    before = ways.declined
    ways.compare("POST", f"{RUNS}/search", {"experiment_ids": ways.experiments, **fields})
    assert ways.declined == before + 1


@pytest.mark.parametrize("request_", ["search", "get", "experiments"])
def test_status_and_headers_are_mlflows(ways: Ways, request_: str) -> None:
    search = json.dumps({"experiment_ids": ways.experiments, "max_results": 2}).encode()
    method, path, query, body = {
        "search": ("POST", f"{RUNS}/search", "", search),
        "get": ("GET", f"{RUNS}/get", f"run_id={ways.runs[0]}", b""),
        "experiments": ("GET", EXPERIMENTS, "max_results=2", b""),
    }[request_]
    ours = ways.send(method, path, query, body, content_type="application/json; charset=utf-8")
    theirs = ways.send(method, path, query, body, ways.mlflow, content_type="application/json; charset=utf-8")
    assert ours is not None
    assert theirs is not None

    def headers(answer: tuple[int, list[tuple[bytes, bytes]], bytes]) -> list[tuple[bytes, bytes]]:
        return sorted(header for header in answer[1] if header[0] not in SECURITY)

    assert (ours[0], headers(ours), unordered(ours[2])) == (theirs[0], headers(theirs), unordered(theirs[2]))


def test_the_gate_puts_mlflows_security_headers_on_these_reads_too(gate: Gate) -> None:
    answer = gate.session().get(f"{gate.url}{EXPERIMENTS}", params={"max_results": 1}, timeout=20)
    assert answer.status_code == 200
    assert {name: answer.headers.get(name) for name in ("X-Content-Type-Options", "X-Frame-Options")} == {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
    }


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "headers"),
    [
        ("POST", f"{RUNS}/search", "", b'{"experimentIds": ["1"]}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": "1"}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "max_results": "10"}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "max_results": true}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "max_results": 50001}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "run_view_type": 3}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "page_token": "x"}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "run_view_type": "SOME"}', {}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"], "unknown": 1}', {}),
        ("POST", f"{RUNS}/search", "", b'"{}"', {}),
        ("POST", f"{RUNS}/search", "", b"[" * 100000, {}),
        ("POST", f"{RUNS}/search", "", b"{}", {"content_type": "text/plain"}),
        ("POST", f"{RUNS}/search", "", b'{"experiment_ids": ["1"]}', {"x-mlflow-workspace": "w"}),
        ("GET", f"{RUNS}/get", "run_id=a&run_id=b", b"", {}),
        ("GET", f"{RUNS}/get", "run_id=a&run_uuid=b", b"", {}),
        ("GET", f"{RUNS}/get", "run_id=%ff", b"", {}),
        ("GET", f"{RUNS}/get", "", b'{"run_id": "a"}', {}),
        ("HEAD", f"{RUNS}/get", "run_id=a", b"", {}),
        ("GET", f"{METRICS}/get-history", "run_id=a&metric_key=m&max_results=0", b"", {}),
        ("GET", INTERVAL, "run_ids=a&metric_key=m&start_step=1", b"", {}),
        ("GET", INTERVAL, "run_ids=a&metric_key=m&max_results=2501", b"", {}),
    ],
)  # fmt: skip
def test_what_is_out_of_the_ordinary_is_mlflows_to_judge(
    ways: Ways, method: str, path: str, query: str, body: bytes, headers: dict[str, str]
) -> None:
    assert ways.send(method, path, query, body, None, **headers) is None


@settings(max_examples=300, deadline=None, phases=DRAWN)
@given(value=st.floats())
def test_numbers_are_printed_as_python_prints_them(ways: Ways, value: float) -> None:
    # As text: psycopg2 writes a number without a type, and there is no -0 among PostgreSQL's numerics.
    printed = ways.select(text.number("v::float8", "false"), "text", repr(value))
    expected = {"inf": '"Infinity"', "-inf": '"-Infinity"', "nan": '"NaN"'}.get(repr(value), repr(value))
    assert text.finished(printed).decode() == expected


@settings(max_examples=200, deadline=None, phases=DRAWN)
@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_texts_are_escaped_as_python_escapes_them(ways: Ways, value: str) -> None:
    printed = ways.select(text.string("v"), "text", value)
    assert text.finished(printed).decode() == json.dumps(value)


def test_a_value_that_mlflow_has_no_json_for_is_mlflows_to_refuse(ways: Ways, postgres: Postgres) -> None:
    run = ways.store.create_run(ways.experiments[2], "u", 1, [RunTag("t", "1")], "r").info.run_id
    postgres.sql(f"UPDATE tags SET value = NULL WHERE run_uuid = '{run}'", "reads")
    assert ways.send("GET", f"{RUNS}/get", f"run_id={run}") is None
    postgres.sql(f"DELETE FROM tags WHERE run_uuid = '{run}'", "reads")
    postgres.sql(f"UPDATE runs SET user_id = NULL WHERE run_uuid = '{run}'", "reads")
    assert ways.send("GET", f"{RUNS}/get", f"run_id={run}") is None
    body = json.dumps({"experiment_ids": [ways.experiments[2]]}).encode()
    assert ways.send("POST", f"{RUNS}/search", "", body) is None


def test_a_connection_that_ended_is_made_anew(ways: Ways, postgres: Postgres) -> None:
    query = f"run_id={ways.runs[0]}"
    expected = ways.send("GET", f"{RUNS}/get", query)
    assert expected is not None
    ended = postgres.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'reads' AND query ~ "
        "'^(EXECUTE|SET jit)'"
    )
    assert int(ended) > 0
    assert ways.send("GET", f"{RUNS}/get", query) == expected


def test_nothing_can_be_written_on_these_connections(ways: Ways) -> None:
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        ways.run(ways.connections.fetch("DELETE FROM tags", "", []))


def test_a_large_answer_comes_in_parts(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CHUNK", 300)
    fields = {"experiment_ids": ways.experiments[:2]}
    assert len(json.loads(ways.compare("POST", f"{RUNS}/search", fields))["runs"]) > 10
    parts = text.listing("runs", [("1" * 200,)] * 5, None)
    assert len(parts) > 3
    assert re.sub(rb"\s", b"", b"".join(parts)) == b'{"runs":[' + b",".join([b"1" * 200] * 5) + b"]}"
