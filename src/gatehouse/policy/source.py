"""The policy in force: read at start, and taken up again, beside the requests, when its file changes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from gatehouse.policy.reader import PolicyError, PolicyProblem, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gatehouse.policy.file import PolicyFile
    from gatehouse.policy.roles import Policy


class PolicySource:
    """The policy in force: read at start, looked at again at most once a second, when a request asks for it.

    The file may lie on a network: a thread looks at it, and the policy that is in force serves meanwhile. Where nobody
    has looked for RECENT seconds (a platform stops processes that have nothing to do), a request waits for the look,
    for at most PATIENCE seconds. A changed file that is malformed, or gone, leaves the policy as it was and says so on
    stderr, once; so does a look that doesn't end.

    Args:
        file: the policy that was read at the start.
        taken_up: is told of each changed policy that is in force from now on; must not wait.
    """

    #: Seconds between two looks at the file.
    INTERVAL = 1.0
    #: Seconds after which what is known of the file is no longer recent.
    RECENT = 3.0
    #: Seconds that a request waits for a look.
    PATIENCE = 0.25
    #: Seconds after which a look that doesn't end is told of.
    OVERDUE = 30.0

    def __init__(self, file: PolicyFile, taken_up: Callable[[Policy], None] | None = None) -> None:
        self._taken_up = taken_up
        self._path = file.path
        self._environment = file.environment
        self._issuers = file.issuers
        self._looked = file.read_at
        self._began = 0.0
        self._looking: threading.Event | None = None
        self._content = file.content
        self._complaint = ""
        self._is_overdue = False
        self._policy = file.policy

    @property
    def path(self) -> Path | None:
        """The file, or None without one."""
        return self._path

    @property
    def read(self) -> Policy:
        """The policy that was read last, without a look at the file."""
        return self._policy

    @property
    def age(self) -> float | None:
        """Seconds since the file was last looked at; None without a file."""
        return time.monotonic() - self._looked if self._path is not None else None

    @property
    def problem(self) -> str:
        """Why the changed file isn't in force; empty if it is."""
        return self._complaint

    async def current(self) -> Policy:
        """Return the policy that holds for a request that comes now."""
        age = self.age
        if age is not None and age >= self.INTERVAL:
            if self._looking is None:
                self._begin()
            wait = self._began + self.PATIENCE - time.monotonic()
            if age >= self.RECENT and wait > 0 and self._looking is not None:
                await self._until(self._looking, wait)
            elif age >= self.OVERDUE:
                self._tell_overdue(age)
        return self._policy

    async def _until(self, looking: threading.Event, limit: float) -> None:
        """Wait for a look; short steps on the event loop, for a thread that hangs must hold up nobody."""
        deadline = time.monotonic() + limit
        while not looking.is_set() and time.monotonic() < deadline:
            await asyncio.sleep(0.002)

    def _begin(self) -> None:
        """Look at the file in a thread of its own, which may hang and ends with the process."""
        done = self._looking = threading.Event()
        self._began = time.monotonic()

        def look() -> None:
            try:
                self._look()
            finally:
                self._looked = time.monotonic()
                self._looking = None
                done.set()
                if self._is_overdue:
                    self._is_overdue = False
                    _say(f"the access policy {self._path} can be read again")

        threading.Thread(target=look, name="policy", daemon=True).start()

    def _look(self) -> None:
        """Take up the file if it changed."""
        assert self._path is not None  # noqa: S101 - for mypy
        try:
            content = self._path.read_bytes()
            if content == self._content:
                self._complain("")
                return
            policy = parse(content, self._environment, str(self._path), self._issuers)
            self._check_change(policy)
        except OSError as error:
            self._complain(f"{self._path}: {error.strerror}")
        except PolicyError as error:
            self._complain(str(error))
        else:
            self._content, self._policy = content, policy
            self._complain("")
            _say(f"took up the changed access policy {self._path}")
            if self._taken_up is not None:
                self._taken_up(policy)

    def _check_change(self, policy: Policy) -> None:
        """Refuse what can't be meant while the server runs.

        Raises:
            PolicyError: if nobody would administer any more, or workspaces were switched on or off.
        """
        where, old = str(self._path), self._policy
        if old.gives_admin and not policy.gives_admin:
            what = "makes nobody an admin any more, so that nobody could take it back"
            fix = "name one below `roles: admin:`, or restart the server if it is meant"
            raise PolicyError([PolicyProblem(where, what, fix)])
        if policy.has_workspaces is not old.has_workspaces:
            what = "has `workspaces:` now" if policy.has_workspaces else "has no `workspaces:` any more"
            raise PolicyError(
                [PolicyProblem(where, f"{what}, which switches them at a start alone", "restart the server")]
            )

    def _tell_overdue(self, age: float) -> None:
        if not self._is_overdue:
            self._is_overdue = True
            text = f"reading the access policy {self._path} hasn't ended for {age:.0f} s: is its mount reachable?"
            _say(f"error: {text} The one that was read last stays in force.")

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            _say(f"error: the changed access policy can't be used; the old one stays in force:\n{complaint}")
        self._complaint = complaint


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"gatehouse: {message}", file=sys.stderr, flush=True)
