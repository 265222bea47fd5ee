"""Whether the database can be used: it answers, its user has the rights, and as many connections fit as are needed.

What a database refuses with is told in one sentence with its fix and an exit code, by start, ``gatehouse migrate`` and
``gatehouse doctor`` alike.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import sqlalchemy
from sqlalchemy.engine import Connection, Engine

from gatehouse.exit_codes import Exit

#: Words of libpq's and of the server's that mend themselves: a database that starts, moves, or is full for a moment.
TRANSIENT = (
    "connection refused", "timeout expired", "could not translate host name", "no such file or directory",
    "closed the connection",
    "starting up", "shutting down", "recovery mode", "not accepting connections", "not yet accepting",
    "too many clients",
    "remaining connection slots", "too many connections", "no route to host", "network is unreachable", "host is down",
    "reset by peer",
    "host is unreachable", "connection timed out", "server_login_retry", "no more connections allowed", "broken pipe",
    "database is locked", "eof detected",
)  # fmt: skip
#: How long connections are waited for that are needed at the same time.
POOLER_LIMIT_S = 10.0
_INSUFFICIENT_PRIVILEGE, _READ_ONLY, _INVALID_SCHEMA = "42501", "25006", "3F000"


class SchemaError(Exception):
    """The database can't be used as it is; ``code`` is the process's exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def shown(engine: Engine) -> str:
    """Return the database's address without its password."""
    return engine.url.render_as_string(hide_password=True)


def wait_for_database(
    engine: Engine, limit_s: float, say: Callable[[str], None], setting: str = "BACKEND_STORE_URI"
) -> None:
    """Wait until the database answers, saying so every few seconds.

    Args:
        setting: the one that names the database.

    Raises:
        SchemaError: UNAVAILABLE if it doesn't within the limit, or refuses for a reason that waiting doesn't mend.
    """
    started = time.monotonic()
    pause = 0.2
    while True:
        try:
            with engine.connect():
                return
        except sqlalchemy.exc.DBAPIError as error:
            reason = str(error.orig).strip() or type(error.orig).__name__
        passed = time.monotonic() - started
        final = not any(words in reason.lower() for words in TRANSIENT)
        if final or passed + pause > limit_s:
            raise SchemaError(
                f"the database {shown(engine)} can't be used: {reason}\n"
                f"    fix: check {setting}, that the database runs, and that this machine may reach it",
                Exit.UNAVAILABLE,
            ) from None
        say(f"waiting for the database {shown(engine)} ({passed:.0f} s of {limit_s:.0f} s): {reason.splitlines()[0]}")
        time.sleep(pause)
        pause = min(pause * 2, 3.0)


@contextlib.contextmanager
def told(engine: Engine) -> Iterator[None]:
    """Turn what the database refuses with into a SchemaError (UNAVAILABLE) that says what to do."""
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
        fix = {
            _INSUFFICIENT_PRIVILEGE: f"as its owner: {grant(engine)}",
            _READ_ONLY: (
                "name the primary in BACKEND_STORE_URI; a replica for reads goes into "
                "MLFLOW_READ_REPLICA_BACKEND_STORE_URI"
            ),
        }.get(str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", "")), "see the database's log")
        raise SchemaError(
            f"the database {shown(engine)} refuses: {reason}; nothing was changed\n    fix: {fix}", Exit.UNAVAILABLE
        ) from None


def grant(engine: Engine, schema: str = "public") -> str:
    """Return the statement that gives the database's user what MLflow needs."""
    return f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{engine.url.username}"'


def check_rights(connection: Connection, *, to_create: bool) -> None:
    """Check that the user may write, and create tables if ``to_create``.

    Raises:
        SchemaError: UNAVAILABLE, with the statement that helps.
    """
    engine = connection.engine
    if engine.dialect.name != "postgresql":
        return
    row = connection.execute(
        sqlalchemy.text(
            "SELECT current_schema(), current_setting('search_path'), current_user, pg_is_in_recovery(),"
            " current_setting('transaction_read_only') = 'on',"
            " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),"
            " (SELECT has_table_privilege(oid, 'INSERT') FROM pg_class WHERE oid = to_regclass('experiments'))"
        )
    ).one()
    schema, path, user, replica, read_only, may_create, may_insert = row
    what = fix = ""
    if schema is None:
        what = f"has none of the schemas in its search path ({path})"
        fix = (
            f'as the owner of the database: CREATE SCHEMA … AUTHORIZATION "{user}", or correct options=-csearch_path '
            "in BACKEND_STORE_URI"
        )
    elif replica or read_only:
        what = "is a read-only replica" if replica else "is read-only (default_transaction_read_only)"
        fix = (
            "name the primary in BACKEND_STORE_URI; a replica for reads goes into MLFLOW_READ_REPLICA_BACKEND_STORE_URI"
        )
    elif to_create and not may_create:
        what = f"gives {user} no right to create tables in the schema {schema}"
        fix = f"as its owner: {grant(engine, schema)}"
    elif may_insert is False:
        what = f"gives {user} no right to write to MLflow's tables"
        fix = f'as their owner: GRANT ALL ON ALL TABLES IN SCHEMA "{schema}" TO "{user}", and ON ALL SEQUENCES too'
    if what:
        raise SchemaError(f"the database {shown(engine)} {what}\n    fix: {fix}", Exit.UNAVAILABLE)


def is_pooled(connection: Connection) -> bool:
    """Tell whether a pooler (PgBouncer) stands in between: it names another backend than the one that answers."""
    if connection.engine.dialect.name != "postgresql":
        return False
    backend = connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar_one()
    driver = connection.connection.driver_connection
    return driver is not None and bool(driver.info.backend_pid != backend)


def check_pooler(engine: Engine, needed: int, limit_s: float = POOLER_LIMIT_S) -> None:
    """Check that a pooler lets in as many transactions at once as the workers' threads need.

    MLflow's handlers take a second connection while they hold the first. With fewer than one more than there are
    threads, all of them can wait for each other, until PgBouncer's query_wait_timeout (120 s) ends that.

    Raises:
        SchemaError: UNAVAILABLE, with the numbers.
    """
    with engine.connect() as connection:
        if not is_pooled(connection):
            return
    inside = threading.Semaphore(0)
    leave = threading.Event()

    def hold() -> None:
        with contextlib.suppress(sqlalchemy.exc.DBAPIError), engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
            inside.release()
            leave.wait()

    threads = [threading.Thread(target=hold, daemon=True) for _ in range(needed)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    count = 0
    while count < needed and inside.acquire(timeout=max(deadline - time.monotonic(), 0.001)):
        count += 1
    leave.set()
    if count == needed:
        for thread in threads:
            thread.join(limit_s)
        return
    raise SchemaError(
        f"the pooler in front of the database {shown(engine)} lets in {count} transactions at once, and {needed} are "
        "needed: "
        "requests would wait for each other\n"
        f"    fix: in PgBouncer, default_pool_size (or pool_size of the database) of at least {needed} for each "
        "instance; "
        "fewer WORKERS need less",
        Exit.UNAVAILABLE,
    )
