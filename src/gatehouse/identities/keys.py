"""Keys for programs that can't renew a token: made of random, stored as a hash, checked with one cached look.

``gatehouse_`` and 38 letters and digits: 32 random ones (190 bits) and six of a checksum, by which a scanner of secrets
tells a key from a word, and a mistyped one costs no look into the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import string
import sys
import time
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from gatehouse.policy.identity import Identity, IdentityError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "gatehouse_"
_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM, _CHECKSUM = 32, 6
PATTERN = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECKSUM}}}")
#: What a key's name may be.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
MOST_DAYS = 365


class Found(Protocol):
    """A stored key, as far as this module needs it (:class:`gatehouse.database.keys.Key`)."""

    @property
    def id(self) -> str:
        """What it is called by, where it is revoked."""

    @property
    def name(self) -> str:
        """What it is for."""

    @property
    def owner(self) -> str:
        """The address of who has made it."""

    @property
    def subject(self) -> str:
        """The subject of who has made it."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that its owner had then."""

    @property
    def role(self) -> int:
        """The most that it may."""

    def state(self, now: float) -> str:
        """Return ``live``, ``expired`` or ``revoked``."""


class Table(Protocol):
    """Where keys are stored (:class:`gatehouse.database.keys.KeyTable`); calls block."""

    def find(self, digest: str) -> Found | None:
        """Return the key with a hash."""

    def note_use(self, key_id: str) -> None:
        """Write down that a key was used now."""


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM):
        number, rest = divmod(number, len(_LETTERS))
        digits = _LETTERS[rest] + digits
    return digits


def make() -> str:
    """Return a new key."""
    text = "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM))
    return PREFIX + text + _checksum(text)


def is_whole(key: str) -> bool:
    """Return whether a text is a key with the right checksum."""
    text = key.removeprefix(PREFIX)
    return PATTERN.fullmatch(key) is not None and _checksum(text[:_RANDOM]) == text[_RANDOM:]


def digest(key: str) -> str:
    """Return what is stored of a key. It has too many random bits to be guessed: no salt, no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The identities behind keys.

    A key that was looked up serves for ``FRESH`` seconds without another look: so long can one that was revoked by
    another process live here. Keys that nobody has made cost a look each, and a client's address may send so many.

    Args:
        table: where they are stored.
        clock: now, in seconds since the epoch.
    """

    #: Seconds that a look into the database counts.
    FRESH = 5.0
    #: Keys that are kept in memory.
    MOST = 2000
    #: Seconds between two notes of a key's use.
    NOTED = 60.0
    #: Wrong keys that an address may send at once, and how many more each second.
    WRONG_AT_ONCE, WRONG_PER_S = 20.0, 0.5
    #: Addresses that are remembered.
    ADDRESSES = 5000

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Found]] = OrderedDict()
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def verify(self, key: str, address: str | None) -> Identity:
        """Return who has made a key.

        Args:
            address: whence it came, as far as that is known.

        Raises:
            IdentityError: if it is none that is live.
        """
        if not is_whole(key):
            self._count(address)
            raise IdentityError("This is no key of this server: a part of it is missing or mistyped.")
        hashed = digest(key)
        now = self._clock()
        since, found = self._known.get(hashed, (0.0, None))
        if found is None or not 0 <= now - since < self.FRESH:
            self._check_patience(address)
            try:
                found = await asyncio.to_thread(self._table.find, hashed)
            except Exception as error:
                print(f"gatehouse: error: keys can't be looked up: {type(error).__name__}", file=sys.stderr, flush=True)
                raise IdentityError("Keys can't be looked up now; try again.") from None
            if found is None:
                self._known.pop(hashed, None)
                self._count(address)
                raise IdentityError("This server knows no such key.")
            self._known[hashed] = (now, found)
            self._known.move_to_end(hashed)
            while len(self._known) > self.MOST:
                self._known.popitem(last=False)
        state = found.state(now)
        if state != "live":
            raise IdentityError(f"The key {found.name} of {found.owner} is {state}; make another.")
        self._note(found, now)
        return Identity(
            email=found.owner, subject=found.subject, groups=found.groups, key=found.name, key_role=found.role
        )

    def forget(self, key_id: str) -> None:
        """Look a key up anew at its next use: it was revoked."""
        for hashed in [hashed for hashed, (_, found) in self._known.items() if found.id == key_id]:
            del self._known[hashed]

    # --- The use ------------------------------------------------------------------------------------------------------

    def _note(self, found: Found, now: float) -> None:
        if now - self._noted.get(found.id, 0.0) < self.NOTED:
            return
        if len(self._noted) > self.MOST:
            self._noted.clear()
        self._noted[found.id] = now

        async def note() -> None:
            try:
                await asyncio.to_thread(self._table.note_use, found.id)
            except Exception as error:
                text = f"gatehouse: error: a key's use can't be written down: {type(error).__name__}"
                print(text, file=sys.stderr, flush=True)

        task = asyncio.get_running_loop().create_task(note())
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    # --- Wrong ones ---------------------------------------------------------------------------------------------------

    def _left(self, address: str | None) -> float:
        """Return how many more wrong keys an address may send now."""
        left, since = self._wrong.get(address or "", (self.WRONG_AT_ONCE, self._clock()))
        return min(self.WRONG_AT_ONCE, left + max(0.0, self._clock() - since) * self.WRONG_PER_S)

    def _check_patience(self, address: str | None) -> None:
        if self._left(address) < 1:
            raise IdentityError("Too many wrong keys came from this address; wait a minute, then try again.")

    def _count(self, address: str | None) -> None:
        self._wrong[address or ""] = (max(0.0, self._left(address) - 1), self._clock())
        self._wrong.move_to_end(address or "")
        while len(self._wrong) > self.ADDRESSES:
            self._wrong.popitem(last=False)


def parse_request(body: bytes) -> tuple[str, str, int]:
    """Return the name, the role and the days of a request for a key.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or set(document) - {"name", "role", "days"}:
        raise ValueError('Send JSON such as {"name": "otel-prod", "role": "editor", "days": 90}.')
    name, role, days = document.get("name"), document.get("role"), document.get("days")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("The key's name has small letters, digits, dots, hyphens and underscores, at most 64.")
    if not isinstance(role, str) or role not in {"viewer", "editor", "admin"}:
        raise ValueError("The key's role is viewer, editor or admin.")
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= MOST_DAYS:
        raise ValueError(f"A key ends after 1 to {MOST_DAYS} days: say how many.")
    return name, role, days
