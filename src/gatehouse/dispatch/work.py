"""When work ends that nobody waits for: a request whose client has gone, or that takes too long.

Its query is cancelled, and if the database doesn't answer to that, its connection is cut (docs/decisions/0017).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive

T = TypeVar("T")

#: Seconds between two looks whether a client has gone, where the server says something else.
LOOK_AGAIN_S = 0.1
#: Most requests are over before anybody looks whether their client has gone.
PATIENCE_S = 0.2
#: From the cancellation of a query to the end of its connection.
GRACE_S = 5.0
TOOK_TOO_LONG = (
    "The database was still busy with this request after the server's DATABASE_TIMEOUT, or the client had gone; its "
    "query was "
    "ended. Ask for less at once: fewer experiments, a shorter filter or order_by, a smaller max_results."
)


class Connection(Protocol):
    """What is used of a database connection (gatehouse.database.cancel.Query)."""

    def cancel(self) -> None:
        """Ask the server to cancel the query; callable from another thread."""

    def fileno(self) -> int:
        """Return the socket."""


class Stopped(Exception):
    """The work was told to end before this."""


class Work:
    """What one request does in the database, seen from outside its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Connection] = []
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether it was told to end."""
        return self._stopped

    def hold(self, connection: Connection) -> None:
        """Note a connection that the work uses from now on.

        Raises:
            Stopped: if it was told to end.
        """
        with self._lock:
            if self._stopped:
                raise Stopped("The request was ended: its client has gone, or it took too long.")
            self._held.append(connection)

    def release(self, connection: Connection) -> bool:
        """Note that the work has done with a connection; return whether somebody else may have it.

        After ``stop`` nobody may: a cancellation may be under way, and would hit whatever runs on it next.
        """
        with self._lock, contextlib.suppress(ValueError):
            self._held.remove(connection)
        return not self._stopped

    def stop(self) -> None:
        """Cancel what the connections do, and let none be used any more; may block for as long as the network does."""
        with self._lock:
            self._stopped = True
            held = list(self._held)
        for connection in held:
            # Whatever the driver raises: the next step doesn't ask it.
            with contextlib.suppress(Exception):
                connection.cancel()

    def cut(self) -> None:
        """End the connections that are still in use: whoever waits on one gets an error."""
        with self._lock:
            for connection in self._held:
                with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as end:
                    end.shutdown(socket.SHUT_RDWR)


#: The work of the request that this thread serves; set for as long as its handler runs.
current: contextvars.ContextVar[Work | None] = contextvars.ContextVar("gatehouse_work", default=None)


async def supervise(work: Work, running: Awaitable[T], receive: Receive, limit_s: float) -> T:
    """Return what ``running`` does; end its work when the client goes, or after ``limit_s`` seconds.

    The work itself raises then, so that what it says (a status, an audit line) still comes from it.

    Args:
        receive: ASGI's; the body has been read, so its next message says that the client has gone.
    """
    task = asyncio.ensure_future(running)
    await _settle(task, receive, limit_s)
    if not task.done():
        await _end(work.stop, task)
    if not task.done():
        await _end(work.cut, task)
    return await task


async def within(running: Awaitable[T], receive: Receive, limit_s: float) -> T:
    """Return what ``running`` does, which the event loop itself can cancel.

    Raises:
        Stopped: if its client went, or ``limit_s`` seconds passed.
    """
    task = asyncio.ensure_future(running)
    try:
        await _settle(task, receive, limit_s)
        if task.done():
            return task.result()
    finally:
        task.cancel()
    raise Stopped("The request was ended: its client has gone, or it took too long.")


async def _settle(task: asyncio.Future[Any], receive: Receive, limit_s: float) -> None:
    """Wait until the task is done, its client has gone, or ``limit_s`` seconds have passed."""
    await asyncio.wait({task}, timeout=PATIENCE_S)
    if task.done():
        return
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, timeout=limit_s - PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()


async def _end(step: Callable[[], None], task: asyncio.Future[Any]) -> None:
    """Take a step that may block in a thread of its own, and give the task time to end."""
    threading.Thread(target=step, daemon=True).start()
    await asyncio.wait({task}, timeout=GRACE_S)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        # Whoever goes on giving an empty body must not hold the event loop.
        await asyncio.sleep(LOOK_AGAIN_S)
