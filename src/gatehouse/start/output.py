"""The supervisor's stdout and stderr:

the one place in the container that writes to them, and the one that may have to wait.

Whoever reads them can stall, and nobody but this may notice. So what the children print comes by pipes that are always
drained: an :class:`Output` writes it, or drops it with a count while nothing reads. Lines of the audit log come by
sockets (the :class:`Desk`) and are never dropped: each is answered once it is written.

The descriptors stay blocking: O_NONBLOCK belongs to the open file, which this process shares with whoever started it. A
thread for each waits in its place.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from gatehouse.audit import wire

if TYPE_CHECKING:
    import socket

#: Bytes of the children's own output that wait for a reader; more is dropped.
MOST_RELAYED = 1024 * 1024
#: The longest line of a child that is kept in one piece.
LONGEST_LINE = 64 * 1024
#: Bytes that are read from a child's pipe at once.
READ = 64 * 1024
#: Seconds between two rounds over the children's pipes: a line each 0.6 ms would cost a tenth of a processor otherwise.
PAUSE_S = 0.01
#: Seconds in which each worker must answer, for them all to be healthy.
ANSWER_LIMIT_S = 3.0


class Output:
    """One descriptor, written in whole lines by a thread of its own.

    Args:
        descriptor: stdout or stderr.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._changed = threading.Condition()
        #: Each line, and for one of the audit log whom to tell: with an empty text, or with what the system says.
        self._queue: deque[tuple[bytes, Callable[[str], None] | None]] = deque()
        self._relayed = 0
        self._dropped: dict[str, int] = {}
        threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True).start()

    def line(self, line: bytes, done: Callable[[str], None]) -> None:
        """Write a line of the audit log when its turn comes, then call ``done`` (in another thread)."""
        with self._changed:
            self._queue.append((line, done))
            self._changed.notify()

    def relay(self, source: str, lines: bytes) -> None:
        """Write what a child printed, or drop it if too much waits already."""
        with self._changed:
            if self._relayed + len(lines) > MOST_RELAYED:
                self._dropped[source] = self._dropped.get(source, 0) + lines.count(b"\n")
                return
            if self._dropped:
                count = ", ".join(f"{number} of {name}'s" for name, number in self._dropped.items())
                told = f"gatehouse: lines that were dropped while nothing read this log: {count}\n".encode()
                self._dropped.clear()
                lines = told + lines
            self._relayed += len(lines)
            self._queue.append((lines, None))
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many lines of the audit log, and pieces of others, wait to be written."""
        return len(self._queue)

    def finish(self, deadline: float) -> list[bytes]:
        """Wait until all is written, at most until a time of the monotonic clock.

        Return the audit log's lines that aren't.
        """
        with self._changed:
            while self._queue and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return [line for line, done in self._queue if done is not None]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                data, done = self._queue[0]
            error = self._write(data)
            with self._changed:
                self._queue.popleft()
                if done is None:
                    self._relayed -= len(data)
                self._changed.notify_all()
            if done is not None:
                done(error)

    def _write(self, data: bytes) -> str:
        """Write all of it; return what the system says if it can't be."""
        rest = memoryview(data)
        try:
            while rest:
                # A pipe takes so much whole (PIPE_BUF), whoever else writes to it; where it can be, in whole lines.
                end = data.rfind(b"\n", len(data) - len(rest), len(data) - len(rest) + wire.MAX_LINE) + 1
                size = end - (len(data) - len(rest)) if end else wire.MAX_LINE
                rest = rest[os.write(self.descriptor, rest[:size]) :]
        except OSError as error:
            if 0 < len(rest) < len(data):
                with contextlib.suppress(OSError):
                    os.write(self.descriptor, b"\n")  # the next line begins at the start of one
            return str(error.strerror or error)
        return ""


class Relay:
    """The pipe that one stream of a child comes by.

    Args:
        source: the child's name.
        output: where its lines go.
        seen: called with them.
    """

    def __init__(self, source: str, output: Output, seen: Callable[[bytes], None] | None = None) -> None:
        self.source = source
        self._seen = seen
        self._output = output
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self._rest = b""

    def drain(self) -> bool:
        """Pass on what is there now, in whole lines; return whether more can come."""
        while True:
            try:
                data = os.read(self.reading, READ)
            except BlockingIOError:
                return True
            if not data:
                if self._rest:
                    self._output.relay(self.source, self._rest + b"\n")
                os.close(self.reading)
                return False
            whole, feed, rest = (self._rest + data).rpartition(b"\n")
            if len(rest) > LONGEST_LINE:
                whole, feed, rest = whole + feed + rest, b"\n", b""
            self._rest = rest
            if feed:
                self._output.relay(self.source, whole + feed)
                if self._seen is not None:
                    self._seen(whole)


