"""The file of SQLite that a server is read into: rows, and notes of what is whole."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gatehouse.database import schema
from gatehouse.moving import sources

Values = dict[str, Any]

_TRACE_TABLES = (
    "trace_tags", "trace_request_metadata", "trace_metrics", "spans", "span_metrics", "assessments", "trace_info",
)  # fmt: skip
_TRACE_KEYS = {"spans": "trace_id", "span_metrics": "trace_id", "assessments": "trace_id"}


class Staged:
    """The file that is filled; any thread may.

    Args:
        path: the file; one that is there is filled further.
        name: the server's.

    Raises:
        SourceError: if the file has what was read of another server.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        if not path.exists():
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            with schema.locked(schema.make_engine(f"sqlite:///{part}")) as connection:
                schema.create(connection)
                connection.exec_driver_sql("DELETE FROM experiments")
                connection.exec_driver_sql(
                    "CREATE TABLE gatehouse_read (kind TEXT, key TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
                )
            sources.settle(part, path)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        of = self.all("SELECT key FROM gatehouse_read WHERE kind = 'source'")
        if of and of != [(name,)]:
            self.close()
            raise sources.SourceError(
                f"{path} has what was read of {of[0][0]}\n    fix: another --staging folder for {name}"
            )
        # A trace that was written in part, when the last reading was killed.
        for table in _TRACE_TABLES:
            key = _TRACE_KEYS.get(table, "request_id")
            self._connection.execute(
                f"DELETE FROM {table} WHERE {key} NOT IN "  # noqa: S608 - names of our own
                "(SELECT key FROM gatehouse_read WHERE kind = 'trace')"
            )

    def close(self) -> None:
        """Close it; what is in there stays."""
        self._connection.close()

    def all(self, query: str, values: Sequence[Any] | Values = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: Any) -> None:
        """Run a statement in a transaction of its own."""
        with self._lock:
            self._connection.execute(statement, values)

    def put(self, parts: Iterable[tuple[str, Sequence[Values]]], marks: tuple[str, Sequence[str]] = ("", ())) -> None:
        """Write rows, and the marks that they are whole, in one transaction; a row that is there is written over."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for table, rows in parts:
                    names = [column.name for column in sources.columns(sources.table(table))]
                    places = ", ".join("?" * len(names))
                    self._connection.executemany(
                        f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({places})",  # noqa: S608
                        ([row.get(name) for name in names] for row in rows),
                    )
                self._connection.executemany(
                    "INSERT OR IGNORE INTO gatehouse_read VALUES (?, ?)", [(marks[0], key) for key in marks[1]]
                )
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def mark(self, kind: str, keys: Sequence[str]) -> None:
        """Note that these are whole."""
        self.put((), (kind, keys))

    def marked(self, kind: str, key: str) -> bool:
        """Return whether this is whole."""
        return bool(self.all("SELECT 1 FROM gatehouse_read WHERE kind = ? AND key = ?", (kind, key)))
