"""log-batch and its small sisters, runs/create and runs/update: ``SqlAlchemyStore``'s methods, as one statement each.

A statement is a transaction of its own, so what is asked for is stored whole or not at all. Sent twice, it stores the
same: so a connection that ended in between costs nothing. Rows are written in MLflow's order, which is that of answers.
"""

from __future__ import annotations

import json
import uuid
from functools import cache
from typing import TYPE_CHECKING

from gatehouse.database.metrics import recency
from gatehouse.database.reads.query import Declined, Query, visible
from gatehouse.database.reads.runs import info
from gatehouse.database.reads.text import finished

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gatehouse.database.metrics import Row

_RUN = f"""run AS MATERIALIZED (
    SELECT 1 AS found FROM runs WHERE run_uuid = $1 AND lifecycle_stage = 'active' AND {visible("experiment_id")}
)"""
#: ``{0}`` and so on are the parameters: keys, timestamps, steps, values, whether they are NaN, and places.
_METRICS = (
    """
added AS (
    INSERT INTO metrics (run_uuid, key, timestamp, step, value, is_nan)
    SELECT $1, m.* FROM run, unnest({0}, {1}, {2}, {3}, {4}) AS m
    ON CONFLICT DO NOTHING
)""",
    # Known metrics by their names, so that no two batches wait for each other; then new ones as they were logged.
    """
latest AS (
    INSERT INTO latest_metrics (run_uuid, key, timestamp, step, value, is_nan)
    SELECT $1, m.key, m.timestamp, m.step, m.value, m.is_nan
    FROM run, unnest({0}, {1}, {2}, {3}, {4}, {5}) AS m (key, timestamp, step, value, is_nan, place)
    LEFT JOIN latest_metrics known ON known.run_uuid = $1 AND known.key = m.key
    WHERE m.place >= 0 AND (
        known.key IS NULL OR (m.step, m.timestamp, m.value) > (known.step, known.timestamp, known.value)
    )
    ORDER BY known.key IS NULL, known.key, m.place
    ON CONFLICT (key, run_uuid)
        DO UPDATE SET timestamp = excluded.timestamp, step = excluded.step,
                      value = excluded.value, is_nan = excluded.is_nan
        WHERE (excluded.step, excluded.timestamp, excluded.value)
            > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)
)""",
)
#: A parameter that has another value already violates the primary key, and MLflow's handler says so.
_PARAMS = """
params_ AS (
    INSERT INTO params (run_uuid, key, value)
    SELECT $1, p.key, p.value FROM run, unnest({0}, {1}) WITH ORDINALITY AS p (key, value, place)
    WHERE NOT EXISTS (
        SELECT FROM params known WHERE known.run_uuid = $1 AND known.key = p.key AND known.value = p.value
    )
    ORDER BY p.place
)"""
#: In the order of SQLAlchemy's unit of work: what is there already by its key, then what is new.
_TAGS = """
tags_ AS (
    INSERT INTO tags (run_uuid, key, value)
    SELECT $1, t.key, t.value FROM run, unnest({0}, {1}) WITH ORDINALITY AS t (key, value, place)
    LEFT JOIN tags known ON known.run_uuid = $1 AND known.key = t.key
    WHERE known.value IS DISTINCT FROM t.value
    ORDER BY known.key IS NULL, known.key COLLATE "C", t.place
    ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value
)"""
_METRIC_TYPES = ("varchar[]", "bigint[]", "bigint[]", "float8[]", "boolean[]", "int[]")
_PAIR_TYPES = ("varchar[]", "varchar[]")
#: Where an artifact location is of this form, MLflow's ``append_to_uri_path`` is to append.
_SEGMENT, _SCHEME = "/[A-Za-z0-9._@=+-]+", "[a-z][a-z0-9+.-]*:"
PLAIN_LOCATION = f"^(({_SCHEME}(//)?)?({_SEGMENT})+|{_SCHEME}//[A-Za-z0-9._@:-]+({_SEGMENT})*)$"
_CREATE = f"""
WITH experiment AS MATERIALIZED (
    SELECT experiment_id, artifact_location || '/' || $2 || '/artifacts' AS uri FROM experiments
    WHERE experiment_id = $1 AND lifecycle_stage = 'active' AND artifact_location ~ '{PLAIN_LOCATION}'
      AND {visible("experiment_id")}
),
run AS (
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
                      source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT $2, $3, 'UNKNOWN', '', '', $4, 'RUNNING', $5, '', 'active', uri, experiment_id FROM experiment
    ON CONFLICT DO NOTHING
),
named AS (
    INSERT INTO tags (run_uuid, key, value)
    SELECT $2, t.key, t.value FROM experiment, unnest($6, $7) WITH ORDINALITY AS t (key, value, place) ORDER BY t.place
    ON CONFLICT DO NOTHING
)
SELECT uri FROM experiment
"""
_CREATE_TYPES = "int, varchar, varchar, varchar, bigint, varchar[], varchar[]"
_CHANGE = f"""
UPDATE runs r SET status = COALESCE($2, r.status), end_time = COALESCE($3, r.end_time)
WHERE r.run_uuid = $1 AND r.lifecycle_stage = 'active' AND {visible("r.experiment_id")}
RETURNING {info(1)}
"""


