"""How MLflow's engine talks to PostgreSQL: in fewer round trips, and otherwise as MLflow set it up.

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

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

NAME = "gatehouse"
#: A connection that was used within this time is taken to be alive; MLflow has each one asked before each use.
PING_AFTER_S = 1.0
_RETURNED = "gatehouse_returned"


class FewerRoundTrips(CreateEnginePlugin):
    """Sends the updates of many rows together, and asks a connection whether it is alive only after it was idle."""

    def update_url(self, url: URL) -> URL:
        """Return the URL as it is: nothing of it but the plug-in's name is for this."""
        return url

    def handle_dialect_kwargs(self, _dialect: type, options: dict[str, Any]) -> None:
        """Have psycopg2 send statements for many rows a hundred at a time (SQLAlchemy's documentation on psycopg2)."""
        options["executemany_mode"] = "values_plus_batch"

    def handle_pool_kwargs(self, _pool: type, options: dict[str, Any]) -> None:
        """Switch off the ping before each use."""
        options["pre_ping"] = False

    def engine_created(self, engine: Engine) -> None:
        """Ping connections that were idle; if one is dead, so are the others: all are made anew."""

        @event.listens_for(engine, "checkin")
        def _remember(_connection: object, entry: ConnectionPoolEntry) -> None:
            entry.info[_RETURNED] = time.monotonic()

        @event.listens_for(engine, "checkout")
        def _verify(connection: Any, entry: ConnectionPoolEntry, _fairy: object) -> None:
            returned = entry.info.get(_RETURNED)
            if returned is None or time.monotonic() - returned < PING_AFTER_S:
                return
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error


def register() -> None:
    """Let SQLAlchemy find the plug-in by its name."""
    plugins.register(NAME, __name__, FewerRoundTrips.__name__)


def named(uri: str) -> str:
    """Return a database's URL, with the plug-in's name if it is PostgreSQL's."""
    url = make_url(uri)
    if url.get_backend_name() != "postgresql":
        return uri
    return url.update_query_pairs([("plugin", NAME)], append=True).render_as_string(hide_password=False)
