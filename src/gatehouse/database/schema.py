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

from gatehouse.database import tokens
from gatehouse.database.engine import TCP
from gatehouse.database.reach import SchemaError, check_pooler, check_rights, shown, told, wait_for_database
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
    #: Another program keeps its revisions in the table of that name.
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Schema:
    """The state, the database's Alembic revision and the one that the installed MLflow wants."""

    state: State
    revision: str | None
    wanted: str


def make_engine(uri: str) -> Engine:
    """Return an engine that keeps no connection open.

    SQLite's driver begins a transaction only before a change of data; creating the schema in one transaction
    needs it from the start, so it begins where ``locked`` says (SQLAlchemy's documentation on pysqlite, "Serializable
    isolation / Savepoints / Transactional DDL").
    """
    url, by_token = tokens.split(sqlalchemy.make_url(uri))
    if url.get_backend_name() != "sqlite":
        defaults = {"connect_timeout": CONNECT_TIMEOUT_S, **TCP}
        given = {name: value for name, value in defaults.items() if name not in url.query}
        made = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=given)
        if by_token:
            tokens.sign_in(made)
        return made
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
    state = (
        State.OLDER
        if set(revisions) <= known
        else State.UNKNOWN
        if {"experiments", "runs"} <= tables
        else State.FOREIGN
    )
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
    with told(engine), engine.connect() as connection:
        started_before = connection.execute(sqlalchemy.text("SELECT 1 FROM experiments LIMIT 1")).first()
    if started_before:
        yield
        return
    with exclusive(engine):
        yield


def create(connection: Connection, revision: str = "heads") -> None:
    """Make the whole schema on an empty database, as MLflow does: its first tables, then every migration.

    Args:
        revision: the last one; an older release's, where a backup of its is restored.
    """
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    InitialBase.metadata.create_all(connection)
    migrations.upgrade(connection, revision)


def refuse(schema: Schema) -> None:
    """Raise SchemaError unless the schema is the installed MLflow's."""
    from mlflow.version import VERSION

    if schema.state is State.OLDER:
        raise SchemaError(
            f"the database's schema ({schema.revision or 'of MLflow before 0.9'}) is older than that of MLflow "
            f"{VERSION} "
            f"({schema.wanted}); nothing was changed\n    fix: {TAKE_A_BACKUP}",
            Exit.SCHEMA_OLDER,
        )
    if schema.state is State.FOREIGN:
        raise SchemaError(
            f"another program's tables are in this schema of the database, and its revision ({schema.revision}) is "
            "where MLflow "
            "would keep its own (alembic_version); nothing was changed\n"
            "    fix: give MLflow a schema of its own: CREATE SCHEMA mlflow AUTHORIZATION …, and add "
            "?options=-csearch_path%3Dmlflow to "
            "BACKEND_STORE_URI; or a database of its own",
            Exit.SCHEMA_UNKNOWN,
        )
    if schema.state is State.UNKNOWN:
        raise SchemaError(
            f"the database's schema ({schema.revision}) isn't known to MLflow {VERSION}: a newer release made it; "
            "nothing was changed\n    fix: deploy that release again, or restore the backup taken before the upgrade",
            Exit.SCHEMA_UNKNOWN,
        )


def ensure(uri: str, limit_s: float, say: Callable[[str], None], connections: int = 0) -> None:
    """Make sure that the database has the installed MLflow's schema, creating it on an empty one.

    Args:
        connections: how many must be open at once, where a pooler may allow fewer.

    Raises:
        SchemaError: if the database can't be reached within ``limit_s`` seconds, lacks a right, or its schema is
        another one.
    """
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(CONNECT_TIMEOUT_S))
    engine = make_engine(uri)
    wait_for_database(engine, limit_s, say)
    with told(engine):
        with engine.connect() as connection:
            schema = inspect(connection)
            refuse(schema)
            check_rights(connection, to_create=schema.state is State.EMPTY)
        check_pooler(engine, connections)
        if schema.state is State.EMPTY:
            say("the database is empty: creating MLflow's schema")
            with locked(engine) as connection:
                # Another instance may have been first.
                if inspect(connection).state is State.EMPTY:
                    create(connection)
                schema = inspect(connection)
    refuse(schema)


def ensure_replica(uri: str, setting: str, limit_s: float, say: Callable[[str], None]) -> None:
    """Wait until the database's replica answers and has the schema that the database has.

    Args:
        setting: the one that names it.

    Raises:
        SchemaError: UNAVAILABLE if it can't be reached, or doesn't follow within ``limit_s`` seconds.
    """
    engine = make_engine(uri)
    deadline = time.monotonic() + limit_s
    wait_for_database(engine, limit_s, say, setting)
    while True:
        with told(engine), engine.connect() as connection:
            found = inspect(connection)
        if found.state is State.CURRENT:
            return
        if time.monotonic() > deadline:
            raise SchemaError(
                f"the replica {shown(engine)} has the schema {found.revision or '(none)'}, and the database "
                f"{found.wanted}\n"
                f"    fix: check {setting}, and that it follows the database (pg_stat_replication)",
                Exit.UNAVAILABLE,
            )
        time.sleep(0.2)
