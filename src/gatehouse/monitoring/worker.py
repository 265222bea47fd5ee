"""A worker's notes about itself: looked at once a second, on its event loop, and sent with what its requests noted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatehouse.monitoring.notes import Notes

#: Seconds between two looks; a scrape is seldom more frequent.
INTERVAL_S = 1.0
#: Looks between two that read /proc, or ask the database: they cost more than the others.
SELDOM = 15

#: What a look finds: a gauge's name, its labels behind the worker's own, and its value.
Reading = tuple[str, tuple[str, ...], float]
Look = Callable[[], Iterable[Reading]]


class Reporter:
    """Looks at a worker, and sends its notes, from :meth:`start` to :meth:`stop`.

    Args:
        notes: the worker's.
    """

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.name = "0"
        self._looks: list[Look] = []
        self._seldom: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._rounds = 0
        self._cpu = 0.0
        self._asking: asyncio.Future[None] | None = None

    def watch(self, look: Look) -> None:
        """Take a look's readings, each labelled with this worker, every INTERVAL_S seconds."""
        self._looks.append(look)

    def ask(self, question: Callable[[], None]) -> None:
        """Call what blocks and notes by itself, in a thread, every SELDOM looks; of all workers only the first does."""
        self._seldom.append(question)

    def start(self, number: int) -> None:
        """Begin, in the running event loop, as the worker of a number (from 0)."""
        self.name = str(number)
        self._expect(asyncio.get_running_loop())

    def _expect(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(loop.time() + INTERVAL_S, self._look, loop, loop.time() + INTERVAL_S)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.notes.set("gatehouse_event_loop_delay_seconds", self.name, to=round(loop.time() - due, 3))
        for look in self._looks:
            for name, labels, value in look():
                self.notes.set(name, self.name, *labels, to=value)
        if self._rounds % SELDOM == 0 and (self._asking is None or self._asking.done()):
            self._asking = loop.run_in_executor(None, self._look_closer)
            # Whoever hears them may have begun anew meanwhile.
            self.notes.again()
        self._rounds += 1
        self.notes.send()
        self._expect(loop)

    def _look_closer(self) -> None:
        """Look at what takes milliseconds, in a thread."""
        process = f"worker {self.name}"
        if (memory := own_memory(os.getpid())) is not None:
            self.notes.set("gatehouse_process_memory_bytes", process, to=memory)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        self.notes.count("gatehouse_process_cpu_seconds_total", process, by=cpu - self._cpu)
        self._cpu = cpu
        for question in self._seldom if self.name == "0" else ():
            # The database may be away: its own errors tell, and a figure that isn't there does too.
            with contextlib.suppress(Exception):
                question()

    def stop(self) -> None:
        """Send what is left."""
        if self._timer is not None:
            self._timer.cancel()
        self.notes.send()


def own_memory(pid: int) -> int | None:
    """Return the bytes of memory that only this process has, or None where the kernel doesn't tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
