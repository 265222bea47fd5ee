"""MLflow's tracking store on PostgreSQL, with fewer statements for what is asked most: logging metrics, reading a run.

MLflow writes metrics row by row through its object mapper, and asks three times what a run is linked to, which few are:
that was most of the time of such requests, in Python and in round trips. What is stored and answered is the same, in
the same order; tests/database/test_tracking_store.py holds it against MLflow's own store. A store of one's own is a
plug-in point of MLflow's (``mlflow.tracking_store``). SQLite, where a statement costs no round trip, keeps MLflow's.
With workspaces the same methods stand on MLflow's store for those, which looks for the run in the request's workspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.entities import Run, RunInputs, RunOutputs
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from sqlalchemy import text

from gatehouse.upstream import application, workspaces
from gatehouse.upstream.tracking_stores import check_metric, register_tracking_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlflow.entities import Metric

#: (key, timestamp, step, value, is_nan): with the run, the primary key of MLflow's table ``metrics``.
Row = tuple[str, int, int, float, bool]

_INSERT = """
    INSERT INTO {table} (run_uuid, key, timestamp, step, value, is_nan)
    SELECT :run, * FROM unnest(CAST(:keys AS varchar[]), CAST(:timestamps AS bigint[]), CAST(:steps AS bigint[]),
                               CAST(:values AS double precision[]), CAST(:nans AS boolean[]))
    ON CONFLICT {conflict}
"""
#: Whoever logs the same values again changes nothing.
_ADD = text(_INSERT.format(table="metrics", conflict="DO NOTHING"))
#: Locked by name, so that no two batches wait for each other.
_LATEST = text("""
    SELECT key, step, timestamp, value FROM latest_metrics WHERE run_uuid = :run AND key = ANY(:keys)
    ORDER BY key FOR UPDATE
""")
_REPLACE = text(
    _INSERT.format(
        table="latest_metrics",
        conflict="""(key, run_uuid)
            DO UPDATE SET timestamp = excluded.timestamp, step = excluded.step,
                value = excluded.value, is_nan = excluded.is_nan
            WHERE (excluded.step, excluded.timestamp, excluded.value)
                > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)""",
    )
)
#: Which kinds of MLflow's table ``inputs`` are there for a run (``SqlAlchemyStore._get_run_inputs`` and its
#: neighbours).
_LINKS = text("""
    SELECT EXISTS (SELECT FROM inputs WHERE destination_type = 'RUN' AND destination_id = :run) AS datasets,
           EXISTS (SELECT FROM inputs WHERE source_type = 'RUN_INPUT' AND source_id = :run) AS model_inputs,
           EXISTS (SELECT FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id = :run) AS model_outputs
""")


class _FewerStatements(SqlAlchemyStore):  # type: ignore[misc]  # MLflow has no types
    """MLflow's store, but for two methods; ``_log_metrics_once`` is what log-metric and log-batch come to."""

    def get_run(self, run_id: str) -> Run:
        """Return a run with its data and what it is linked to.

        Raises:
            MlflowException: if there is none.
        """
        with self.ManagedSessionMaker() as session:
            run = self._get_run(run_uuid=run_id, session=session, eager=True).to_mlflow_entity()
            links = session.execute(_LINKS, {"run": run_id}).one()
            datasets = self._get_run_inputs(run_uuids=[run_id], session=session)[0] if links.datasets else []
            model_inputs = self._get_model_inputs(run_id, session) if links.model_inputs else []
            model_outputs = self._get_model_outputs(run_id, session) if links.model_outputs else []
            return Run(run.info, run.data, RunInputs(datasets, model_inputs), RunOutputs(model_outputs))

    def _log_metrics_once(self, run_id: str, metrics: Sequence[Metric]) -> None:
        rows: dict[Row, None] = {}
        for index, metric in enumerate(metrics):
            path = "" if len(metrics) == 1 else f"metrics[{index}]"
            check_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
            is_nan, value = self.sanitize_metric_value(metric.value)
            rows[metric.key, metric.timestamp, metric.step, value, is_nan] = None
        with self.ManagedSessionMaker(read_only=False) as session:
            self._check_run_is_active(self._get_run(run_uuid=run_id, session=session))
            if not rows:
                return
            session.execute(_ADD, columns(run_id, rows))
            latest = most_recent(rows)
            known = session.execute(_LATEST, {"run": run_id, "keys": list(latest)}).all()
            # Known metrics as they are locked, then new ones as they were logged: MLflow's order, and so that of
            # answers.
            changed = [row for key, *stored in known if recency(row := latest.pop(key)) > tuple(stored)]
            if changed or latest:
                session.execute(_REPLACE, columns(run_id, [*changed, *latest.values()]))


class TrackingStore(_FewerStatements):
    """The store of a server without workspaces."""


class WorkspaceTrackingStore(_FewerStatements, WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]  # as above
    """The store of a server with workspaces: a run of another one isn't there."""


def recency(row: Row) -> tuple[int, int, float]:
    """Return what the latest value of a metric is the greatest by."""
    _, timestamp, step, value, _ = row
    return step, timestamp, value


def most_recent(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the most recent row of each metric, by name."""
    latest: dict[str, Row] = {}
    for row in rows:
        if row[0] not in latest or recency(row) > recency(latest[row[0]]):
            latest[row[0]] = row
    return latest


def columns(run_id: str, rows: Iterable[Row]) -> dict[str, Any]:
    """Return rows as the parameters of an INSERT: a list for each column."""
    keys, timestamps, steps, values, nans = map(list, zip(*rows, strict=True))
    return {"run": run_id, "keys": keys, "timestamps": timestamps, "steps": steps, "values": values, "nans": nans}


def open_store(store_uri: str, artifact_uri: str) -> _FewerStatements:
    """Return the store, with the read replica if there is one; MLflow's registry names its arguments so."""
    kind = WorkspaceTrackingStore if workspaces.enabled() else TrackingStore
    return kind(store_uri, artifact_uri, read_db_uri=application.read_replica())


def register() -> None:
    """Let MLflow's server open this store for PostgreSQL's URLs."""
    register_tracking_store("postgresql", open_store)
