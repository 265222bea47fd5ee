"""Rows, from the source's database into the gate's: a batch in a transaction, compared before it is committed."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import JSON, bindparam, select

from gatehouse.moving import sources

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.engine import Connection, Engine

    from gatehouse.moving.groups import Group
    from gatehouse.moving.places import Places

Row = tuple[Any, ...]

#: Rows that go to the database at once.
CHUNK = 5000
#: Keys in one IN (…).
KEYS = 500
#: What is brought along says so, and whose it was there: nobody here has verified it.
MARK, OWNER = "gatehouse.imported", "gatehouse.claimed_owner"
TAKEN = "the name is taken here by one that didn't come from this source: rename either, then import again"
#: Where the marks of a group's rows go: table, and its columns of key, value and owner (the row's key).
_MARKS = {
    "runs": ("tags", "key", "value", "run_uuid"),
    "logged_models": ("logged_model_tags", "tag_key", "tag_value", "model_id"),
    "registered_models": ("registered_model_tags", "key", "value", "name"),
    "trace_info": ("trace_tags", "key", "value", "request_id"),
}
#: PostgreSQL's text form of COPY.
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class Differs(Exception):
    """What was read back isn't what was written."""


@dataclass
class Outcome:
    """What came of a group."""

    copied: int = 0
    #: Rows of the group's first table that were here already.
    there: int = 0
    #: Row → why it couldn't come along.
    failed: dict[str, str] = field(default_factory=dict)
    #: Rows by table.
    rows: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Add another batch's."""
        self.copied += other.copied
        self.there += other.there
        self.failed.update(other.failed)
        self.rows.update(other.rows)


