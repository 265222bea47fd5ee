"""metrics/get-history and metrics/get-history-bulk-interval, as one SELECT each.

``SqlAlchemyStore.get_metric_history`` and ``get_metric_history_bulk_interval`` of
mlflow/store/tracking/sqlalchemy_store.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.database.reads.query import Query, visible_runs
from gatehouse.database.reads.runs import metric
from gatehouse.database.reads.text import Field, listing, page, plain_string

if TYPE_CHECKING:
    from collections.abc import Sequence

_HISTORY = f"""
SELECT {metric(2)} FROM metrics m WHERE m.run_uuid = $1 AND m.key = $2 AND {visible_runs("ARRAY[$1]")}
ORDER BY m.timestamp, m.step, m.value LIMIT $3 OFFSET $4
"""
#: The rows in their order are dealt into as many buckets as points are wanted, as SQL's ntile does: the first of each
#: bucket stays, and of the last one the very last. ``place`` counts from 0; the first ``rows % points`` buckets have
#: one row more than the others.
_SAMPLED = f"""
SELECT {metric(2, Field("run_id", plain_string("m.run")))}
FROM unnest($1::varchar[]) WITH ORDINALITY AS wanted (run, position),
LATERAL (
    SELECT wanted.run, m.key, m.value, m.is_nan, m.timestamp, m.step,
           row_number() OVER (ORDER BY m.step, m.timestamp, m.value, m.is_nan) - 1 AS place, count(*) OVER () AS rows
    FROM metrics m
    WHERE m.run_uuid = wanted.run AND m.key = $2 AND ($4::bigint IS NULL OR m.step BETWEEN $4 AND $5)
          AND {visible_runs("$1")}
) m
WHERE m.rows <= $3 OR m.place = m.rows - 1 OR (
    CASE WHEN m.place < (m.rows % $3) * (m.rows / $3 + 1)
        THEN m.place % (m.rows / $3 + 1) = 0
        ELSE (m.place - (m.rows % $3) * (m.rows / $3 + 1)) % (m.rows / $3) = 0
    END AND m.place < m.rows - m.rows / $3
)
ORDER BY wanted.position, m.place
"""


def history(run: str, key: str, limit: int | None, offset: int) -> Query:
    """Return the query of ``GET metrics/get-history``."""

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        return listing("metrics", rows, None) if limit is None else page("metrics", rows, limit, offset)

    values = [run, key, None if limit is None else limit + 1, offset]
    return Query(_HISTORY, "varchar, varchar, bigint, bigint", values, finish, bool)


def sampled(runs: Sequence[str], key: str, points: int, steps: tuple[int, int] | None) -> Query:
    """Return the query of ``GET metrics/get-history-bulk-interval``: so many points of each run at most."""

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        return listing("metrics", rows, None)

    first, last = steps or (None, None)
    values = [list(runs), key, points, first, last]
    return Query(_SAMPLED, "varchar[], varchar, bigint, bigint, bigint", values, finish, bool)