class Drain:
    """Empties all relays, in a thread of its own.

    At most so often that it costs next to nothing, however many lines come.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._relays: dict[int, Relay] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="relays", daemon=True).start()

    def add(self, relay: Relay) -> None:
        """Empty a relay from now on."""
        with self._lock:
            self._relays[relay.reading] = relay
            self._poll.register(relay.reading, select.EPOLLIN)

    def now(self) -> None:
        """Empty all relays before this returns."""
        with self._lock:
            self._empty(list(self._relays))

    def _run(self) -> None:
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            with self._lock:
                self._empty(ready)
            time.sleep(PAUSE_S)

    def _empty(self, descriptors: Iterable[int]) -> None:
        for descriptor in descriptors:
            relay = self._relays.get(descriptor)
            if relay is not None and not relay.drain():
                del self._relays[descriptor]  # closed, and so out of the poll


class Desk:
    """Where the workers' audit lines arrive: one channel for each.

    Args:
        output: stdout.
        errors: stderr, for what stdout doesn't take.
    """

    def __init__(self, output: Output, errors: Output) -> None:
        self._output = output
        self._errors = errors
        self._channels: dict[socket.socket, dict[int, bytes]] = {}
        #: Questions after the workers' health: who asked, and who hasn't answered yet.
        self._asked: dict[int, tuple[socket.socket, int, set[socket.socket], float]] = {}
        self._pings = 0

    def register(
        self, selector: selectors.BaseSelector, channel: socket.socket, closed: Callable[[], None] | None = None
    ) -> None:
        """Take lines from a channel; call ``closed`` when its worker is dead."""
        self._channels[channel] = {}
        selector.register(channel, selectors.EVENT_READ, lambda: self._receive(selector, channel, closed))

    def drain(self, selector: selectors.BaseSelector) -> None:
        """Take what has arrived on all channels.

        Those of dead workers are closed, and what they left open is written.
        """
        for channel in list(self._channels):
            self._receive(selector, channel, None)

    def _receive(
        self, selector: selectors.BaseSelector, channel: socket.socket, closed: Callable[[], None] | None
    ) -> None:
        opened = self._channels.get(channel)
        if opened is None:
            return
        while True:
            try:
                message = channel.recv(wire.LONGEST)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                break
            kind, number, line = wire.unpack(message)
            if kind == wire.OPEN:
                opened[number] = line
            elif kind == wire.WRITE:
                opened.pop(number, None)
                self._output.line(line, partial(self._answer, channel, number, line))
            elif kind == wire.ASK:
                self._ask(channel, number)
            elif kind == wire.PONG:
                self._hear(channel, number)
        # Whatever it had begun may be done, and nobody else knows.
        for line in opened.values():
            self._output.line(line, partial(self.keep, line))
        del self._channels[channel]
        selector.unregister(channel)
        channel.close()
        if closed is not None:
            closed()

    def _answer(self, channel: socket.socket, number: int, line: bytes, error: str) -> None:
        kind = wire.FAILED if error else wire.WRITTEN
        try:
            channel.send(wire.pack(kind, number, error.encode()[: wire.MAX_LINE]))
        except OSError:
            # It has died, or it takes no answers: its request has ended without one, and this is the last that knows
            # the line.
            self.keep(line, error)

    def keep(self, line: bytes, error: str) -> None:
        """Say a line on stderr that stdout didn't take."""
        if error:
            text = f"gatehouse: error: a line of the audit log couldn't be written ({error}): ".encode()
            self._errors.line(text + line, lambda _: None)

    # --- Health --------------------------------------------------------------------------------------------------

    def _ask(self, asker: socket.socket, number: int) -> None:
        """Ask each worker whether its event loop turns.

        SIGSTOP, an endless loop and a held interpreter lock all show here.
        """
        self._pings += 1
        waiting = set(self._channels)
        self._asked[self._pings] = (asker, number, waiting, time.monotonic() + ANSWER_LIMIT_S)
        for channel in waiting:
            # One whose socket is full hears nothing, and doesn't answer in time.
            with contextlib.suppress(OSError):
                channel.send(wire.pack(wire.PING, self._pings))

    def _hear(self, channel: socket.socket, ping: int) -> None:
        if ping in self._asked:
            asker, number, waiting, _ = self._asked[ping]
            waiting.discard(channel)
            if not waiting:
                del self._asked[ping]
                self._tell(asker, number, wire.HEALTHY)

    def judge(self) -> float | None:
        """Answer the questions whose time is over; return the seconds until the next one's is."""
        now = time.monotonic()
        for ping, (asker, number, _, deadline) in list(self._asked.items()):
            if deadline <= now:
                del self._asked[ping]
                self._tell(asker, number, wire.UNHEALTHY)
        return min((deadline - now for *_, deadline in self._asked.values()), default=None)

    @staticmethod
    def _tell(asker: socket.socket, number: int, kind: bytes) -> None:
        with contextlib.suppress(OSError):
            asker.send(wire.pack(kind, number))


def write_in_thread(descriptor: int, errors: int = 2) -> socket.socket:
    """Be the log's writer in a thread of this process, for measurements and tests that have no supervisor.

    Return a worker's end.
    """
    ours, theirs = wire.pair()
    selector = selectors.DefaultSelector()
    desk = Desk(Output(descriptor), Output(errors))
    desk.register(selector, ours)

    def run() -> None:
        while selector.get_map():
            for key, _ in selector.select(desk.judge()):
                key.data()

    threading.Thread(target=run, name="the log's writer", daemon=True).start()
    return theirs
