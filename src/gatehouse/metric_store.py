"""MLflow's tracking store on PostgreSQL, with a batch of metrics written in three statements instead of two for each metric.

A training loop logs metrics more than it does anything else, and MLflow writes them row by row through its object mapper:
that was most of the time of such a request, in Python and in round trips. What is stored and answered is the same, in the same
order; tests/gate/test_metric_store.py holds it against MLflow's own store. A store of one's own is a plug-in point of
MLflow's (``mlflow.tracking_store``). SQLite, where a statement costs no round trip, and MLflow's workspaces keep MLflow's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.server import handlers
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.validation import _validate_metric
from sqlalchemy import text

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
    SELECT key, step, timestamp, value FROM latest_metrics WHERE run_uuid = :run AND key = ANY(:keys) ORDER BY key FOR UPDATE
""")
_REPLACE = text(
    _INSERT.format(
        table="latest_metrics",
        conflict="""(key, run_uuid)
            DO UPDATE SET timestamp = excluded.timestamp, step = excluded.step, value = excluded.value, is_nan = excluded.is_nan
            WHERE (excluded.step, excluded.timestamp, excluded.value)
                > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)""",
    )
)


class MetricStore(SqlAlchemyStore):  # type: ignore[misc]  # MLflow has no types
    """MLflow's store; ``_log_metrics_once`` is what log-metric and log-batch come to."""

    def _log_metrics_once(self, run_id: str, metrics: Sequence[Metric]) -> None:
        rows: dict[Row, None] = {}
        for index, metric in enumerate(metrics):
            path = "" if len(metrics) == 1 else f"metrics[{index}]"
            _validate_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
            is_nan, value = self.sanitize_metric_value(metric.value)
            rows[metric.key, metric.timestamp, metric.step, value, is_nan] = None
        with self.ManagedSessionMaker(read_only=False) as session:
            self._check_run_is_active(self._get_run(run_uuid=run_id, session=session))
            if not rows:
                return
            session.execute(_ADD, columns(run_id, list(rows)))
            latest = most_recent(rows)
            known = session.execute(_LATEST, {"run": run_id, "keys": list(latest)}).all()
            # Known metrics as they are locked, then new ones as they were logged: MLflow's order, and so that of answers.
            changed = [row for key, *stored in known if recency(row := latest.pop(key)) > tuple(stored)]
            if changed or latest:
                session.execute(_REPLACE, columns(run_id, [*changed, *latest.values()]))


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


def columns(run_id: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return rows as the parameters of an INSERT: a list for each column."""
    keys, timestamps, steps, values, nans = map(list, zip(*rows, strict=True))
    return {"run": run_id, "keys": keys, "timestamps": timestamps, "steps": steps, "values": values, "nans": nans}


def open_store(store_uri: str, artifact_uri: str) -> MetricStore:
    """Return the store; MLflow's registry names its arguments so."""
    return MetricStore(store_uri, artifact_uri)


def register() -> None:
    """Let MLflow's server open this store for PostgreSQL's URLs."""
    if not MLFLOW_ENABLE_WORKSPACES.get():
        handlers._tracking_store_registry.register("postgresql", open_store)
