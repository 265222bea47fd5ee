"""The whole of an import: experiments, rows, artifacts, and the report of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy
from sqlalchemy import func, select

from gatehouse.moving import experiments, sources
from gatehouse.moving.files import SERVED, Files, Moved
from gatehouse.moving.groups import BATCH, GROUPS, LEFT_BEHIND, OF_EXPERIMENTS
from gatehouse.moving.places import Places
from gatehouse.moving.rows import Copier, Outcome, chunks

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from gatehouse.artifacts.stores.base import Store
    from gatehouse.moving.sources import Source


class Progress(Protocol):
    """What is told how far it is."""

    def begin(self, what: str, total: int) -> None:
        """Say what comes now, and how much of it there is."""

    def advance(self, count: int) -> None:
        """Say how much more is done."""


@dataclass
class Report:
    """What came of an import."""

    source: str
    dry_run: bool
    counts: dict[str, int] = field(default_factory=dict)
    groups: dict[str, Outcome] = field(default_factory=dict)
    artifacts: Moved = field(default_factory=Moved)
    left_behind: dict[str, str] = field(default_factory=dict)
    #: What couldn't be read in the source.
    unread: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def failures(self) -> dict[str, str]:
        """What could not come along, and why."""
        failed: dict[str, str] = {}
        for outcome in self.groups.values():
            failed.update(outcome.failed)
        return {**self.unread, **failed, **self.artifacts.failed}

    def document(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        return {
            "source": self.source,
            "dry_run": self.dry_run,
            "in_the_source": self.counts,
            "copied": {name: each.copied for name, each in self.groups.items()},
            "here_already": {name: each.there for name, each in self.groups.items()},
            "rows": {name: count for each in self.groups.values() for name, count in each.rows.items()},
            "artifacts": {
                "files": self.artifacts.files,
                "bytes": self.artifacts.bytes,
                "here_already": self.artifacts.there,
            },
            "could_not_come_along": self.failures,
            "left_behind": self.left_behind,
            "notes": self.notes,
        }

    def write(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(self.document(), indent=2) + "\n")


def count(source: Source) -> tuple[dict[str, int], dict[str, str]]:
    """Return the source's rows by table, and what is left behind with its reason."""
    counts: dict[str, int] = {}
    left: dict[str, str] = {}
    wanted = [
        *OF_EXPERIMENTS,
        *(name for group in GROUPS for name in (group.table, *(part for part, _ in group.parts))),
    ]
    with source.engine.connect() as connection:
        for name in wanted:
            counts[name] = int(connection.scalar(select(func.count()).select_from(sources.table(name))) or 0)
        for name, reason in LEFT_BEHIND.items():
            rows = int(connection.scalar(select(func.count()).select_from(sources.table(name))) or 0)
            if rows:
                left[name] = f"{rows}: {reason}"
    return counts, left


def move(
    source: Source,
    target: Engine | None,
    root: str | None,
    files: Files | None,
    threads: int,
    progress: Progress,
    dry_run: bool = False,
) -> Report:
    """Bring along all that there is, or with ``dry_run`` count it; what an earlier, interrupted import brought stays.

    Args:
        target: the gate's database, with the installed MLflow's schema; a dry run needs none.
        root: below which artifacts lie here; None leaves every location as it is.
        files: copies artifacts; None copies none.
    """
    report = Report(source.name, dry_run, unread=source.failed)
    report.counts, report.left_behind = count(source)
    if target is None:
        dry_run = True
        numbers = {number: number for number in _numbers(source.engine)}
    else:
        numbers, report.notes = experiments.bring(source.engine, target, source.name, root)
    report.notes += source.notes
    places = Places(numbers, root)
    places.learn(source.engine)
    with ThreadPoolExecutor(threads, "import") as pool:
        if files is not None and root is not None and root.startswith(SERVED):
            # Before the rows: nothing here ever names an artifact that isn't here.
            progress.begin("artifacts", len(places.moved))
            tasks = [pool.submit(files.copy, old, new, dry_run) for old, new in places.moved.items()]
            for moved in _finished(tasks):
                report.artifacts.add(moved)
                progress.advance(1)
        if target is None:
            return report
        copier = Copier(source.engine, target, places, source.name)
        for group in GROUPS:
            keys = copier.keys(group)
            progress.begin(group.table, len(keys))
            outcome = report.groups[group.table] = Outcome()
            batches = [pool.submit(copier.copy, group, part) for part in chunks(iter(keys), BATCH)]
            for done in _finished(batches):
                outcome.add(done)
                progress.advance(done.copied + done.there + len(done.failed))
    return report


def _numbers(engine: Engine) -> Iterable[int]:
    table = sources.table("experiments")
    with engine.connect() as connection:
        return list(connection.scalars(select(table.c.experiment_id)))


def _finished(tasks: list[Any]) -> Iterable[Any]:
    """Yield results as they come; the first failure ends all that hasn't begun."""
    try:
        for task in as_completed(tasks):
            yield task.result()
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def target_engine(uri: str, say: Callable[[str], None], threads: int) -> Engine:
    """Return the gate's database, made if it is empty.

    Raises:
        SchemaError: if it can't be used.
    """
    from gatehouse.database import schema

    schema.ensure(uri, 60.0, say)
    if uri.startswith("sqlite:"):
        return schema.make_engine(uri)
    return sqlalchemy.create_engine(uri, pool_size=threads, max_overflow=1, pool_pre_ping=True)


def threads_for(uri: str) -> int:
    """Return how many batches run at once: SQLite takes one writer."""
    return 1 if uri.startswith("sqlite:") else min(8, 2 * (os.cpu_count() or 1))


def shared_store(destination: str) -> Store:
    """Return the gate's store."""
    from gatehouse.artifacts import stores

    return stores.shared(destination)
