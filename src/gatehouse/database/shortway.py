"""What answers requests with one statement each: which it takes, and what it answers them."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import psycopg2
from sqlalchemy.engine import URL, make_url

from gatehouse.database import tokens
from gatehouse.database.connections import Connections, Unavailable
from gatehouse.database.engine import TCP
from gatehouse.database.reads import requests as reading
from gatehouse.database.reads.query import Declined
from gatehouse.database.reads.text import Unprintable
from gatehouse.database.writes import requests as writing
from gatehouse.dispatch.work import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gatehouse.database.reads.query import Query

_logger = logging.getLogger(__name__)

#: An answer of more rows is put together in a thread: this many take a few milliseconds.
_MANY_ROWS = 2000
#: A larger body is read in a thread.
_LARGE = 32 * 1024
CONNECT_TIMEOUT_S = 5.0
#: An operation (gatehouse.operations) and a method.
Operation = tuple[str, str]


class Reader(Protocol):
    """Makes a statement of a request."""

    def __call__(self, operation: str, method: str, query_string: bytes, content_type: str, body: bytes, /) -> Query:
        """Return the statement.

        Raises:
            Declined: if MLflow shall answer the request.
        """


def of(database: str, replica: str | None, size: int, limit_s: float, *, read: bool, write: bool) -> list[ShortWay]:
    """Return what answers reads and writes; nothing where MLflow's own handlers shall: on SQLite.

    Args:
        database: its URL.
        replica: that of the replica which reads are asked of, if there is one.
        size: connections at most, in each process; reads and writes share those to one database.
        limit_s: seconds that a request may take.
        read: whether reads are answered.
        write: whether writes are.
    """
    from mlflow.environment_variables import MLFLOW_TRACE_ARCHIVAL_CONFIG

    # An archive of traces has a say in what MLflow tells of an experiment.
    without = frozenset({"search_experiments"}) if MLFLOW_TRACE_ARCHIVAL_CONFIG.get() else frozenset[str]()
    pools: dict[str, Connections] = {}

    def connections(address: str) -> Iterator[Connections]:
        url = make_url(address)
        if url.get_backend_name() == "postgresql":
            if address not in pools:
                pools[address] = Connections(partial(arguments, url), size, CONNECT_TIMEOUT_S, limit_s)
            yield pools[address]

    ways: list[ShortWay] = []
    if read:
        kept = frozenset(key for key in reading.OPERATIONS if key[0] not in without)
        ways += [ShortWay(pool, reading.query, kept, limit_s) for pool in connections(replica or database)]
    if write:
        kept = frozenset(writing.OPERATIONS)
        ways += [ShortWay(pool, writing.statement, kept, limit_s, True) for pool in connections(database)]
    return ways


def arguments(url: URL) -> Mapping[str, Any]:
    """Return what ``psycopg2.connect`` takes for a URL of SQLAlchemy's."""
    url, by_token = tokens.split(url)
    positional, named = url.get_dialect()().create_connect_args(url)
    if positional:
        raise RuntimeError(f"SQLAlchemy's dialect for {url.drivername} has positional arguments")
    given = {**TCP, **named}
    return tokens.Renewed(given) if by_token else given


class ShortWay:
    """Answers requests with one statement each.

    Args:
        connections: to the database.
        reader: makes the statement of a request.
        operations: those that it makes one for.
        limit_s: seconds that a request may take.
        writes: whether these statements change anything.
    """

    def __init__(
        self,
        connections: Connections,
        reader: Reader,
        operations: frozenset[Operation],
        limit_s: float = 60.0,
        writes: bool = False,
    ) -> None:
        self.connections = connections
        self.limit_s = limit_s
        self.operations = operations
        self._reader = reader
        self._writes = writes

    async def answer(
        self,
        operation: str,
        method: str,
        query_string: bytes,
        content_type: str,
        body: bytes,
        who: str | None = None,
        workspace: str | None = None,
    ) -> list[bytes] | None:
        """Return the parts of the JSON that MLflow would answer to ``who`` in a workspace, or None if MLflow shall.

        Raises:
            Stopped: if the database ended the statement, for it took too long.
            psycopg2.OperationalError: if nobody knows whether what can't be done twice was done.
        """
        try:
            if len(body) > _LARGE:
                query = await asyncio.to_thread(self._reader, operation, method, query_string, content_type, body)
            else:
                query = self._reader(operation, method, query_string, content_type, body)
            query = query.within(workspace)
            rows = await self.connections.fetch(query.statement, query.types, query.values, who, self._writes)
            if len(rows) > _MANY_ROWS:
                return await asyncio.to_thread(query.finish, rows)
            return query.finish(rows)
        # An answer of PostgreSQL's that refuses has changed nothing, and MLflow's handler says why in its own words.
        # ValueError: a text that UTF-8 or PostgreSQL has no way to write.
        except (Declined, Unprintable, Unavailable, psycopg2.DataError, psycopg2.IntegrityError, ValueError):
            return None
        except psycopg2.errors.QueryCanceled as error:
            raise Stopped(str(error)) from None
        except psycopg2.Error as error:
            if operation in writing.ONCE and error.pgcode is None:
                raise
            _logger.warning("%s: MLflow answers, for the short way failed: %s", operation, str(error).strip())
            return None
