"""The supervisor's side of the figures: their sockets, their process, and what the supervisor alone knows."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING

from gatehouse.monitoring import notes
from gatehouse.start.plan import Program

if TYPE_CHECKING:
    from gatehouse.start.plan import Plan

#: Seconds between two looks at what the supervisor alone knows.
INTERVAL_S = 2.0
#: Seconds before the process that shows figures is started again.
AGAIN_S = 1.0
BACKLOG = 64
#: oauth2-proxy's line of a sign-in (its auth_logging_format; the user's name and what follows the status are others'
#: words).
_SIGN_IN = re.compile(rb"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] \[Auth(Success|Failure|Error)\]")


class Monitor:
    """What the supervisor does so that figures can be seen.

    Args:
        plan: of the start.
        began: when the start began, on the monotonic clock.
    """

    def __init__(self, plan: Plan, began: float) -> None:
        self._plan = plan
        self._began = began
        self._planned = time.monotonic()
        self._looked = 0.0
        self._cpu = 0.0
        self._again: float | None = None
        self._socket: socket.socket | None = None
        self._listener: socket.socket | None = None
        self.notes = notes.Notes(plan.server.run_directory)

    def open(self) -> None:
        """Make the sockets, which outlive the process that reads them.

        Raises:
            OSError: if the port was taken since it was looked at.
        """
        self._socket = notes.receiver(self._plan.server.run_directory)
        if (address := self._plan.server.settings.metrics) is None:
            return
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)

    def program(self) -> Program:
        """Return the process that shows figures."""
        assert self._plan.monitor_environment is not None  # noqa: S101 - for mypy
        assert self._socket is not None  # noqa: S101
        self._again = None
        listener = [] if self._listener is None else ["--listener", str(self._listener.fileno())]
        folder = str(self._plan.server.run_directory)
        command = (sys.executable, "-m", "gatehouse", "monitor", "--run-directory", folder)
        return Program((*command, "--notes", str(self._socket.fileno()), *listener), self._plan.monitor_environment)

    def descriptors(self) -> list[int]:
        """Return the descriptors that it inherits."""
        return [end.fileno() for end in (self._socket, self._listener) if end is not None]

    def opened(self) -> None:
        """Note how long the start took; the gate is open."""
        now = time.monotonic()
        self.notes.set("gatehouse_start_phase_seconds", "settings", to=round(self._planned - self._began, 4))
        self.notes.set("gatehouse_start_phase_seconds", "mlflow", to=round(now - self._planned, 4))
        self.notes.set("gatehouse_start_phase_seconds", "all", to=round(now - self._began, 4))

    def ended(self) -> None:
        """Note that the process has ended: it is due again soon, and must hear every gauge anew."""
        self._again = time.monotonic() + AGAIN_S
        self.notes.again()

    def is_due(self) -> bool:
        """Return whether it must be started again."""
        return self._again is not None and time.monotonic() >= self._again

    def see_line(self, lines: bytes) -> None:
        """Count sign-ins in the proxy's lines."""
        for found in _SIGN_IN.findall(lines):
            self.notes.count("gatehouse_sign_ins_total", found.decode().lower())

    def look(self, waiting: int) -> float:
        """Note what there is, if it is time; return the seconds until it is again.

        Args:
            waiting: lines of the audit log that the supervisor has yet to write.
        """
        now = time.monotonic()
        if now >= self._looked + INTERVAL_S:
            self._looked = now
            self.notes.set("gatehouse_audit_lines_waiting", "writer", to=waiting)
            used = os.times()
            cpu = used.user + used.system
            self.notes.count("gatehouse_process_cpu_seconds_total", "supervisor", by=cpu - self._cpu)
            self._cpu = cpu
            self.notes.send()
        due = self._looked + INTERVAL_S if self._again is None else min(self._looked + INTERVAL_S, self._again)
        return max(0.0, due - now)
