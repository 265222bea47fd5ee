"""One identity token for each server and process: fetched once, renewed early, shared by all threads.

While a token lives, one thread renews it and the others go on with it; a renewal that fails before the end is
tried again later. Once a source has served, it stays: a run doesn't change its identity because a metadata
server hiccups. A forked child starts with its parent's token and locks of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from mlflow_gatehouse import sources
from mlflow_gatehouse.errors import ClientError, Unreachable
from mlflow_gatehouse.identity_token import IdentityToken
from mlflow_gatehouse.server import Server, discover

_logger = logging.getLogger(__name__)

PAUSE = 5.0  # seconds during which a failed renewal isn't repeated
LIVING_PAUSE = 30.0  # the same while the token still lives
DISCOVERY_PAUSE = 60.0  # seconds during which a failed look at the server's description isn't repeated


class Keeper:
    """Keeps the token for one server."""

    def __init__(self, origin: str, clock: Callable[[], float] = time.time) -> None:
        self.origin = origin
        self._clock = clock
        self._server: Server | None = None
        self._server_again = 0.0
        self._token: IdentityToken | None = None
        self._source: sources.Source | None = None
        self._decided_by = 0
        self._failure: tuple[float, ClientError] | None = None
        self.renew_locks()

    def renew_locks(self) -> None:
        """Take new locks: in a forked child, another thread of the parent may have held the old ones."""
        self._lock = threading.Lock()
        self._server_lock = threading.Lock()

    def server(self) -> Server:
        """The server's description, asked for once. One that can't be reached just now is taken as it is.

        Raises:
            ConfigurationError: a token must not travel to this address.
        """
        with self._server_lock:
            if self._server is None or self._clock() >= self._server_again > 0:
                try:
                    self._server, self._server_again = discover(self.origin), 0.0
                except Unreachable as error:
                    _logger.info("%s", error.problem)
                    self._server = self._server or Server(self.origin)
                    self._server_again = self._clock() + DISCOVERY_PAUSE
            return self._server

    def current(self) -> IdentityToken:
        """Return a living token.

        Raises:
            ClientError: there is none to be had; the message says why and what to do.
        """
        decided_by = hash(tuple(os.environ.get(name) for name in sources.DECIDING))  # one of them is a token
        token = self._token if decided_by == self._decided_by else None
        now = self._clock()
        if token is not None and token.fresh(now):
            return token
        if token is not None and token.living(now):
            if not self._lock.acquire(blocking=False):
                return token  # somebody is at it
        else:
            self._lock.acquire()
        try:
            if decided_by == self._decided_by and self._token is not None and self._token.fresh(self._clock()):
                return self._token
            try:
                return self._fetch(decided_by, None)
            except ClientError as error:
                if token is not None and token.living(self._clock()):
                    _logger.warning("the token can't be renewed yet: %s", error)
                    return token
                raise
        finally:
            self._lock.release()

    def after(self, refused: IdentityToken) -> IdentityToken:
        """Return the token to try after one was ``refused``: a new one, or the same if there is no other."""
        with self._lock:
            if self._token is not None and self._token.value != refused.value:
                return self._token  # another thread was here first
            return self._fetch(self._decided_by, refused.value)

    def _fetch(self, decided_by: int, refused: str | None) -> IdentityToken:
        """Fetch a token, from the source that served before unless settings changed. Needs the lock."""
        if decided_by != self._decided_by:
            self._decided_by = decided_by
            self._token = self._source = self._failure = None
        if self._failure and self._clock() < self._failure[0]:
            error = self._failure[1]
            raise type(error)(error.problem, error.fix)
        try:
            self._token = self._ask(refused)
        except ClientError as error:
            now = self._clock()
            left = self._token.ends_at - now if self._token else 0.0
            self._failure = (now + max(PAUSE, min(left, LIVING_PAUSE)), error)
            raise
        self._failure = None
        return self._token

    def _ask(self, refused: str | None) -> IdentityToken:
        server = self.server()
        if self._source is not None:
            try:
                token = sources.ask(self._source, server, self._clock, refused)
            except sources.NotHere as reason:
                raise sources.SourceFailed(f"{self._source.name}, which served so far: {reason}") from None
            except ClientError:
                if self._source.name != "environment":
                    raise
            else:
                return token
        token, self._source, tried = sources.first_token(server, self._clock)
        for item in tried:
            if item.source is not self._source and item.configured:
                _logger.warning("no token from %s: %s", item.source.name, item.outcome)
        _logger.info("identity for %s: %s, from %s", self.origin, token.email, self._source.name)
        return token


_keepers: dict[str, Keeper] = {}
_keepers_lock = threading.Lock()


def keeper_of(origin: str) -> Keeper:
    """Return this process's keeper of the token for a server."""
    with _keepers_lock:
        return _keepers.setdefault(origin, Keeper(origin))


def _after_fork() -> None:
    global _keepers_lock
    _keepers_lock = threading.Lock()
    for keeper in _keepers.values():
        keeper.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
