"""What the short way stores is what MLflow would have stored, and so is what it answers: for any batch, run and change."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mlflow.utils import uri, validation

from gatehouse.database.writes import requests, statements
from gatehouse.start.settings import parse_database
from tests.database.ways import Ways
from tests.support import Gate, Postgres, Provider, wait_for

#: A failing example is told as it was drawn: making it smaller asks both ways hundreds of times.
DRAWN = (Phase.explicit, Phase.reuse, Phase.generate)
RUNS = "/api/2.0/mlflow/runs"
USER = "alice@example.com"
TABLES = {
    "metrics": "key, timestamp, step, value, is_nan",
    "latest_metrics": "key, timestamp, step, value, is_nan",
    "params": "key, value",
    "tags": "key, value",
    "runs": "name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, deleted_time,"
    " source_version, lifecycle_stage, experiment_id",
}
Answer = tuple[int, bytes]


class Pair:
    """Two runs of one database, to which the same is done by both ways."""

    def __init__(self, ways: Ways, experiment: str) -> None:
        self.ways = ways
        self.experiment = experiment
        #: How many of ours were handed on.
        self.declined = 0

    def mlflow(self, path: str, fields: Any) -> Answer:
        """Let MLflow's handler do it."""
        answer = self.ways.send("POST", path, "", json.dumps(fields).encode(), self.ways.mlflow)
        assert answer is not None
        return answer[0], answer[2]

    def ours(self, path: str, fields: Any) -> Answer:
        """Let the short way do it, and MLflow's handler what it declines."""
        answer = self.ways.send("POST", path, "", json.dumps(fields).encode())
        if answer is None:
            self.declined += 1
            return self.mlflow(path, fields)
        return answer[0], answer[2]

    def create(self, fields: dict[str, Any]) -> list[str]:
        """Start a run by each way, compare the answers, and return the ids: MLflow's, ours."""
        answers = [way(f"{RUNS}/create", fields) for way in (self.mlflow, self.ours)]
        ids = [json.loads(body)["run"]["info"]["run_id"] if status == 200 else "" for status, body in answers]
        compare(answers)
        return ids

    def both(self, path: str, ids: list[str], fields: dict[str, Any]) -> Answer:
        """Do the same to both runs; compare the answers."""
        answers = [
            way(f"{RUNS}/{path}", {**fields, "run_id": run})
            for way, run in zip((self.mlflow, self.ours), ids, strict=True)
        ]
        compare(answers)
        return answers[1]

    def rows(self, run: str) -> dict[str, list[str]]:
        """Return what each table has of a run."""
        found = {}
        with self.ways.store.engine.connect() as connection:
            for table, columns in TABLES.items():
                rows = connection.exec_driver_sql(f"SELECT {columns} FROM {table} WHERE run_uuid = %s", (run,))
                found[table] = sorted(map(repr, rows))
        return found

    def same(self, ids: list[str]) -> None:
        """Compare the rows of both runs, and what is read of them."""
        theirs, ours = (self.rows(run) for run in ids)
        assert ours == theirs


def compare(answers: list[Answer]) -> None:
    # Whichever run it is, also in the SQL that some of MLflow's refusals quote.
    theirs, ours = ((status, re.sub(rb"[0-9a-f]{32}", b"RUN", body)) for status, body in answers)
    assert ours == theirs


@pytest.fixture(scope="module")
def pair(postgres: Postgres) -> Iterator[Pair]:
    """Both ways, on a database with one experiment."""
    ways = Ways(parse_database(postgres.create("writes")))
    try:
        yield Pair(ways, ways.store.create_experiment("trained"))
    finally:
        ways.close()


