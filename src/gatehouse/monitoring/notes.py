"""A process's own notes, and how they get to the one that shows them: what changed, as datagrams of JSON.

The supervisor makes the socket before anything starts, so no note is lost while nobody reads; where it is full, the
notes stay here and add up until it isn't. Imports the standard library alone: the supervisor is a small process.
"""

from __future__ import annotations

import json
import socket
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from gatehouse.monitoring.table import BUCKETS, METRICS

if TYPE_CHECKING:
    from pathlib import Path

#: The socket, in the private folder of the start.
SOCKET_NAME = "notes.sock"
#: Where the sums of the last hour can be asked for, there too.
STATE_SOCKET_NAME = "state.sock"
#: Where oauth2-proxy tells its own figures, there too.
PROXY_SOCKET_NAME = "proxy-metrics.sock"
#: Notes in a datagram; the kernel takes some 200 KiB at once.
MOST_NOTES = 200
#: The longest datagram that is read.
LONGEST = 256 * 1024

Labels = tuple[str, ...]


def receiver(run_directory: Path) -> socket.socket:
    """Return the socket that notes are sent to; only this user can reach it."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = run_directory / SOCKET_NAME
    end.bind(str(path))
    path.chmod(0o600)
    return end


class Notes:
    """What one process has noted and not sent yet. Any thread may note; :meth:`send` is called by one.

    Args:
        run_directory: where :func:`receiver` made its socket.
    """

    def __init__(self, run_directory: Path) -> None:
        self._path = str(run_directory / SOCKET_NAME)
        self._socket: socket.socket | None = None
        #: Requests that are being answered; the event loop's alone.
        self.in_flight = 0
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], float] = {}
        self._values: dict[tuple[str, Labels], float] = {}
        self._told: dict[tuple[str, Labels], float] = {}
        self._times: dict[tuple[str, Labels], list[float]] = {}
        self._counted: set[tuple[str, Labels]] = set()

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        key = (name, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + by
            self._counted.add(key)

    def set(self, name: str, *labels: str, to: float) -> None:
        """Set a gauge; the same value as before isn't sent again."""
        key = (name, labels)
        with self._lock:
            if self._told.get(key) != to:
                self._told[key] = self._values[key] = to

    def time(self, name: str, *labels: str, seconds: float) -> None:
        """Add an observation to a histogram."""
        key = (name, labels)
        with self._lock:
            slots = self._times.get(key)
            if slots is None:
                # A count for each bucket and for what is beyond the last one; the sum; the longest.
                slots = self._times[key] = [0.0] * (len(BUCKETS) + 3)
            slots[bisect_left(BUCKETS, seconds)] += 1
            slots[-2] += seconds
            slots[-1] = max(slots[-1], seconds)

    def again(self) -> None:
        """Send every gauge again next time, and that there are these counters: whoever had heard them may have gone."""
        with self._lock:
            self._counts = {**dict.fromkeys(self._counted, 0.0), **self._counts}
            self._values = {**self._told, **self._values}

    def send(self) -> bool:
        """Send what changed; return whether all of it went."""
        with self._lock:
            counts, values, times = self._counts, self._values, self._times
            self._counts, self._values, self._times = {}, {}, {}
        notes: list[tuple[str, Labels, Any]] = [
            *((name, labels, value) for (name, labels), value in counts.items()),
            *((name, labels, value) for (name, labels), value in values.items()),
            *((name, labels, value) for (name, labels), value in times.items()),
        ]
        for start in range(0, len(notes), MOST_NOTES):
            part = notes[start : start + MOST_NOTES]
            if not self._send(json.dumps(part, separators=(",", ":")).encode()):
                self._keep(notes[start:])
                return False
        return True

    def _send(self, message: bytes) -> bool:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message, self._path)
        except OSError:
            return False
        return True

    def _keep(self, notes: list[tuple[str, Labels, Any]]) -> None:
        """Take back what couldn't be sent, under what was noted since."""
        with self._lock:
            for name, labels, value in notes:
                key = (name, labels)
                kind = METRICS[name].kind
                if kind == "counter":
                    self._counts[key] = self._counts.get(key, 0) + value
                elif kind == "gauge":
                    self._values.setdefault(key, value)
                elif key in self._times:
                    longest = max(self._times[key][-1], value[-1])
                    self._times[key] = [a + b for a, b in zip(self._times[key], value, strict=True)]
                    self._times[key][-1] = longest
                else:
                    self._times[key] = value
