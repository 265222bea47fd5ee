"""What is in the databases that are compared:

the same runs, written by SQL into MLflow's schema and into FastTrackML's.

Through either's own API the large experiment would take hours. The two schemas are close: FastTrackML began as
MLflow's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg2

#: Runs of the experiment that most calls ask for.
RUNS = 1000
#: Points of the one long history, and of each of its runs' other metrics.
HISTORY = 1000
POINTS = 2
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy", "lr")
PARAMS = ("batch_size", "dropout", "epochs", "layers", "optimizer")
#: Runs that log batches at once.
TRAINING = 8
#: Experiments beside it.
EXPERIMENTS = 60
#: The large experiment: 20,000 runs of 4 metrics with 100 points each are 8 million rows.
LARGE_RUNS, LARGE_METRICS, LARGE_POINTS = 20_000, METRICS[:4], 100

_EXPERIMENTS = """
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time {columns})
    SELECT n, 'experiment ' || n, 'mlflow-artifacts:/' || n, 'active', 1790000000000 + n, 1790000000000 + n {values}
    FROM generate_series(%(first)s, %(last)s) AS n;
    INSERT INTO experiment_tags (experiment_id, key, value)
    SELECT n, key, 'value of ' || key FROM generate_series(%(first)s, %(last)s) AS n, unnest(ARRAY['team', 'mlflow.note.content']) AS key;
    SELECT setval('experiments_experiment_id_seq', %(last)s)
"""
_RUNS = """
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                      source_version, lifecycle_stage, artifact_uri, experiment_id {columns})
    SELECT md5(%(experiment)s || '-' || n), 'run ' || n, 'UNKNOWN', '', '', 'alice@example.com', 'FINISHED',
           1790000000000 + n * 1000, 1790000600000 + n * 1000, '', 'active',
           'mlflow-artifacts:/' || %(experiment)s || '/' || md5(%(experiment)s || '-' || n) || '/artifacts', %(experiment)s {values}
    FROM generate_series(0, %(runs)s - 1) AS n;
    INSERT INTO tags (run_uuid, key, value)
    SELECT md5(%(experiment)s || '-' || n), key, CASE key WHEN 'mlflow.runName' THEN 'run ' || n ELSE value END
    FROM generate_series(0, %(runs)s - 1) AS n,
         (VALUES ('mlflow.user', 'alice@example.com'), ('mlflow.source.name', 'train.py'), ('mlflow.source.type', 'LOCAL'),
                 ('mlflow.runName', '')) AS tag (key, value);
    INSERT INTO params (run_uuid, key, {value})
    SELECT md5(%(experiment)s || '-' || n), key, (n %% 7)::text
    FROM generate_series(0, %(runs)s - 1) AS n, unnest(%(params)s) AS key
"""
_METRICS = """
    INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan {columns})
    SELECT md5(%(experiment)s || '-' || n), key, abs(sin(n + step * 0.37 + length(key))) / (step + 1), 1790000000000 + step * 1000, step, false {values}
    FROM generate_series(%(first)s, %(last)s) AS n, unnest(%(metrics)s) AS key, generate_series(0, %(points)s - 1) AS step;
    INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan {latest})
    SELECT md5(%(experiment)s || '-' || n), key, abs(sin(n + step * 0.37 + length(key))) / (step + 1), 1790000000000 + step * 1000, step, false {latest_values}
    FROM generate_series(%(first)s, %(last)s) AS n, unnest(%(metrics)s) AS key, (SELECT %(points)s - 1 AS step) AS last
"""


@dataclass(frozen=True)
class Dialect:
    """Where FastTrackML's schema has other columns than MLflow's."""

    experiment: tuple[str, str] = ("", "")
    run: tuple[str, str] = ("", "")
    param: str = "value"
    metric: tuple[str, str] = ("", "")
    latest: tuple[str, str] = ("", "")


MLFLOW = Dialect()
#: Of the number of a row it makes the order of runs; 1 is the context that a metric without one has.
FASTTRACKML = Dialect(
    (", namespace_id", ", 1"),
    (", row_num", ", n + 1"),
    "value_str",
    (", iter, context_id", ", step, 1"),
    (", last_iter, context_id", ", step, 1"),
)


@dataclass(frozen=True)
class Seeded:
    """The ids of what was seeded:

    the experiment of 1,000 runs with some of them, the large one (or None), and runs in training.

    The next experiment after the first is that of the runs in training.
    """

    experiment: int
    large: int | None
    runs: Sequence[str]
    training: Sequence[str]


def seed(database: str, dialect: Dialect, large_runs: int = 0) -> Seeded:
    """Fill a database whose schema is there; with ``large_runs``, also an experiment of so many runs.

    Args:
        database: its URL, as libpq takes it.
    """
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT max(experiment_id) FROM experiments")
        [(highest,)] = cursor.fetchall()
        first = (highest or 0) + 1
        columns, values = dialect.experiment
        last = first + EXPERIMENTS - 1
        cursor.execute(_EXPERIMENTS.format(columns=columns, values=values), {"first": first, "last": last})
        _seed_runs(cursor, dialect, first, RUNS, METRICS, POINTS)
        _seed_runs(cursor, dialect, first + 1, TRAINING, (), 0)
        _seed_metrics(cursor, dialect, first, (0, 9), ("history",), HISTORY)
        if large_runs:
            _seed_runs(cursor, dialect, last, large_runs, LARGE_METRICS, LARGE_POINTS)
    with closing(psycopg2.connect(database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    ids = [[_run_id(one, n) for n in range(count)] for one, count in ((first, RUNS), (first + 1, TRAINING))]
    return Seeded(first, last if large_runs else None, *ids)


def _run_id(experiment: int, number: int) -> str:
    """Return the id of a run, as the statements make it."""
    return hashlib.md5(f"{experiment}-{number}".encode(), usedforsecurity=False).hexdigest()


def _seed_runs(
    cursor: psycopg2.extensions.cursor,
    dialect: Dialect,
    experiment: int,
    runs: int,
    metrics: Sequence[str],
    points: int,
) -> None:
    columns, values = dialect.run
    statement = _RUNS.format(columns=columns, values=values, value=dialect.param)
    cursor.execute(statement, {"experiment": _untyped(experiment), "runs": runs, "params": list(PARAMS)})
    if metrics:
        _seed_metrics(cursor, dialect, experiment, (0, runs - 1), metrics, points)


def _seed_metrics(
    cursor: psycopg2.extensions.cursor,
    dialect: Dialect,
    experiment: int,
    numbers: tuple[int, int],
    metrics: Sequence[str],
    points: int,
) -> None:
    statement = _METRICS.format(
        columns=dialect.metric[0], values=dialect.metric[1], latest=dialect.latest[0], latest_values=dialect.latest[1]
    )
    first, last = numbers
    parameters = {
        "experiment": _untyped(experiment),
        "first": first,
        "last": last,
        "metrics": list(metrics),
        "points": points,
    }
    cursor.execute(statement, parameters)


def _untyped(number: int) -> psycopg2.extensions.AsIs:
    """A number as a literal without a type, which is text beside text and a number in a column of numbers."""
    return psycopg2.extensions.AsIs(f"'{number}'")
