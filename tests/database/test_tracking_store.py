"""Metrics are stored, and runs are read, as MLflow does it, in fewer statements."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from gatehouse.database import engine
from gatehouse.database.metrics import TrackingStore
from gatehouse.start.settings import parse_database
from tests.support import Postgres

KEYS = st.sampled_from(["loss", "acc", "a/b", "ü", "z" * 250])
VALUES = st.sampled_from(
    [0.0, -0.0, 1, 1.5, -1.5, 1e-320, 1.7e308, float("nan"), float("inf"), float("-inf")]
) | st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.builds(
    Metric,
    KEYS,
    VALUES,
    st.integers(0, 3) | st.just(2**63 - 1),
    st.integers(-2, 3) | st.sampled_from([-(2**63), 2**63 - 1]),
)
BATCHES = st.lists(st.lists(METRICS, max_size=12), min_size=1, max_size=5)
COLUMNS = "key, timestamp, step, value, is_nan"


@pytest.fixture(scope="module")
def stores(postgres: Postgres) -> Iterator[tuple[SqlAlchemyStore, TrackingStore]]:
    """MLflow's store and ours, on one database."""
    uri = parse_database(postgres.create("metrics"))
    engine.register()
    pair = SqlAlchemyStore(uri, "mlflow-artifacts:/"), TrackingStore(engine.named(uri), "mlflow-artifacts:/")
    yield pair
    for store in pair:
        store.engine.dispose()


def new_run(store: SqlAlchemyStore) -> str:
    """Start a run; return its id."""
    return str(store.create_run("0", "alice@example.com", 1, [], "run").info.run_id)


def rows(store: SqlAlchemyStore, table: str, run: str) -> list[tuple[Any, ...]]:
    """Return what a table has of a run."""
    with store.engine.connect() as connection:
        statement = sqlalchemy.text(f"SELECT {COLUMNS} FROM {table} WHERE run_uuid = :run")
        return [tuple(row) for row in connection.execute(statement, {"run": run})]


@settings(max_examples=120, deadline=None)
@given(batches=BATCHES)
def test_what_is_stored_is_what_mlflow_stores(
    stores: tuple[SqlAlchemyStore, TrackingStore], batches: list[list[Metric]]
) -> None:
    runs = [(store, new_run(store)) for store in stores]
    for store, run in runs:
        for batch in batches:
            store.log_batch(run, batch, [], [])
    for table in ("metrics", "latest_metrics"):
        theirs, ours = (sorted(rows(store, table, run)) for store, run in runs)
        assert ours == theirs


@settings(max_examples=40, deadline=None)
@given(metrics=st.lists(METRICS, min_size=1, max_size=6))
def test_one_metric_at_a_time_too(stores: tuple[SqlAlchemyStore, TrackingStore], metrics: list[Metric]) -> None:
    runs = [(store, new_run(store)) for store in stores]
    for store, run in runs:
        for metric in metrics:
            store.log_metric(run, metric)
    theirs, ours = (repr(sorted(store.get_run(run).data.metrics.items())) for store, run in runs)
    assert ours == theirs


def test_answers_have_mlflows_order(postgres: Postgres) -> None:
    # PostgreSQL returns rows as they lie on the disk, where earlier runs have left gaps: each has a database of its
    # own.
    stores = [
        kind(parse_database(postgres.create(f"order{kind.__name__.lower()}")), "mlflow-artifacts:/")
        for kind in (SqlAlchemyStore, TrackingStore)
    ]

    def batch(step: int, *keys: str) -> list[Metric]:
        return [Metric(key, step, step, step) for key in keys]

    runs = [(store, new_run(store)) for store in stores]
    for store, run in runs:
        store.log_batch(run, batch(1, "m", "z", "a", "k"), [], [])
        store.log_batch(run, [*batch(2, "z", "x", "a", "b"), *batch(3, "x")], [], [])
        store.log_batch(run, batch(1, "z", "y"), [], [])
    for table in ("metrics", "latest_metrics"):
        theirs, ours = (rows(store, table, run) for store, run in runs)
        assert ours == theirs
    for store in stores:
        store.engine.dispose()


def log_alone(store: SqlAlchemyStore, run: str, metric: Metric) -> None:
    store.log_metric(run, metric)


def log_second(store: SqlAlchemyStore, run: str, metric: Metric) -> None:
    store.log_batch(run, [Metric("fine", 1.0, 1, 1), metric], [], [])


