"""Connections to PostgreSQL that the event loop waits for, by the same driver and the same URL as MLflow's.

psycopg2 can be told to wait for nothing ("Asynchronous support" in its documentation); the loop watches the socket. A
query costs less processor time so than by a thread, and as little as with asyncpg; no second driver has to read the
URL's settings in its own way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from gatehouse.database.cancel import Query
from gatehouse.dispatch.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: A compiled plan of so many statements is kept on each connection.
PREPARED = 64
#: The compiler of PostgreSQL takes longer than any of these queries; nothing writes unless it says so.
#: Not where a pooler stands in between, whose connections others get next: it names another backend than the one that
#: answers.
_SETTINGS = (
    "SELECT set_config('jit', 'off', false), set_config('default_transaction_read_only', 'on', false),"
    " set_config('statement_timeout', %s, false) WHERE pg_backend_pid() = %s"
)

#: What is sent at once is one transaction (PostgreSQL's documentation, "Multiple Statements in a Simple Query"): for
#: this one alone, it may write.
_WRITING = "SET LOCAL transaction_read_only = off; "


class Unavailable(Exception):
    """No connection could be made in time, or none that can be used so."""


class Pooled(Unavailable):
    """A pooler stands in between: what is prepared on a connection, and set, would be somebody else's next."""


class Connection:
    """One connection, which runs one query at a time."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._raw = psycopg2.connect(**arguments, async_=1)
        self._fd = -1
        self._waiter: asyncio.Future[None] | None = None
        self._writing = False
        self._prepared: OrderedDict[str, str] = OrderedDict()
        self._made = 0
        self.is_new = True
        self.is_alive = True
        self._query: Query | None = None

    @classmethod
    async def open(cls, arguments: Mapping[str, Any], limit_s: float, statement_limit_s: float) -> Connection:
        """Connect.

        Raises:
            Pooled: if that leads to a pooler.
            psycopg2.Error: if the server refuses.
            TimeoutError: after ``limit_s`` seconds.
        """
        connection = cls(arguments)
        try:
            async with asyncio.timeout(limit_s):
                await connection._wait()
                connection._query = Query(connection._raw)
                limit_ms = str(int(statement_limit_s * 1000))
                with contextlib.closing(await connection._run(_SETTINGS, (limit_ms, connection.backend))) as cursor:
                    if cursor.rowcount != 1:
                        raise Pooled("PgBouncer, or another pooler, stands in front of the database")
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def backend(self) -> int:
        """The server's process, as it was named when the connection was made."""
        return int(self._raw.info.backend_pid)

    async def fetch(
        self, statement: str, types: str, parameters: Sequence[object], writes: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run a statement, whose parameters are ``$1`` and so on; return its rows.

        Args:
            types: the parameters' types, with commas.
            writes: whether it may change anything.

        Raises:
            psycopg2.Error: if it fails.
        """
        name = self._prepared.get(statement)
        if name is None:
            if len(self._prepared) >= PREPARED:
                _, oldest = self._prepared.popitem(last=False)
                await self._run(f"DEALLOCATE {oldest}")
            self._made += 1
            name = f"gatehouse_{self._made}"
            await self._run(f"PREPARE {name}{f' ({types})' if types else ''} AS {statement}")
            self._prepared[statement] = name
        else:
            self._prepared.move_to_end(statement)
        marks = f"({', '.join(['%s'] * len(parameters))})" if parameters else ""
        cursor = await self._run(f"{_WRITING if writes else ''}EXECUTE {name}{marks}", parameters or None)
        with contextlib.closing(cursor):
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        self.is_new = False
        return rows

    async def _run(self, statement: str, parameters: Sequence[object] | None = None) -> extensions.cursor:
        cursor: extensions.cursor = self._raw.cursor()
        try:
            cursor.execute(statement, parameters)
            await self._wait()
        except psycopg2.Error:
            if self._raw.closed:
                self.close()
            raise
        return cursor

    async def _wait(self) -> None:
        """Wait until what was sent is answered."""
        self._waiter = self._loop.create_future()
        self._advance()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abandon()
            raise
        finally:
            self._waiter = None

    def _advance(self) -> None:
        waiter = self._waiter
        try:
            state = self._raw.poll()
        except psycopg2.Error as error:
            if self._raw.closed or waiter is None:
                self.close()
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
            return
        self._watch(self._raw.fileno())
        if state == extensions.POLL_WRITE and not self._writing:
            self._loop.add_writer(self._fd, self._advance)
            self._writing = True
        elif state != extensions.POLL_WRITE and self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        if state == extensions.POLL_OK and waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _watch(self, fd: int) -> None:
        """Watch the socket, also between queries: so the end of an idle connection is seen when it comes.

        While it connects, libpq may try another host, on another socket.
        """
        if fd != self._fd:
            self._forget()
            self._fd = fd
            self._loop.add_reader(fd, self._advance)

    def _forget(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            if self._writing:
                self._loop.remove_writer(self._fd)
                self._writing = False
            self._fd = -1

    def abandon(self) -> None:
        """End what it does at the server too, and close it.

        That may take as long as the network does, and is not waited for.
        """
        if self.is_alive:
            self.is_alive = False
            self._forget()
            threading.Thread(target=_end, args=[self._raw, self._query], daemon=True).start()

    def close(self) -> None:
        """Close it, whatever it does."""
        if self.is_alive:
            self.is_alive = False
            self._forget()
            self._raw.close()


def _end(raw: Any, query: Query | None) -> None:
    if query:
        query.cancel()
    raw.close()


class Connections:
    """So many connections at most, made when they are needed, for the event loop that uses them first.

    Args:
        arguments: what ``psycopg2.connect`` takes.
        size: connections at most.
        limit_s: how long making one may take, in seconds.
        statement_limit_s: how long a statement may take.
    """

    def __init__(
        self, arguments: Callable[[], Mapping[str, Any]], size: int, limit_s: float, statement_limit_s: float
    ) -> None:
        self._arguments = functools.cache(arguments)
        self._limit_s = limit_s
        self._statement_limit_s = statement_limit_s
        self.turns = Turns(size)
        #: Connections that were made.
        self.made = 0
        self._pooled = False
        self._idle: list[Connection] = []

    async def fetch(
        self, statement: str, types: str, parameters: Sequence[object], who: str | None = None, writes: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run a statement on a free connection, when it is the turn of ``who``; return its rows.

        On a connection that was found dead it is tried once more, anew: one that ``writes`` must do the same twice.

        Raises:
            psycopg2.Error: if it fails.
            Unavailable: if no connection could be made in time.
        """
        async with self.turns.turn(who):
            while True:
                connection = await self._take()
                try:
                    rows = await connection.fetch(statement, types, parameters, writes)
                except psycopg2.errors.InvalidSqlStatementName:
                    # A pooler between this and PostgreSQL gave us another of its connections.
                    connection.close()
                    raise
                except psycopg2.Error:
                    if connection.is_alive:
                        self._idle.append(connection)
                        raise
                    if connection.is_new:
                        raise
                    continue
                except BaseException:
                    connection.close()
                    raise
                self._idle.append(connection)
                return rows

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return sum(connection.is_alive for connection in self._idle)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive:
                return connection
        if self._pooled:
            raise Pooled
        self.made += 1
        try:
            return await Connection.open(self._arguments(), self._limit_s, self._statement_limit_s)
        except Pooled:
            self._pooled = True
            raise
        except TimeoutError:
            raise Unavailable(f"no connection to the database within {self._limit_s} s") from None
