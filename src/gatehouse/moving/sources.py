"""Where things come from: each kind of source, opened as a database with the installed MLflow's schema.

The source itself is only read.
"""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy
from sqlalchemy import Column, MetaData, Table, event, select

from gatehouse.database import schema
from gatehouse.upstream import migrations

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, Engine

    from gatehouse.moving.server.remote import Remote

#: Rows that are read at once.
ROWS = 5000


class SourceError(Exception):
    """The source can't be read as what it is; the text says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        name: what the report and the tags call it; it holds no credential.
        engine: its rows, with the installed MLflow's schema.
        folder: the ``mlruns`` folder, where it is one.
        server: the server, where it is one.
        notes: what is to be told of it.
        failed: what couldn't be read of it → why.
    """

    name: str
    engine: Engine
    folder: Path | None = None
    server: Remote | None = None
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def open_source(
    where: str, staging: Path, say: Callable[[str], None], dry_run: bool = False, insecure: bool = False
) -> Source:
    """Open a server's address, a folder, a database's URL or a file of SQLite.

    Args:
        staging: a folder where a copy may be kept; what is in there from an earlier try is used again.
        dry_run: whether it will only be counted.
        insecure: whether a credential for a server may go over http:// to another machine.

    Raises:
        SourceError: if it is none of these, or of a newer MLflow.
    """
    scheme = urlsplit(where).scheme
    if scheme in {"http", "https"}:
        from gatehouse.moving import server
        from gatehouse.moving.server import remote

        try:
            return server.open_server(remote.Remote(where, os.environ, insecure), staging, say, dry_run)
        except remote.Unusable as error:
            raise SourceError(str(error)) from None
    if scheme in {"postgresql", "postgres", "postgresql+psycopg2"}:
        return _postgresql(where, staging, say)
    path = Path(where.removeprefix("sqlite:///")) if scheme == "sqlite" else Path(where)
    if path.is_dir():
        return _folder(path, staging, say)
    if path.is_file():
        return _sqlite(path, staging, say)
    raise SourceError(f"{where!r} is neither a folder, a file of SQLite, sqlite:////…, postgresql://… nor https://…")


def _engine(path: Path) -> Engine:
    return schema.make_engine(f"sqlite:///{path}")