class Copier:
    """Copies batches; several threads may at once, each with connections of its own.

    Args:
        source: the source's rows.
        target: the gate's database.
        places: how numbers of experiments and locations of artifacts change.
        name: the source's, for the marks.
    """

    def __init__(self, source: Engine, target: Engine, places: Places, name: str) -> None:
        self._source = source
        self._target = target
        self._places = places
        self._name = name

    def keys(self, group: Group) -> list[str]:
        """Return the keys of all of a group's rows in the source, in their order."""
        table = sources.table(group.table)
        column = table.c[group.key]
        with self._source.connect() as connection:
            return list(connection.scalars(select(column).order_by(column)))

    def copy(self, group: Group, keys: Sequence[str]) -> Outcome:
        """Copy those of the rows that aren't here; whatever can't come along keeps no other from it."""
        column = sources.table(group.table).c[group.key]
        with self._target.connect() as connection:
            there = set(connection.scalars(select(column).where(column.in_(keys))))
            others = self._others(connection, group, there)
        outcome = Outcome(there=len(there) - len(others))
        outcome.failed.update(dict.fromkeys((f"{group.table} {name}" for name in others), TAKEN))
        self._copy(group, [key for key in keys if key not in there], outcome)
        return outcome

    def _others(self, connection: Connection, group: Group, names: set[str]) -> set[str]:
        """Return the names that are taken here by what no import of this source brought; ids are nobody else's."""
        if group.key != "name" or not names:
            return set()
        table, key, value, owner = _MARKS[group.table]
        tags = sources.table(table)
        ours = select(tags.c[owner]).where(tags.c[owner].in_(names), tags.c[key] == MARK, tags.c[value] == self._name)
        return names - set(connection.scalars(ours))

    def _copy(self, group: Group, keys: Sequence[str], outcome: Outcome) -> None:
        if not keys:
            return
        try:
            rows = self._transaction(group, keys)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError, Differs, ValueError) as error:
            if len(keys) == 1:
                reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
                outcome.failed[f"{group.table} {keys[0]}"] = reason
                return
            middle = len(keys) // 2
            self._copy(group, keys[:middle], outcome)
            self._copy(group, keys[middle:], outcome)
        else:
            outcome.copied += len(keys)
            outcome.rows.update(rows)

    def _transaction(self, group: Group, keys: Sequence[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        with self._source.connect() as old, self._target.connect() as new:
            begin(new)
            for name, column in ((group.table, group.key), *group.parts):
                table = sources.table(name)
                change = self._places.change(table)
                written = Check(table)
                rows = self._marked(group, name, keys, old, read(old, table, column, keys), change)
                for chunk in chunks(rows, CHUNK):
                    written.add(chunk)
                    write(new, table, chunk)
                found = Check(table)
                for chunk in chunks(read(new, table, column, keys), CHUNK):
                    found.add(chunk)
                if found != written:
                    raise Differs(
                        f"{name}: {written.count} rows were written, and {found.count} or others were read back"
                    )
                counts[name] += written.count
            new.commit()
        return counts

    def _marked(
        self,
        group: Group,
        name: str,
        keys: Sequence[str],
        old: Connection,
        rows: Iterator[Row],
        change: Callable[[Row], Row] | None,
    ) -> Iterator[Row]:
        yield from map(change, rows) if change else rows
        place = _MARKS.get(group.table)
        if place is None or place[0] != name:
            return
        table = sources.table(name)
        for key in keys:
            yield self._mark(table, place, key, MARK, self._name)
        if group.table == "runs":
            runs = sources.table("runs")
            for key, owner in old.execute(select(runs.c.run_uuid, runs.c.user_id).where(runs.c.run_uuid.in_(keys))):
                if owner:
                    yield self._mark(table, place, key, OWNER, owner)

    def _mark(self, table: Table, place: tuple[str, str, str, str], key: str, name: str, value: str) -> Row:
        values = {place[1]: name, place[2]: value, place[3]: key}
        return tuple(
            values[column.name] if column.name in values else self._default(column.name, key)
            for column in sources.columns(table)
        )

    def _default(self, column: str, key: str) -> Any:
        """Return what a mark's row has in its other columns."""
        return (
            "default"
            if column == "workspace"
            else self._places.experiment_of(key)
            if column == "experiment_id"
            else None
        )


class Check:
    """The number of rows and a checksum of them, whatever their order."""

    def __init__(self, table: Table) -> None:
        self._json = [i for i, column in enumerate(sources.columns(table)) if isinstance(column.type, JSON)]
        self.count = 0
        self.sum = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        for row in rows:
            self.count += 1
            if self._json:
                row = tuple(
                    json.dumps(value, sort_keys=True) if i in self._json else value for i, value in enumerate(row)
                )
            try:
                self.sum += hash(row)
            except TypeError:
                self.sum += hash(repr(row))
            if any(isinstance(value, float) and math.isnan(value) for value in row):
                self.sum += hash(repr(row)) - hash(row)  # each NaN is another one for hash()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Check) and (self.count, self.sum) == (other.count, other.sum)

    __hash__ = None  # type: ignore[assignment]


def begin(connection: Connection) -> None:
    """Begin a transaction, where the driver leaves that to us (SQLite)."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def read(connection: Connection, table: Table, column: str, keys: Sequence[str]) -> Iterator[Row]:
    """Yield the rows that belong to keys."""
    query = select(*sources.columns(table)).where(table.c[column].in_(bindparam("keys", expanding=True)))
    for part in chunks(iter(keys), KEYS):
        result = connection.execution_options(yield_per=CHUNK).execute(query, {"keys": part})
        for rows in result.partitions():
            yield from map(tuple, rows)


def write(
    connection: Connection, table: Table, rows: Sequence[Row], chosen: Sequence[Column[Any]] | None = None
) -> None:
    """Add rows: by COPY on PostgreSQL.

    Args:
        chosen: the columns that a row has, if not all that rows are written to.
    """
    columns = chosen or sources.columns(table)
    if connection.dialect.name != "postgresql":
        names = [column.name for column in columns]
        connection.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])
        return
    jsons = [isinstance(column.type, JSON) for column in columns]
    buffer = io.StringIO()
    for row in rows:
        buffer.write("\t".join(map(field_text, row, jsons)))
        buffer.write("\n")
    buffer.seek(0)
    quote = connection.dialect.identifier_preparer.quote
    names_text = ", ".join(quote(column.name) for column in columns)
    raw: Any = connection.connection.cursor()
    try:
        raw.copy_expert(f"COPY {quote(table.name)} ({names_text}) FROM STDIN", buffer)
    except Exception as error:
        # As SQLAlchemy tells what execute() raises.
        database_error = connection.dialect.loaded_dbapi
        if isinstance(error, database_error.IntegrityError):
            raise sqlalchemy.exc.IntegrityError("COPY", None, error) from error
        if isinstance(error, database_error.DataError):
            raise sqlalchemy.exc.DataError("COPY", None, error) from error
        raise
    finally:
        raw.close()


def field_text(value: Any, is_json: bool) -> str:
    """Return a value in COPY's text form."""
    if is_json and value is not None:
        value = json.dumps(value)
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if value is True or value is False:
        return "t" if value else "f"
    return repr(value) if isinstance(value, float) else str(value)


_UNESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MEANT = {"t": "\t", "n": "\n", "r": "\r"}


def parse_line(line: str, parsers: Sequence[Callable[[str], Any]]) -> Row:
    """Return the row that a line of COPY's text form has."""
    fields = line.removesuffix("\n").split("\t")
    return tuple(
        None
        if text == "\\N"
        else parse(_UNESCAPED.sub(lambda found: _MEANT.get(found[1], found[1]), text) if "\\" in text else text)
        for text, parse in zip(fields, parsers, strict=True)
    )


def chunks(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most so many."""
    part: list[Any] = []
    for row in rows:
        part.append(row)
        if len(part) >= size:
            yield part
            part = []
    if part:
        yield part
