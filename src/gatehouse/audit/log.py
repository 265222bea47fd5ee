"""A worker's end of the audit log.

The log's one writer is the supervisor (:mod:`gatehouse.start.output`): a worker sends it each line and waits until it
is written, so nothing here ever writes to stdout, and a reader of stdout that stalls holds up those alone who wait for
their own line.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING

from gatehouse.audit import wire

if TYPE_CHECKING:
    import socket

#: Seconds that a reader of the log may stall before writes are refused, and that a line may take to be written.
PATIENCE = 5.0
#: Seconds after which a line that isn't written yet holds up the writes that come.
SLOW = 0.2
#: Seconds for which a refusal, or a read with AUDIT_READS, waits for its line.
SHORT = 0.25
#: Seconds between two looks at a log that takes no lines.
INTERVAL = 0.02
#: Lines of writes that a worker may wait for at once; further writes wait, and are refused after PATIENCE.
MOST_WAITING = 1024
#: Lines of refusals and reads that may wait to be written; more are counted.
MOST_OTHERS = 256
#: Seconds in which every worker must answer to be healthy; see Desk.ask.
HEALTH_LIMIT = 4.0


class AuditError(Exception):
    """The line couldn't be written, or not yet."""


class AuditLog:
    """Sends lines to the log's writer, and knows whether it takes any.

    It is made before the workers are forked; :meth:`connect` gives each its own way to the writer.

    Args:
        watched: a descriptor of the log that is only ever looked at (poll), or None to ask the writer alone.
    """

    def __init__(self, watched: int | None = None) -> None:
        self._watched = watched
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers = itertools.count(1)
        #: Lines of writes that aren't written yet: since when, who waits, and the line.
        self._waiting: dict[int, tuple[float, asyncio.Future[str], bytes]] = {}
        #: Those of refusals and reads. However many come while the log stalls, they hold up no write once it doesn't.
        self._others: dict[int, asyncio.Future[str]] = {}
        self._dropped = 0
        #: Lines that couldn't be written in time.
        self.failures = 0
        self._question: asyncio.Task[bool] | None = None
        self._answer: tuple[int, asyncio.Future[bool]] | None = None
        self._unsent: deque[bytes] = deque()
        self._patience: asyncio.Task[bool] | None = None
        self._broken = False
        self._stalled = False

    def connect(self, channel: socket.socket) -> None:
        """Use this end of :func:`audit_wire.pair`.

        What comes by it is heard from the first use, or :meth:`listen`, on.
        """
        self._socket = channel

    def listen(self) -> asyncio.AbstractEventLoop:
        """Hear what comes by the channel, in the running event loop; return that."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._socket is not None:
            self._loop = loop
            loop.add_reader(self._socket, self._receive)
        return loop

    def close(self) -> None:
        """Say nothing more, and hear nothing more."""
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    @property
    def waiting(self) -> int:
        """How many lines aren't written yet."""
        return len(self._waiting) + len(self._others)

    # --- Lines ---------------------------------------------------------------------------------------------------

    async def ready(self) -> bool:
        """Return whether a write may go on: its line can be written now, or soon."""
        if self._broken and self._takes_lines():
            probe = b'{"severity":"WARNING","message":"the audit log can be written again; writes are let through"}\n'
            with contextlib.suppress(AuditError):
                await self.write(probe, next(self._numbers))
        if self._broken:
            return False
        if self._takes_lines():
            self._stalled = False
            return True
        if self._stalled:
            return False
        if self._patience is None or self._patience.done():
            self._patience = asyncio.create_task(self._wait())
        return await asyncio.shield(self._patience)

    async def _wait(self) -> bool:
        """Wait until lines are taken, for as long as PATIENCE: one look for all that wait."""
        deadline = self._now() + PATIENCE
        while not self._takes_lines():
            if self._now() > deadline:
                self._stalled = True
                return False
            await asyncio.sleep(INTERVAL)
        return True

    def _takes_lines(self) -> bool:
        if self._socket is None or self._unsent or len(self._waiting) >= MOST_WAITING:
            return False
        if self._waiting and self._now() - next(iter(self._waiting.values()))[0] > SLOW:
            return False
        if self._watched is None:
            return True
        # An object of its own for each look: CPython refuses one that two threads use at once.
        poll = select.poll()
        poll.register(self._watched, select.POLLOUT)
        events = poll.poll(0)
        return bool(events) and not events[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL)

    def open(self, line: bytes) -> int:
        """Leave a line with the writer, and return its number.

        The writer writes it should this process die before :meth:`write` with that number.
        """
        self.listen()
        number = next(self._numbers)
        self._send(wire.pack(wire.OPEN, number, line))
        return number

    async def write(self, line: bytes, number: int | None = None) -> None:
        """Write one line, which ends with a line feed and has at most MAX_LINE bytes.

        Args:
            number: what :meth:`open` returned for the same request. Without one it is the line of something that
            changed
                nothing, and nobody waits for it while the log takes none.

        Raises:
            AuditError: if it can't be written, or wasn't within PATIENCE. In the second case it stays in the writer's
            queue,
                and is on stderr too: should nobody ever read stdout again, it isn't lost.
        """
        loop = self.listen()
        future: asyncio.Future[str] = loop.create_future()
        if number is None:
            await self._write_other(line, future)
            return
        self._waiting[number] = (loop.time(), future, line)
        self._send(wire.pack(wire.WRITE, number, line))
        await asyncio.wait([future], timeout=PATIENCE)
        if future.done():
            error = future.result()
            self._broken = bool(error)
        else:
            error = f"nothing has read stdout for {PATIENCE:g} s; it is written when somebody does"
            self._stalled = True
        future.cancel()
        if error:
            self._notice(error, line)
            raise AuditError(error)

    async def _write_other(self, line: bytes, future: asyncio.Future[str]) -> None:
        if len(self._others) >= MOST_OTHERS:
            self._dropped += 1
            return
        number = next(self._numbers)
        self._others[number] = future
        takes_lines = self._takes_lines()
        self._send(wire.pack(wire.WRITE, number, line))
        if takes_lines:
            await asyncio.wait([future], timeout=SHORT)
        if future.done() and (error := future.result()):
            self._broken = True
            self._notice(error, line)
            raise AuditError(error)

    def _tell_dropped(self) -> None:
        """Say how many lines of refusals and reads there was no room for."""
        text = f"{self._dropped} refusals or reads have no line of their own: the audit log couldn't be written"
        self._dropped = 0
        number = next(self._numbers)
        self._others[number] = asyncio.get_running_loop().create_future()
        self._send(wire.pack(wire.WRITE, number, b'{"severity":"WARNING","message":"%s"}\n' % text.encode()))

    def _notice(self, error: str, line: bytes) -> None:
        """Say on stderr what isn't on stdout, with all that it says."""
        self.failures += 1
        text = line.decode(errors="replace").rstrip("\n")
        with contextlib.suppress(OSError):
            print(
                f"gatehouse: error: a line of the audit log couldn't be written ({error}): {text}",
                file=sys.stderr,
                flush=True,
            )

    # --- Health --------------------------------------------------------------------------------------------------

    async def healthy(self) -> bool:
        """Return whether every worker's event loop turns, this one's included.

        All that ask at once share one question.
        """
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask())
        return await asyncio.shield(self._question)

    async def _ask(self) -> bool:
        if self._socket is None:
            return False
        number = next(self._numbers)
        self._answer = number, self.listen().create_future()
        self._send(wire.pack(wire.ASK, number))
        try:
            return await asyncio.wait_for(self._answer[1], HEALTH_LIMIT)
        except asyncio.TimeoutError:
            return False

    # --- The socket ----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _send(self, message: bytes) -> None:
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None  # noqa: S101 - for mypy
        assert self._loop is not None  # noqa: S101
        while self._unsent:
            try:
                self._socket.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError as error:  # the supervisor has gone, and this process goes too
                self._lost(str(error))
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._socket)

    def _receive(self) -> None:
        assert self._socket is not None  # noqa: S101 - for mypy
        while True:
            try:
                message = self._socket.recv(wire.LONGEST)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._lost("the supervisor has gone")
                return
            kind, number, text = wire.unpack(message)
            if kind == wire.PING:
                self._send(wire.pack(wire.PONG, number))
            elif kind in {wire.HEALTHY, wire.UNHEALTHY}:
                if self._answer is not None and self._answer[0] == number and not self._answer[1].done():
                    self._answer[1].set_result(kind == wire.HEALTHY)
            elif number in self._others:
                self._others.pop(number).set_result(text.decode(errors="replace"))
                if self._dropped and len(self._others) < MOST_OTHERS // 2:
                    self._tell_dropped()
            elif number in self._waiting:
                _, future, line = self._waiting.pop(number)
                error = text.decode(errors="replace")
                if not future.done():
                    future.set_result(error)
                elif error:
                    # Nobody waits for it any more.
                    self._broken = True
                    self._notice(error, line)

    def _lost(self, error: str) -> None:
        """Without its writer the log can't be written, and nobody watches this process:

        it ends as if it were told to.
        """
        self.close()
        for _, future, _ in self._waiting.values():
            if not future.done():
                future.set_result(error)
        os.kill(os.getpid(), signal.SIGTERM)