@pytest.mark.parametrize(
    "metric",
    [
        Metric("loss", "high", 1, 1), Metric("loss", None, 1, 1), Metric("loss", 1.0, -1, 1), Metric("", 1.0, 1, 1),
        Metric("a" * 251, 1.0, 1, 1), Metric("../a", 1.0, 1, 1), Metric("loss", 1.0, 1, "x"), Metric("nul\0", 1.0, 1, 1),
    ],
    ids=lambda metric: repr((metric.key[:8], metric.value, metric.timestamp, metric.step)),
)  # fmt: skip
@pytest.mark.parametrize("log", [log_alone, log_second], ids=["alone", "second"])
def test_a_metric_that_mlflow_refuses_is_refused_alike(
    stores: tuple[SqlAlchemyStore, TrackingStore], metric: Metric, log: Callable[[SqlAlchemyStore, str, Metric], None]
) -> None:
    refusals = []
    for store in stores:
        run = new_run(store)
        with pytest.raises(MlflowException) as refusal:
            log(store, run, metric)
        # A statement's text, which differs, is in the message of what the database refuses.
        refusals.append((refusal.value.error_code, str(refusal.value).partition("[SQL")[0]))
        assert rows(store, "metrics", run) == []
    assert refusals[0] == refusals[1]


def test_a_run_that_is_gone_takes_no_metrics(stores: tuple[SqlAlchemyStore, TrackingStore]) -> None:
    said = []
    for store in stores:
        run = new_run(store)
        store.delete_run(run)
        for unknown in (run, "0" * 32):
            with pytest.raises(MlflowException) as refusal:
                store.log_metric(unknown, Metric("loss", 1.0, 1, 1))
            said.append(str(refusal.value).replace(run, "RUN"))
    assert said[:2] == said[2:]


def test_batches_at_once_on_one_run_lose_nothing(stores: tuple[SqlAlchemyStore, TrackingStore]) -> None:
    _, store = stores
    run = new_run(store)
    keys = [f"metric {number}" for number in range(30)]

    def log(step: int) -> None:
        order = random.Random(step).sample(keys, len(keys))  # noqa: S311
        store.log_batch(run, [Metric(key, float(step), step, step) for key in order], [], [])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(log, random.Random(0).sample(range(40), 40)))  # noqa: S311
    assert len(rows(store, "metrics", run)) == 40 * 30
    assert sorted(rows(store, "latest_metrics", run)) == sorted((key, 39, 39, 39.0, False) for key in keys)


@pytest.mark.parametrize("datasets", [0, 2], ids="datasets={}".format)
@pytest.mark.parametrize("inputs", [0, 2], ids="inputs={}".format)
@pytest.mark.parametrize("outputs", [0, 2], ids="outputs={}".format)
def test_a_run_is_read_with_all_that_it_is_linked_to(
    stores: tuple[SqlAlchemyStore, TrackingStore], datasets: int, inputs: int, outputs: int
) -> None:
    theirs, ours = stores
    run, another = new_run(theirs), new_run(theirs)
    models = [theirs.create_logged_model("0", f"model{n}", another).model_id for n in range(4)]
    theirs.log_batch(run, [Metric("loss", 1.0, 1, 1)], [Param("p", "1")], [RunTag("t", "1")])
    found = [
        DatasetInput(Dataset(f"data{n}", uuid.uuid4().hex[:8], "local", f"source {n}"), [InputTag("context", "train")])
        for n in range(datasets)
    ]
    theirs.log_inputs(run, found, [LoggedModelInput(model) for model in models[:inputs]])
    theirs.log_outputs(run, [LoggedModelOutput(model, 3) for model in models[2 : 2 + outputs]])
    read = ours.get_run(run)
    assert (len(read.inputs.dataset_inputs), len(read.inputs.model_inputs)) == (datasets, inputs)
    assert len(read.outputs.model_outputs) == outputs
    assert read.to_proto() == theirs.get_run(run).to_proto()
    # The links of one run aren't another's.
    assert ours.get_run(another).to_proto() == theirs.get_run(another).to_proto()


@pytest.mark.parametrize("run", ["0" * 32, "", "' OR 1=1", "nul\0", "ü" * 40])
def test_a_run_that_there_is_not_is_refused_alike(stores: tuple[SqlAlchemyStore, TrackingStore], run: str) -> None:
    refusals = []
    for store in stores:
        with pytest.raises(MlflowException) as refusal:
            store.get_run(run)
        refusals.append((refusal.value.error_code, str(refusal.value)))
    assert refusals[0] == refusals[1]


def test_the_server_has_this_store(stores: tuple[SqlAlchemyStore, TrackingStore]) -> None:
    from mlflow.server import handlers

    from gatehouse.database import metrics as tracking_store

    before = dict(handlers._tracking_store_registry._registry)
    try:
        tracking_store.register()
        builder = handlers._tracking_store_registry.get_store_builder("postgresql+psycopg2://localhost/x")
        assert builder is tracking_store.open_store
        assert handlers._tracking_store_registry.get_store_builder("sqlite:///x") is before["sqlite"]
    finally:
        handlers._tracking_store_registry._registry = before
    assert stores[1].search_experiments(view_type=ViewType.ALL)
