"""Experiments: each gets its place here first, for all else names one by its number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select, text

from gatehouse.moving import sources
from gatehouse.moving.rows import MARK, begin

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

#: The largest number that the column takes on PostgreSQL. A folder's experiments have longer ones.
LARGEST = 2**31 - 1
DEFAULT = 0
#: MLflow's own limit of an experiment's name in its table.
MAX_NAME = 256


def bring(source: Engine, target: Engine, name: str, root: str | None) -> tuple[dict[int, int], list[str]]:
    """Make every experiment of the source here, unless an earlier import did.

    Returns: the numbers, there → here, and what to tell.

    A number that is free here stays. The default experiment goes into the one here; another one whose name is taken
    gets the source's name behind its own.

    Args:
        name: the source's, for the marks.
        root: below which artifacts lie here, or None to leave each experiment's location as it is.
    """
    experiments, tags = sources.table("experiments"), sources.table("experiment_tags")
    with source.connect() as connection:
        found = connection.execute(select(*sources.columns(experiments)).order_by(experiments.c.experiment_id))
        rows: list[dict[str, Any]] = [dict(row._mapping) for row in found]
        labels: dict[int, list[tuple[str, str]]] = {}
        for tag in connection.execute(select(tags)):
            labels.setdefault(tag.experiment_id, []).append((tag.key, tag.value))
    numbers: dict[int, int] = {}
    told: list[str] = []
    with target.connect() as connection:
        begin(connection)
        marks = connection.execute(select(tags.c.value, tags.c.experiment_id).where(tags.c.key == MARK))
        known: dict[str, int] = {mark.value: int(mark.experiment_id) for mark in marks}
        for row in rows:
            old = int(row["experiment_id"])
            mark = f"{name} #{old}"
            if mark in known:
                numbers[old] = known[mark]
                continue
            if old == DEFAULT and _exists(connection, DEFAULT):
                numbers[old] = DEFAULT
                continue
            number = old if DEFAULT <= old <= LARGEST and not _exists(connection, old) else _free(connection)
            own = row["name"]
            if connection.scalar(select(experiments.c.experiment_id).where(experiments.c.name == own)) is not None:
                row["name"] = f"{own[: MAX_NAME - len(name) - 3]} ({name})"
                told.append(f"the experiment {own!r} is {row['name']!r} here: its name is taken")
            if number != old:
                told.append(f"the experiment {own!r} has the number {number} here, not {old}")
            row["experiment_id"] = number
            if root is not None:
                row["artifact_location"] = f"{root.rstrip('/')}/{number}"
            connection.execute(insert(experiments).values(**row))
            pairs = [*labels.get(old, ()), (MARK, mark)]
            connection.execute(insert(tags), [{"key": k, "value": v, "experiment_id": number} for k, v in pairs])
            numbers[old] = number
        if connection.dialect.name == "postgresql":
            connection.execute(
                text(
                    "SELECT setval(pg_get_serial_sequence('experiments', 'experiment_id'), "
                    "(SELECT GREATEST(MAX(experiment_id), 1) FROM experiments))"
                )
            )
        connection.commit()
    return numbers, told


def _exists(connection: Connection, number: int) -> bool:
    experiments = sources.table("experiments")
    return connection.scalar(select(experiments.c.name).where(experiments.c.experiment_id == number)) is not None


def _free(connection: Connection) -> int:
    experiments = sources.table("experiments")
    return int(connection.scalar(select(func.coalesce(func.max(experiments.c.experiment_id), 0))) or 0) + 1
