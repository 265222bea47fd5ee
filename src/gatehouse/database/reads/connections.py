"""Connections to PostgreSQL that the event loop waits for, by the same driver and the same URL as MLflow's.

psycopg2 can be told to wait for nothing ("Asynchronous support" in its documentation); the loop watches the socket. A query costs less processor time so than
by a thread, and as little as with asyncpg; no second driver has to read the URL's settings in its own way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: A compiled plan of so many statements is kept on each connection.
PREPARED = 64
#: The compiler of PostgreSQL takes longer than any of these queries; nothing here writes.
_SETTINGS = "SET jit = off; SET default_transaction_read_only = on"


class Unavailable(Exception):
    """No connection could be made in time."""


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

    @classmethod
    async def open(cls, arguments: Mapping[str, Any], limit_s: float) -> Connection:
        """Connect.

        Raises:
            psycopg2.Error: if the server refuses.
            TimeoutError: after ``limit_s`` seconds.
        """
        connection = cls(arguments)
        try:
            async with asyncio.timeout(limit_s):
                await connection._wait()
                await connection._run(_SETTINGS)
        except BaseException:
            connection.close()
            raise
        return connection

    async def fetch(self, statement: str, types: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run a statement, whose parameters are ``$1`` and so on; return its rows.

        :param types: the parameters' types, with commas.

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
        cursor = await self._run(f"EXECUTE {name}{marks}", parameters or None)
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
            self.close()
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

    def close(self) -> None:
        """Close it, whatever it does."""
        if self.is_alive:
            self.is_alive = False
            self._forget()
            self._raw.close()


class Connections:
    """So many connections at most, made when they are needed, for the event loop that uses them first.

    :param arguments: what ``psycopg2.connect`` takes.
    :param size: connections at most.
    :param limit_s: how long making one may take, in seconds.
    """

    def __init__(self, arguments: Callable[[], Mapping[str, Any]], size: int, limit_s: float) -> None:
        self._arguments = functools.cache(arguments)
        self._limit_s = limit_s
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def fetch(self, statement: str, types: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run a statement on a free connection; return its rows. A connection that was found dead is tried once more, anew.

        Raises:
            psycopg2.Error: if it fails.
            Unavailable: if no connection could be made in time.
        """
        async with self._free:
            while True:
                connection = await self._take()
                try:
                    rows = await connection.fetch(statement, types, parameters)
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

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive:
                return connection
        try:
            return await Connection.open(self._arguments(), self._limit_s)
        except TimeoutError:
            raise Unavailable(f"no connection to the database within {self._limit_s} s") from None
