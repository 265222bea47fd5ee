"""An issuer's public keys: fetched when a token needs them, kept for an hour, by no address that a token names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatehouse.identities.issuers import Issuer

#: No issuer's document is larger.
MAX_BYTES = 256 * 1024
#: No issuer has more keys; what is beyond isn't looked at.
MAX_KEYS = 100
TIMEOUT_S = 5.0


class NoKeys(Exception):
    """The keys can't be had; the text says why, for the log."""


class KeySet:
    """The key set (RFC 7517) of one issuer.

    A key that isn't there is asked for anew, at most every ``COOLDOWN`` seconds, however many tokens name one: that is
    how a rotation is noticed. While the issuer can't be reached, the keys that were fetched last serve for ``STALE``
    seconds.

    Args:
        clock: seconds of a clock that only goes on.
    """

    #: Seconds after which the keys are fetched anew.
    FRESH = 3600.0
    #: Seconds that keys serve whose issuer can't be reached.
    STALE = 24 * 3600.0
    #: Seconds between two fetches.
    COOLDOWN = 10.0

    def __init__(self, issuer: Issuer, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: list[dict[str, Any]] = []
        self._fetched = -self.STALE
        self._tried = -self.STALE
        self._problem = ""
        self._fetching: asyncio.Task[None] | None = None

    async def candidates(self, kid: str | None, fits: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return the keys that can have signed a token: those of its key id, or, without one, the only one that fits.

        Raises:
            NoKeys: if no keys can be had.
        """
        found = self._find(kid, fits)
        age = self._clock() - self._fetched
        if (not found or age > self.FRESH) and self._clock() - self._tried >= self.COOLDOWN:
            await self._fetch()
            found = self._find(kid, fits)
        if self._clock() - self._fetched > self.STALE:
            raise NoKeys(self._problem or "they were never fetched")
        return found

    def _find(self, kid: str | None, fits: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        fitting = [key for key in self._keys if fits(key)]
        if kid is None:
            return fitting if len(fitting) == 1 else []
        return [key for key in fitting if key.get("kid") == kid]

    async def _fetch(self) -> None:
        """Fetch the keys; whoever comes meanwhile waits for the same answer."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._take())
        with contextlib.suppress(NoKeys):
            await asyncio.shield(self._fetching)

    async def _take(self) -> None:
        try:
            keys = await asyncio.to_thread(fetch, self._issuer)
        except NoKeys as error:
            self._problem = str(error)
            raise
        else:
            self._keys, self._fetched, self._problem = keys, self._clock(), ""
        finally:
            self._tried = self._clock()
            self._fetching = None


def fetch(issuer: Issuer) -> list[dict[str, Any]]:
    """Return an issuer's keys as they are published.

    Raises:
        NoKeys: if they can't be had within some seconds, or aren't a key set.
    """
    place = issuer.keys
    if place is None:
        # OpenID Connect Discovery 1.0, 4: whoever can be asked must name itself as the issuer.
        document = _document(issuer.url.rstrip("/") + "/.well-known/openid-configuration", issuer)
        if document.get("issuer") != issuer.url:
            raise NoKeys(f"the discovery document of {issuer.url} names another issuer")
        place = document.get("jwks_uri")
        if not isinstance(place, str) or not (
            place.startswith("https://") or (issuer.url.startswith("http://") and place.startswith("http://"))
        ):
            raise NoKeys(f"the discovery document of {issuer.url} has no jwks_uri with https")
    keys = _document(place, issuer).get("keys")
    if not isinstance(keys, list):
        raise NoKeys(f"{place} isn't a key set")
    return [key for key in keys[:MAX_KEYS] if isinstance(key, dict)]


def _document(place: str, issuer: Issuer) -> dict[str, Any]:
    """Return a JSON object from an address or a file."""
    if place.startswith("/"):
        try:
            with Path(place).open("rb") as file:
                body = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise NoKeys(f"{place}: {error.strerror}") from None
    else:
        body = _get(place, issuer)
    if len(body) > MAX_BYTES:
        raise NoKeys(f"{place} answers with more than {MAX_BYTES} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise NoKeys(f"{place} isn't JSON") from None
    if not isinstance(document, dict):
        raise NoKeys(f"{place} isn't a JSON object")
    return document


def _get(address: str, issuer: Issuer) -> bytes:
    import requests

    headers = {"Accept": "application/json"}
    deadline = time.monotonic() + 2 * TIMEOUT_S
    try:
        if issuer.token is not None:
            headers["Authorization"] = f"Bearer {issuer.token.read_text().strip()}"
        with requests.Session() as session:
            # ~/.netrc has no say; a company's proxy has.
            session.auth = lambda request: request
            with session.get(
                address, headers=headers, timeout=TIMEOUT_S, stream=True, allow_redirects=False,
                verify=str(issuer.ca) if issuer.ca else True,
            ) as answer:  # fmt: skip
                if answer.status_code != 200:
                    raise NoKeys(f"{address} answers {answer.status_code}")
                body = b""
                for chunk in answer.iter_content(16384):
                    body += chunk
                    if len(body) > MAX_BYTES or time.monotonic() > deadline:
                        raise NoKeys(f"{address} answers with too much, or too slowly")
                return body
    except (requests.RequestException, OSError) as error:
        raise NoKeys(f"{address}: {type(error).__name__}") from None
