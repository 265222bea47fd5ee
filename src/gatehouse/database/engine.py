"""How MLflow's engine talks to PostgreSQL:

in fewer round trips, never for longer than a limit, and otherwise as MLflow set it up.

MLflow makes its engine itself, from a URL, and a URL may name a plug-in that has a say in it
(``sqlalchemy.engine.CreateEnginePlugin``): so nothing of MLflow's is changed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin, Engine, make_url
from sqlalchemy.exc import InvalidatePoolError

from gatehouse.database import tokens
from gatehouse.dispatch.work import TOOK_TOO_LONG, Stopped, current

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

NAME = "gatehouse"
#: A connection that was used within this time is taken to be alive; MLflow has each one asked before each use.
PING_AFTER_S = 1.0
#: SQLSTATE of a query that a timeout or somebody else ended.
_QUERY_CANCELED = "57014"
_RETURNED = "gatehouse_returned"
_WORK = "gatehouse_work"
_QUERY = "gatehouse_query"
#: Of the URL, for this plug-in alone: milliseconds that a statement may take.
_LIMIT = "gatehouse_statement_timeout"
#: libpq's parameters (and the kernel's, tcp(7)): a peer that has vanished is noticed within half a minute, not a
#: quarter of an hour.
TCP: dict[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
#: Not where a pooler stands in between, whose connections others get next: it names another backend than the one that
#: answers.
_SET_LIMIT = "SELECT set_config('statement_timeout', %s, false) WHERE pg_backend_pid() = %s"


class FewerRoundTrips(CreateEnginePlugin):
    """Sends the updates of many rows together, and asks a connection whether it is alive only after it was idle.

    No statement takes longer than the URL's limit, and a request's work can be ended from outside
    (gatehouse.dispatch.work).
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        self._limit = str(url.query.get(_LIMIT, ""))
        _, self._by_token = tokens.split(url)

    def update_url(self, url: URL) -> URL:
        """Return the URL without what is for this plug-in."""
        return tokens.split(url)[0].difference_update_query([_LIMIT])

    def handle_dialect_kwargs(self, _dialect: type, options: dict[str, Any]) -> None:
        """Have psycopg2 send statements for many rows a hundred at a time (SQLAlchemy's documentation on psycopg2)."""
        options["executemany_mode"] = "values_plus_batch"

    def handle_pool_kwargs(self, _pool: type, options: dict[str, Any]) -> None:
        """Switch off the ping before each use."""
        options["pre_ping"] = False

    def engine_created(self, engine: Engine) -> None:
        """Ping connections that were idle; if one is dead, so are the others: all are made anew."""
        from gatehouse.database.cancel import Query  # and psycopg2, which SQLite does without

        if self._by_token:
            tokens.sign_in(engine)

        @event.listens_for(engine, "do_connect")
        def _notice_a_dead_peer(_dialect: object, _entry: object, _args: object, parameters: dict[str, Any]) -> None:
            for name, value in TCP.items():
                parameters.setdefault(name, value)

        @event.listens_for(engine, "connect")
        def _limit(connection: Any, entry: ConnectionPoolEntry) -> None:
            entry.info[_QUERY] = Query(connection)
            if not self._limit:
                return
            # Outside a transaction, whose end could take the setting back.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(_SET_LIMIT, (self._limit, connection.info.backend_pid))
            connection.autocommit = False

        @event.listens_for(engine, "handle_error")
        def _say_what_took_too_long(context: ExceptionContext) -> Any:
            work = current.get()
            if getattr(context.original_exception, "pgcode", None) == _QUERY_CANCELED or (work and work.stopped):
                return took_too_long()
            return None

        @event.listens_for(engine, "checkin")
        def _remember(_connection: object, entry: ConnectionPoolEntry) -> None:
            entry.info[_RETURNED] = time.monotonic()
            held = entry.info.pop(_WORK, None)
            if held is not None:
                work, query = held
                if not work.release(query):
                    entry.invalidate()

        @event.listens_for(engine, "checkout")
        def _verify(connection: Any, entry: ConnectionPoolEntry, _fairy: object) -> None:
            if work := current.get():
                query = entry.info[_QUERY]
                try:
                    work.hold(query)
                except Stopped as error:
                    raise took_too_long() from error
                entry.info[_WORK] = work, query
            returned = entry.info.get(_RETURNED)
            if returned is None or time.monotonic() - returned < PING_AFTER_S:
                return
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error


def took_too_long() -> Any:
    """Return the exception (``MlflowException``) of a request whose work was ended:

    MLflow answers 400, which no client repeats.
    """
    from mlflow.exceptions import MlflowException

    return MlflowException.invalid_parameter_value(TOOK_TOO_LONG)


def register() -> None:
    """Let SQLAlchemy find the plug-in by its name."""
    plugins.register(NAME, __name__, FewerRoundTrips.__name__)


def named(uri: str, limit_s: int | None = None) -> str:
    """Return a database's URL, with the plug-in's name if it is PostgreSQL's.

    Args:
        limit_s: seconds that a statement may take.
    """
    url = make_url(uri)
    if url.get_backend_name() != "postgresql":
        return uri
    pairs = [("plugin", NAME)] + ([(_LIMIT, str(limit_s * 1000))] if limit_s else [])
    return url.update_query_pairs(pairs, append=True).render_as_string(hide_password=False)