def _folder(path: Path, staging: Path, say: Callable[[str], None]) -> Source:
    """Have MLflow itself read the folder (``mlflow migrate-filestore``) into a file of SQLite."""
    from mlflow.store.fs2db import migrate

    target = staging / "staged.db"
    if not target.exists():
        say("reading the folder; this takes a while for many runs")
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        # MLflow refuses to open a folder as a store, but for its own migration.
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        event.listen(sqlalchemy.Engine, "before_cursor_execute", _once, retval=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                migrate(path, f"sqlite:///{part}", progress=False)
        except Exception as error:
            raise SourceError(f"{path} can't be read as an mlruns folder: {error}") from error
        finally:
            event.remove(sqlalchemy.Engine, "before_cursor_execute", _once)
        settle(part, target)
    return Source(str(path), _engine(target), path / "mlruns" if (path / "mlruns").is_dir() else path)


def _once(
    _connection: object, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    """Let a metric's value that the folder has twice, as MLflow itself writes it for models, come along once."""
    if statement.startswith("INSERT INTO metrics "):
        statement = statement.replace("INSERT INTO", "INSERT OR IGNORE INTO", 1)
    return statement, parameters


def _sqlite(path: Path, staging: Path, say: Callable[[str], None]) -> Source:
    """Copy the file, as it is at one moment, and bring the copy's schema up to date."""
    target = staging / "staged.db"
    if not target.exists():
        say("copying the database")
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        try:
            with (
                contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as old,
                contextlib.closing(sqlite3.connect(part)) as new,
            ):
                old.backup(new)
        except sqlite3.Error as error:
            raise SourceError(f"{path} can't be read as a database of SQLite: {error}") from None
        _upgrade(_engine(part), str(path), say)
        settle(part, target)
    return Source(str(path), _engine(target))


def _postgresql(uri: str, staging: Path, say: Callable[[str], None]) -> Source:
    """Read the database where it is, or, if it is an older MLflow's, a copy of its rows in a file of SQLite."""
    from gatehouse.start.settings import Invalid, parse_database

    try:
        uri = parse_database(uri)
    except Invalid as error:
        raise SourceError(f"the source's URL {error.what}\n    fix: {error.fix}") from None
    engine = sqlalchemy.create_engine(
        uri, isolation_level="REPEATABLE READ", execution_options={"postgresql_readonly": True}, pool_pre_ping=True
    )
    name = f"postgresql://{engine.url.host or ''}/{engine.url.database}"
    try:
        with engine.connect() as connection:
            found = schema.inspect(connection)
    except sqlalchemy.exc.OperationalError as error:
        raise SourceError(f"{name} can't be reached: {str(error.orig).strip()}") from None
    if found.state is schema.State.CURRENT:
        return Source(name, engine)
    target = staging / "staged.db"
    if not target.exists():
        _refuse_newer(found, name)
        if found.revision is None:
            raise SourceError(
                f"{name} is of an MLflow before 0.9, which kept no revision\n    fix: mlflow db upgrade there"
            )
        say("the source has an older schema: copying its rows")
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        with engine.connect() as connection:
            _copy_all(connection, _engine(part), found.revision)
        _upgrade(_engine(part), name, say)
        settle(part, target)
    return Source(name, _engine(target))


def _copy_all(old: Connection, engine: Engine, revision: str) -> None:
    """Copy every table into a database that MLflow's own migrations bring to the same revision."""
    with schema.locked(engine) as new:
        schema.create(new, revision)
        tables = MetaData()
        tables.reflect(new)
        for table in reversed(tables.sorted_tables):
            new.execute(table.delete())  # what a migration put there comes from the source
        for table in tables.sorted_tables:
            for rows in old.execution_options(yield_per=ROWS).execute(select(table)).partitions():
                new.execute(table.insert(), [dict(row._mapping) for row in rows])


def _refuse_newer(found: schema.Schema, name: str) -> None:
    if found.state in {schema.State.UNKNOWN, schema.State.FOREIGN}:
        raise SourceError(
            f"{name} has the schema {found.revision}, which the installed MLflow doesn't know: it is a newer one's, or "
            "another program's\n    fix: import with a release of Gatehouse that has that MLflow"
        )
    if found.state is schema.State.EMPTY:
        raise SourceError(f"{name} has no tables of MLflow's")


def _upgrade(engine: Engine, name: str, say: Callable[[str], None]) -> None:
    """Bring a copy's schema up to date."""
    with engine.connect() as connection:
        found = schema.inspect(connection)
    _refuse_newer(found, name)
    if found.state is schema.State.OLDER:
        say(f"bringing the copy's schema from {found.revision} to {found.wanted}")
        with schema.locked(engine) as connection:
            migrations.upgrade(connection)


def settle(part: Path, target: Path) -> None:
    """Put what is in a file of SQLite, and in the log beside it, into one file, which is there whole or not at all."""
    whole = target.with_suffix(".whole")
    whole.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(part)) as old, contextlib.closing(sqlite3.connect(whole)) as new:
        old.backup(new)
    whole.rename(target)
    for left in part.parent.glob(part.name + "*"):
        left.unlink()


def table(name: str) -> Table:
    """Return a table of the installed MLflow's schema."""
    return metadata().tables[name]


def columns(table: Table) -> list[Column[Any]]:
    """Return the columns that rows are written to; the database works out the others."""
    return [column for column in table.columns if column.computed is None]


def metadata() -> MetaData:
    """Return the installed MLflow's tables."""
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.model_registry.dbmodels import models as registry  # noqa: F401 - adds its tables
    from mlflow.store.tracking.dbmodels import models as tracking  # noqa: F401

    found: MetaData = Base.metadata
    return found
