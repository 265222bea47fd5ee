"""The policy in force: read at start, and taken up again when its file changes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

from gatehouse.policy.reader import PolicyError, PolicyProblem, parse
from gatehouse.policy.roles import OPEN_TO_EDITORS

if TYPE_CHECKING:
    from pathlib import Path

    from gatehouse.policy.roles import Policy


class PolicySource:
    """The policy in force: read at start, looked at again at most once a second, when a request asks for it.

    A changed file that is malformed, or gone, leaves the policy as it was and says so on stderr, once.

    :param path: the file, or None for :data:`OPEN_TO_EDITORS`.
    :param environment: ``APP_ENV``.
    :raises PolicyError: if the file can't be used now.
    """

    #: Seconds between two looks at the file.
    INTERVAL = 1.0

    def __init__(self, path: Path | None, environment: str) -> None:
        self._path = path
        self._environment = environment
        self._lock: asyncio.Lock | None = None
        self._looked = time.monotonic()
        self._content: bytes | None = None
        self._complaint = ""
        self._policy = OPEN_TO_EDITORS
        if path is not None:
            try:
                self._content = path.read_bytes()
            except OSError as error:
                problem = PolicyProblem(str(path), str(error.strerror), "mount the file, or correct ACCESS_POLICY")
                raise PolicyError([problem]) from None
            self._policy = parse(self._content, environment, str(path))

    async def current(self) -> Policy:
        """Return the policy that holds for a request that comes now."""
        if self._path is not None and time.monotonic() - self._looked >= self.INTERVAL:
            if self._lock is None:  # made here, because each forked worker has an event loop of its own
                self._lock = asyncio.Lock()
            async with self._lock:
                if time.monotonic() - self._looked >= self.INTERVAL:
                    # A mounted secret may be fetched over the network: not on the event loop.
                    await asyncio.get_running_loop().run_in_executor(None, self._look)
                    self._looked = time.monotonic()
        return self._policy

    def _look(self) -> None:
        """Take up the file if it changed."""
        assert self._path is not None  # noqa: S101 - for mypy
        try:
            content = self._path.read_bytes()
            if content == self._content:
                self._complain("")
                return
            policy = parse(content, self._environment, str(self._path))
        except OSError as error:
            self._complain(f"{self._path}: {error.strerror}")
        except PolicyError as error:
            self._complain(str(error))
        else:
            self._content, self._policy = content, policy
            self._complain("")
            _say(f"took up the changed access policy {self._path}")

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            _say(f"error: the changed access policy can't be used; the old one stays in force:\n{complaint}")
        self._complaint = complaint


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"gatehouse: {message}", file=sys.stderr, flush=True)