def stamped(experiment: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a new run as StampingLayer leaves them."""
    tags = [*fields.pop("tags", []), {"key": "mlflow.user", "value": USER}]
    return {
        "experiment_id": experiment,
        "user_id": USER,
        "start_time": 1790000000000,
        "run_name": "r",
        **fields,
        "tags": tags,
    }


TEXT = st.sampled_from(
    ["", "a", 'quote"\\', '{null,"x"}', "NULL", "line\nbreak", "ü€😀", "x" * 500, "\\", "'; DROP", "%s $1"]
) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NAMES = st.sampled_from(["loss", "a/b", "with space", "ü", "a.b-c_d", "z" * 250, "null", "c:d", "line\n"])
BAD_NAMES = st.sampled_from(["", "../up", "/root", "a//b", "semi;colon", "z" * 251, 'q"', "tab\t", None])
VALUES = (
    st.sampled_from([0.0, -0.0, 1, -7, 1e-320, 5e-324, 1.7976931348623157e308, "NaN", "Infinity", "-Infinity", 2**53 + 1])
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
BAD_VALUES: st.SearchStrategy[Any] = st.sampled_from([True, None, "1.5", "much", [], 2**64, 10**400])
TIMES = st.integers(0, 3) | st.just(2**63 - 1)
STEPS = st.integers(-2, 3) | st.sampled_from([-(2**63), 2**63 - 1])
METRIC = st.fixed_dictionaries(
    {"key": NAMES, "value": VALUES, "timestamp": TIMES}, optional={"step": STEPS, "run_id": st.just("other")}
)
PAIR = st.fixed_dictionaries({"key": NAMES, "value": TEXT})
BATCH = st.fixed_dictionaries(
    {},
    optional={
        "metrics": st.lists(METRIC, max_size=8),
        "params": st.lists(PAIR, max_size=4, unique_by=lambda one: one["key"]),
        "tags": st.lists(PAIR, max_size=4),
    },
)
ODD = st.one_of(
    st.builds(lambda key: {"metrics": [{"key": key, "value": 1.0, "timestamp": 1}], "tags": [{"key": "odd", "value": "1"}]}, BAD_NAMES),
    st.builds(lambda value: {"metrics": [{"key": "m", "value": value, "timestamp": 1}], "params": [{"key": "odd", "value": "1"}]}, BAD_VALUES),
    st.builds(lambda key: {"params": [{"key": key, "value": "v"}], "metrics": [{"key": "odd", "value": 1, "timestamp": 1}]}, BAD_NAMES),
    st.builds(lambda key: {"tags": [{"key": key, "value": "v"}]}, BAD_NAMES | st.just("mlflow.runName")),
    st.sampled_from(
        [
            {"metrics": [{"key": "m", "value": 1, "timestamp": -1}]}, {"metrics": [{"key": "m", "value": 1, "timestamp": 2**63}]},
            {"metrics": [{"key": "m", "value": 1, "timestamp": "1"}]}, {"metrics": [{"key": "m", "value": 1, "timestamp": 1.0}]},
            {"metrics": [{"key": "m", "value": 1}]}, {"metrics": {}}, {"params": [{"key": "p"}]}, {"tags": [{"key": "t"}]},
            {"params": [{"key": "p", "value": "1"}, {"key": "p", "value": "2"}]}, {"params": [{"key": "p", "value": "x" * 6001}]},
            {"params": [{"key": f"p{n}", "value": ""} for n in range(101)]}, {"tags": [{"key": "t", "value": "x" * 8001}]},
            {"metrics": [{"key": "m", "value": n, "timestamp": 1} for n in range(1001)]}, {"unknown": 1}, {"tags": [{"key": "t", "value": 7}]},
            {"params": [{"key": "p", "value": "\0"}]}, {"params": [{"key": "p", "value": "\ud800"}]}, {"tags": [{"key": "t", "value": None}]},
        ]
    ),
)  # fmt: skip


@settings(max_examples=40, deadline=None, phases=DRAWN)
@given(batches=st.lists(BATCH | BATCH | ODD, min_size=1, max_size=4))
def test_any_batches(pair: Pair, batches: list[dict[str, Any]]) -> None:
    ids = pair.create(stamped(pair.experiment))
    for batch in batches:
        pair.both("log-batch", ids, batch)
        pair.same(ids)


@settings(max_examples=30, deadline=None, phases=DRAWN)
@given(
    calls=st.lists(
        st.tuples(st.just("log-metric"), METRIC.map(lambda one: {k: v for k, v in one.items() if k != "run_id"}))
        | st.tuples(st.sampled_from(["log-parameter", "set-tag"]), PAIR)
        | st.tuples(
            st.just("update"),
            st.fixed_dictionaries(
                {},
                optional={
                    "status": st.sampled_from(["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED", "DONE", 3]),
                    "end_time": st.sampled_from([0, 1, 1790000000001, 2**63 - 1, 2**63, "5"]),
                    "run_name": st.sampled_from(["", "new"]),
                },
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_small_writes(pair: Pair, calls: list[tuple[str, dict[str, Any]]]) -> None:
    ids = pair.create(stamped(pair.experiment))
    for path, fields in calls:
        pair.both(path, ids, fields)
    pair.same(ids)


@settings(max_examples=30, deadline=None, phases=DRAWN)
@given(
    tags=st.lists(st.fixed_dictionaries({"key": NAMES | st.just("mlflow.runName"), "value": TEXT | st.just("r")}), max_size=4),
    more=st.fixed_dictionaries(
        {},
        optional={
            "run_name": st.sampled_from(["r", "ü \"quoted\"", "x" * 250, "x" * 251]),
            "start_time": st.sampled_from([0, -1, 2**63 - 1, "5"]),
            "user_id": st.just("somebody else"),
        },
    ),
)  # fmt: skip
def test_any_new_run(pair: Pair, tags: list[dict[str, str]], more: dict[str, Any]) -> None:
    ids = pair.create(stamped(pair.experiment, tags=tags, **more))
    if all(ids):
        pair.same(ids)


@pytest.mark.parametrize("experiment", ["0", "404", "", "x", "01", "-1", 5])
def test_a_new_run_of_another_experiment(pair: Pair, experiment: Any) -> None:
    pair.create(stamped(experiment))


def test_a_run_without_a_name_gets_one_of_mlflows(pair: Pair) -> None:
    fields = stamped(pair.experiment)
    del fields["run_name"]
    before = pair.declined
    status, body = pair.ours(f"{RUNS}/create", fields)
    run = json.loads(body)["run"]
    name = run["info"]["run_name"]
    assert (status, pair.declined) == (200, before)
    assert re.fullmatch(r"[a-z]+-[a-z]+-[0-9]+", name)
    assert {"key": "mlflow.runName", "value": name} in run["data"]["tags"]


def test_rows_are_in_mlflows_order(postgres: Postgres) -> None:
    # PostgreSQL returns rows as they lie on the disk, where earlier runs have left gaps: each has a database of its
    # own.
    def metrics(step: int, *keys: str) -> list[dict[str, Any]]:
        return [{"key": key, "value": step, "timestamp": step, "step": step} for key in keys]

    def pairs(value: str, *keys: str) -> list[dict[str, str]]:
        return [{"key": key, "value": value} for key in keys]

    found = []
    for way in ("mlflow", "ours"):
        ways = Ways(parse_database(postgres.create(f"order_{way}")))
        try:
            pair = Pair(ways, ways.store.create_experiment("ordered"))
            do = getattr(pair, way)
            tags = pairs("1", "z", "a", "k")
            run = json.loads(do(f"{RUNS}/create", stamped(pair.experiment, tags=tags))[1])["run"]["info"]["run_id"]
            for batch in (
                {
                    "metrics": metrics(1, "m", "z", "a", "k"),
                    "params": pairs("1", "q", "b"),
                    "tags": pairs("1", "y", "x"),
                },
                {"metrics": metrics(2, "z", "x", "a", "b") + metrics(3, "x"), "params": pairs("1", "c", "b", "a")},
                {"metrics": metrics(1, "z", "y"), "tags": pairs("2", "z", "w", "a", "v", "x")},
                {"tags": pairs("2", "z", "w", "k") + pairs("3", "w")},
            ):
                status, body = do(f"{RUNS}/log-batch", {"run_id": run, **batch})
                assert (status, body) == (200, b"{}")
            answer = ways.send("GET", f"{RUNS}/get", f"run_id={run}", b"", ways.mlflow)
            assert answer is not None
            found.append(answer[2].replace(run.encode(), b"RUN"))
            assert pair.declined == 0
        finally:
            ways.close()
    assert found[0] == found[1]


def test_what_is_declined_has_changed_nothing(pair: Pair) -> None:
    [_, run] = pair.create(stamped(pair.experiment))
    body = {"run_id": run, "params": [{"key": "p", "value": "1"}]}
    assert pair.ours(f"{RUNS}/log-batch", body)[0] == 200
    before = pair.rows(run)
    changed = {
        "run_id": run,
        "metrics": [{"key": "m", "value": 1, "timestamp": 1}],
        "params": [{"key": "new", "value": "1"}, {"key": "p", "value": "2"}],
        "tags": [{"key": "t", "value": "1"}],
    }
    assert pair.ways.send("POST", f"{RUNS}/log-batch", "", json.dumps(changed).encode()) is None
    assert pair.rows(run) == before
    pair.ways.store.delete_run(run)
    before = pair.rows(run)
    for path, fields in (
        ("log-batch", {"tags": [{"key": "t", "value": "1"}]}),
        ("log-metric", {"key": "m", "value": 1, "timestamp": 1}),
        ("log-parameter", {"key": "q", "value": "1"}),
        ("set-tag", {"key": "t", "value": "1"}),
        ("update", {"status": "FAILED"}),
    ):
        document = json.dumps({"run_id": run, **fields}).encode()
        assert pair.ways.send("POST", f"{RUNS}/{path}", "", document) is None
    assert pair.rows(run) == before


@pytest.mark.parametrize(
    "location",
    [
        "mlflow-artifacts:/1", "s3://bucket", "s3://bucket/a/b", "file:///data/mlruns/1", "/data/1", "gs://b.c/x_y-z",
        "wasbs://c@account.blob.core.windows.net/p", "dbfs:/a", "hdfs://host:9000/a",
    ],
)  # fmt: skip
def test_where_artifacts_go(pair: Pair, location: str) -> None:
    assert re.fullmatch(statements.PLAIN_LOCATION, location)
    assert uri.append_to_uri_path(location, "run", "artifacts") == f"{location}/run/artifacts"
    experiment = pair.ways.store.create_experiment(uuid.uuid4().hex, location)
    before = pair.declined
    pair.create(stamped(experiment))
    assert pair.declined == before


@pytest.mark.parametrize("location", ["s3://b/p?x=1", "s3://b/a#f", "/a/", "s3://b/a b"])
def test_an_odd_location_is_mlflows_to_append_to(pair: Pair, location: str) -> None:
    experiment = pair.ways.store.create_experiment(uuid.uuid4().hex, location)
    before = pair.declined
    pair.create(stamped(experiment))
    assert pair.declined == before + 1


def test_the_limits_are_mlflows() -> None:
    most = (requests.MOST_METRICS, requests.MOST_PAIRS, requests.MOST)
    longest = (requests.LONGEST_NAME, requests.LONGEST_PARAM, requests.LONGEST_TAG)
    assert (*most, *longest) == (
        validation.MAX_METRICS_PER_BATCH,
        validation.MAX_PARAMS_TAGS_PER_BATCH,
        validation.MAX_ENTITIES_PER_BATCH,
        validation.MAX_ENTITY_KEY_LENGTH,
        validation.MAX_PARAM_VAL_LENGTH,
        validation.MAX_TAG_VAL_LENGTH,
    )


@settings(max_examples=200, deadline=None, phases=DRAWN)
@given(
    values=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5)
)
def test_any_texts_arrive(pair: Pair, values: list[str]) -> None:
    fetched = pair.ways.run(pair.ways.connections.fetch("SELECT unnest($1)", "varchar[]", [statements.texts(values)]))
    assert [row[0] for row in fetched] == values


def test_a_connection_that_ended_costs_no_write_and_makes_none_twice(pair: Pair, postgres: Postgres) -> None:
    pair.ours(f"{RUNS}/create", stamped(pair.experiment))
    count = "SELECT count(*) FROM runs"
    before = int(postgres.sql(count, "writes"))
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'writes' AND query LIKE '%EXECUTE%'"
    assert int(postgres.sql(ended)) > 0
    declined = pair.declined
    assert pair.ours(f"{RUNS}/create", stamped(pair.experiment))[0] == 200
    assert (int(postgres.sql(count, "writes")), pair.declined) == (before + 1, declined)


def test_what_writes_leaves_the_connection_unable_to(pair: Pair) -> None:
    pair.create(stamped(pair.experiment))
    for _ in range(2):
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            pair.ways.run(pair.ways.connections.fetch("DELETE FROM tags", "", []))


def audited(gate: Gate, action: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gate.log().splitlines() if line.startswith("{") and '"audit"' in line]
    return [line["audit"] for line in lines if "audit" in line and line["audit"]["action"] == action]


@pytest.fixture(scope="module")
def gate(postgres: Postgres, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate on PostgreSQL."""
    uri_ = postgres.create("audited")
    one = Gate(tmp_path_factory.mktemp("writes"), provider, BACKEND_STORE_URI=uri_, WORKERS="1")
    try:
        yield one.start().wait_ready()
    finally:
        one.stop()


def test_at_the_gate_each_has_its_author_and_its_line(gate: Gate) -> None:
    session = gate.session("bob")
    fields = {
        "experiment_id": "0",
        "start_time": 1,
        "user_id": "root",
        "tags": [{"key": "mlflow.user", "value": "root"}],
    }
    made = session.post(f"{gate.url}{RUNS}/create", json=fields, timeout=20)
    assert made.status_code == 200
    run = made.json()["run"]
    assert run["info"]["user_id"] == "bob@example.com"
    assert {"key": "mlflow.user", "value": "bob@example.com"} in run["data"]["tags"]
    batch = {
        "run_id": run["info"]["run_id"],
        "tags": [{"key": "mlflow.user", "value": "root"}, {"key": "t", "value": "1"}],
    }
    assert session.post(f"{gate.url}{RUNS}/log-batch", json=batch, timeout=20).status_code == 200
    wait_for(lambda: bool(audited(gate, "log_batch")), "the line", 10, gate.log)
    [line] = audited(gate, "create_run")
    assert (line["result"], line["identity"], line["claimed"]) == ("done", "bob@example.com", "root")
    assert line["objects"]["run_id"] == run["info"]["run_id"]
    [line] = audited(gate, "log_batch")
    assert (line["result"], line["objects"]["run_id"]) == ("done", run["info"]["run_id"])
    read = session.get(f"{gate.url}{RUNS}/get", params={"run_id": run["info"]["run_id"]}, timeout=20).json()["run"]
    tags = {tag["key"]: tag["value"] for tag in read["data"]["tags"]}
    assert (tags["mlflow.user"], tags["gatehouse.claimed_user"], tags["t"]) == ("bob@example.com", "root", "1")


def test_at_the_gate_a_refusal_is_mlflows_and_has_one_line(gate: Gate) -> None:
    body = {"run_id": "0" * 32, "key": "t", "value": "1"}
    missing = gate.session("bob").post(f"{gate.url}{RUNS}/set-tag", json=body, timeout=20)
    assert (missing.status_code, missing.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    wait_for(lambda: bool(audited(gate, "set_tag")), "the line", 10, gate.log)
    [line] = audited(gate, "set_tag")
    assert line["result"] == "rejected"
