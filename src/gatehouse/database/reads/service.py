"""The reads as one object: which requests it takes, and what it answers them."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
from sqlalchemy.engine import URL, make_url

from gatehouse.database.engine import TCP
from gatehouse.database.reads import requests
from gatehouse.database.reads.connections import Connections, Unavailable
from gatehouse.database.reads.query import Declined
from gatehouse.database.reads.text import Unprintable
from gatehouse.dispatch.work import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_logger = logging.getLogger(__name__)

#: An answer of more rows is put together in a thread: this many take a few milliseconds.
_MANY_ROWS = 2000
CONNECT_TIMEOUT_S = 5.0


def of(database: str, connections: int, limit_s: float) -> Reads | None:
    """Return what answers reads, or None where MLflow's own handlers shall: on SQLite, and with workspaces.

    Args:
        database: its URL.
        connections: how many of them at most, in each process.
        limit_s: seconds that a request may take.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES, MLFLOW_TRACE_ARCHIVAL_CONFIG

    url = make_url(database)
    if url.get_backend_name() != "postgresql" or MLFLOW_ENABLE_WORKSPACES.get():
        return None
    # An archive of traces has a say in what MLflow tells of an experiment.
    without = frozenset({"search_experiments"}) if MLFLOW_TRACE_ARCHIVAL_CONFIG.get() else frozenset[str]()
    return Reads(partial(arguments, url), connections, without, limit_s)


def arguments(url: URL) -> dict[str, Any]:
    """Return what ``psycopg2.connect`` takes for a URL of SQLAlchemy's."""
    positional, named = url.get_dialect()().create_connect_args(url)
    if positional:
        raise RuntimeError(f"SQLAlchemy's dialect for {url.drivername} has positional arguments")
    return {**TCP, **named}


class Reads:
    """Answers requests that only read.

    Args:
        arguments: what ``psycopg2.connect`` takes; asked for once, at the first request.
        size: connections at most, of this process.
        without: operations that are MLflow's to answer.
        limit_s: seconds that a request may take.
    """

    def __init__(
        self,
        arguments: Callable[[], Mapping[str, Any]],
        size: int,
        without: frozenset[str] = frozenset(),
        limit_s: float = 60.0,
    ) -> None:
        self.limit_s = limit_s
        self.connections = Connections(arguments, size, CONNECT_TIMEOUT_S, limit_s)
        self._taken = frozenset(key for key in requests.OPERATIONS if key[0] not in without)

    def takes(self, operation: str | None, method: str) -> bool:
        """Tell whether requests of an operation may be answered here."""
        return (operation, method) in self._taken

    async def answer(
        self, operation: str, method: str, query_string: bytes, content_type: str, body: bytes, who: str | None = None
    ) -> list[bytes] | None:
        """Return the parts of the JSON that MLflow would answer to ``who``, or None if MLflow shall do it.

        Raises:
            Stopped: if the database ended the query, for it took too long.
        """
        try:
            query = requests.query(operation, method, query_string, content_type, body)
            rows = await self.connections.fetch(query.statement, query.types, query.values, who)
            if len(rows) > _MANY_ROWS:
                return await asyncio.to_thread(query.finish, rows)
            return query.finish(rows)
        except (Declined, Unprintable, Unavailable, psycopg2.errors.DataError):
            return None
        except psycopg2.errors.QueryCanceled as error:
            raise Stopped(str(error)) from None
        except psycopg2.Error as error:
            _logger.warning("%s: MLflow answers, for the short way failed: %s", operation, str(error).strip())
            return None
