"""The database's schema: made once on an empty database, never upgraded by accident.

MLflow creates tables, and upgrades an older schema, as a side effect of opening a store, without a lock. Here the
state is looked at first; an empty database is filled within one transaction that holds an advisory lock, so any
number of instances may start on it at once; an older or newer schema is refused before MLflow opens anything.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from gatehouse.exit_codes import Exit
from gatehouse.upstream import migrations

#: "gatehous" in ASCII: the key of the advisory lock, the same for every instance.
LOCK_KEY = int.from_bytes(b"gatehous", "big")
CONNECT_TIMEOUT_S = 5
TAKE_A_BACKUP = "take a backup of the database, then run: gatehouse migrate"


class State(enum.Enum):
    """How a database's schema stands against the installed MLflow."""

    EMPTY = "empty"
    CURRENT = "current"
    OLDER = "older"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Schema:
    """The state, the database's Alembic revision and the one that the installed MLflow wants."""

    state: State
    revision: str | None
    wanted: str


class SchemaError(Exception):
    """The database can't be used as it is; ``code`` is the process's exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def make_engine(uri: str) -> Engine:
    """Return an engine that keeps no connection open.

    SQLite's driver begins a transaction only before a change of data; creating the schema in one transaction
    needs it from the start, so it begins where ``locked`` says (SQLAlchemy's documentation on pysqlite, "Serializable
    isolation / Savepoints / Transactional DDL").
    """
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "sqlite":
        return sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": 60})

    @sqlalchemy.event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    return engine


def wanted_revision() -> str:
    """Return the newest of the installed MLflow's revisions."""
    return str(migrations.scripts().get_current_head())


def inspect(connection: Connection) -> Schema:
    """Compare the database's revision with the installed MLflow's."""
    wanted = wanted_revision()
    tables = set(sqlalchemy.inspect(connection).get_table_names())
    revisions = (
        [row[0] for row in connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))]
        if "alembic_version" in tables
        else []
    )
    if not revisions:
        # MLflow before 0.9 kept no revision; other programs' tables may share the database.
        state = State.OLDER if "experiments" in tables else State.EMPTY
        return Schema(state, None, wanted)
    if revisions == [wanted]:
        return Schema(State.CURRENT, wanted, wanted)
    known = {script.revision for script in migrations.scripts().walk_revisions()}
    state = State.OLDER if set(revisions) <= known else State.UNKNOWN
    return Schema(state, ", ".join(revisions), wanted)


@contextlib.contextmanager
def exclusive(engine: Engine) -> Iterator[Connection]:
    """Yield a connection while no other instance can be here at the same time.

    PostgreSQL: an advisory lock that ends with the transaction, so a killed instance leaves no lock behind. SQLite: a
    lock on a file beside the database, which the system releases as well.
    """
    with contextlib.ExitStack() as stack:
        if engine.dialect.name == "sqlite":
            path = Path(str(engine.url.database))
            lock = stack.enter_context(path.with_name(path.name + ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        connection = stack.enter_context(engine.connect())
        if engine.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        yield connection


@contextlib.contextmanager
def locked(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction of its own, exclusively; it is committed unless something is raised."""
    with exclusive(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.commit()


@contextlib.contextmanager
def first_comes_first(uri: str) -> Iterator[None]:
    """Let one instance at a time do what MLflow does at its very first start: it inserts the default experiment.

    Without that, of several instances that start on an empty database at once, all but one die of an IntegrityError.
    """
    engine = make_engine(uri)
    with engine.connect() as connection:
        started_before = connection.execute(sqlalchemy.text("SELECT 1 FROM experiments LIMIT 1")).first()
    if started_before:
        yield
        return
    with exclusive(engine):
        yield


def create(connection: Connection) -> None:
    """Make the whole schema on an empty database, as MLflow does: its first tables, then every migration."""
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    InitialBase.metadata.create_all(connection)
    migrations.upgrade(connection)


def refuse(schema: Schema) -> None:
    """Raise SchemaError unless the schema is the installed MLflow's."""
    from mlflow.version import VERSION

    if schema.state is State.OLDER:
        raise SchemaError(
            f"the database's schema ({schema.revision or 'of MLflow before 0.9'}) is older than that of MLflow {VERSION} "
            f"({schema.wanted}); nothing was changed\n    fix: {TAKE_A_BACKUP}",
            Exit.SCHEMA_OLDER,
        )
    if schema.state is State.UNKNOWN:
        raise SchemaError(
            f"the database's schema ({schema.revision}) isn't known to MLflow {VERSION}: a newer release made it; "
            "nothing was changed\n    fix: deploy that release again, or restore the backup taken before the upgrade",
            Exit.SCHEMA_UNKNOWN,
        )


def wait_for_database(engine: Engine, limit_s: float, say: Callable[[str], None]) -> None:
    """Wait until the database answers, saying so every few seconds.

    Raises:
        SchemaError: UNAVAILABLE if it doesn't within the limit, or refuses for a reason that waiting doesn't mend.
    """
    address = engine.url.render_as_string(hide_password=True)
    started = time.monotonic()
    pause = 0.2
    while True:
        try:
            with engine.connect():
                return
        except sqlalchemy.exc.OperationalError as error:
            reason = str(error.orig).strip()
        passed = time.monotonic() - started
        final = any(words in reason for words in ("authentication failed", "does not exist", "no pg_hba.conf entry"))
        if final or passed + pause > limit_s:
            raise SchemaError(
                f"the database {address} can't be used: {reason}\n"
                "    fix: check BACKEND_STORE_URI, that the database runs, and that this machine may reach it",
                Exit.UNAVAILABLE,
            ) from None
        say(f"waiting for the database {address} ({passed:.0f} s of {limit_s:.0f} s): {reason.splitlines()[0]}")
        time.sleep(pause)
        pause = min(pause * 2, 3.0)


def ensure(uri: str, limit_s: float, say: Callable[[str], None]) -> None:
    """Make sure that the database has the installed MLflow's schema, creating it on an empty one.

    Raises:
        SchemaError: if the database can't be reached within ``limit_s`` seconds, or its schema is another one.
    """
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(CONNECT_TIMEOUT_S))
    engine = make_engine(uri)
    wait_for_database(engine, limit_s, say)
    with engine.connect() as connection:
        schema = inspect(connection)
    if schema.state is State.EMPTY:
        say("the database is empty: creating MLflow's schema")
        with locked(engine) as connection:
            # Another instance may have been first.
            if inspect(connection).state is State.EMPTY:
                create(connection)
            schema = inspect(connection)
    refuse(schema)