@cache
def _batch(metrics: bool, params: bool, tags: bool) -> tuple[str, str]:
    """Return the statement that stores what is there of the three, and its parameters' types."""
    types = ["varchar"]
    parts = [_RUN]
    for is_there, kinds, forms in (
        (metrics, _METRIC_TYPES, _METRICS), (params, _PAIR_TYPES, (_PARAMS,)), (tags, _PAIR_TYPES, (_TAGS,)),
    ):  # fmt: skip
        if is_there:
            marks = [f"${len(types) + number + 1}" for number in range(len(kinds))]
            types += kinds
            parts += [form.format(*marks) for form in forms]
    return f"WITH {','.join(parts)} SELECT found FROM run", ", ".join(types)


def batch(run: str, metrics: Sequence[Row], params: Mapping[str, str], tags: Mapping[str, str]) -> Query:
    """Return the statement that stores metrics, parameters and tags of a run; it answers ``{}``."""

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        if len(rows) != 1:
            raise Declined
        return [b"{}"]

    statement, types = _batch(bool(metrics), bool(params), bool(tags))
    values: list[object] = [run]
    if metrics:
        # What is there twice counts once; NaN is 0 here, and equals itself.
        unique = list(dict.fromkeys(metrics))
        keys, timestamps, steps, numbers, nans = zip(*unique, strict=True)
        values += [
            texts(keys),
            _array(timestamps),
            _array(steps),
            _array(numbers),
            _array(nans),
            _array(places(unique)),
        ]
    for pairs in (params, tags):
        if pairs:
            values += [texts(pairs), texts(pairs.values())]
    return Query(statement, types, values, finish)


def new_run(experiment: str, user: str, start_time: int, name: str, tags: Mapping[str, str]) -> Query:
    """Return the statement that makes a run; it answers the run."""
    run = uuid.uuid4().hex

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        if len(rows) != 1:
            raise Declined
        quoted = json.dumps
        shown = ",\n        ".join(
            f'{{\n          "key": {quoted(key)},\n          "value": {quoted(value)}\n        }}'
            for key, value in tags.items()
        )
        text = f"""{{
  "run": {{
    "info": {{
      "run_uuid": "{run}",
      "experiment_id": "{experiment}",
      "run_name": {quoted(name)},
      "user_id": {quoted(user)},
      "status": "RUNNING",
      "start_time": {start_time},
      "artifact_uri": {quoted(rows[0][0])},
      "lifecycle_stage": "active",
      "run_id": "{run}"
    }},
    "data": {{
      "tags": [
        {shown}
      ]
    }},
    "inputs": {{}}
  }}
}}"""
        return [text.encode()]

    values = [int(experiment), run, name, user, start_time, texts(tags), texts(tags.values())]
    return Query(_CREATE, _CREATE_TYPES, values, finish)


def change(run: str, status: str | None, end_time: int | None) -> Query:
    """Return the statement that notes a run's state or end; it answers the run's ``info``."""

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        if len(rows) != 1 or rows[0][0] is None:
            raise Declined
        return [b'{\n  "run_info": ' + finished(rows[0][0]) + b"\n}"]

    return Query(_CHANGE, "varchar, varchar, bigint", [run, status, end_time], finish)


def places(rows: Sequence[Row]) -> list[int]:
    """Return for each row the place of its metric's first row, or -1 if another one of that metric is more recent."""
    if len({row[0] for row in rows}) == len(rows):
        return list(range(len(rows)))
    found = list(range(len(rows)))
    best: dict[str, int] = {}
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        key = row[0]
        first.setdefault(key, number)
        known = best.get(key)
        if known is None or recency(row) > recency(rows[known]):
            if known is not None:
                found[known] = -1
            best[key] = number
            found[number] = first[key]
        else:
            found[number] = -1
    return found


def _array(numbers: Iterable[float]) -> str:
    """Return an array of numbers or truths as PostgreSQL reads it: one text costs the driver less than each alone."""
    return "{" + ",".join(map(repr, numbers)) + "}"


def texts(values: Iterable[str]) -> str:
    """Return an array of texts as PostgreSQL reads it (its documentation, "Array Input and Output Syntax")."""
    escaped = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    return '{"' + '","'.join(escaped) + '"}'
