"""Is this address ours: the one answer, for whatever a client names and whatever the database holds.

The server has credentials that its users don't have. So it reads, writes and deletes at its own places alone: what lies
below ARTIFACTS_DESTINATION or DEFAULT_ARTIFACT_ROOT, and below what the operator lists in ALLOWED_ARTIFACT_LOCATIONS.
See guard.py for where this module is asked: as MLflow opens a store, however old the row that names it, and as a
client's address is written to a row.

An address that could be read in two ways (dots, also encoded ones, a query, capitals in the scheme) is nobody's.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: What resolves to another address, which is asked about in its turn.
REFERENCES = frozenset({"runs", "models"})
#: The scheme of what goes through this server.
PROXIED = "mlflow-artifacts"
#: The setting that lets further places in.
SETTING = "ALLOWED_ARTIFACT_LOCATIONS"

#: More than anybody's software encodes a name.
MAX_DECODINGS = 8

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
#: Characters that one part of the software may read otherwise than another.
_DUBIOUS = re.compile(r"[\x00-\x1f\x7f-\x9f?#\\\u2028\u2029]")
_PROXY_PATH = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts(?=/|$)")


class Foreign(ValueError):
    """The address is none of this server's; the text says which setting would let it in."""


@dataclass(frozen=True)
class _Place:
    scheme: str
    #: Bucket, container with account, host; empty for a folder.
    authority: str
    #: Without a slash at the end.
    path: str

    def holds(self, other: _Place) -> bool:
        same = (self.scheme, self.authority) == (other.scheme, other.authority)
        return same and (other.path == self.path or other.path.startswith(self.path + "/"))


def _place(address: str) -> _Place:
    """Return the parts of an address.

    Raises:
        Foreign: if it could be read in two ways.
    """
    if address.startswith("/"):
        address = "file://" + address
    scheme, colon, _ = address.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise Foreign("it is no absolute address")
    for reading in _readings(address):
        if _DUBIOUS.search(reading) or reading != reading.strip():
            raise Foreign("it has a query, a fragment, a backslash or a control character in it")
        names = unicodedata.normalize("NFKC", reading.partition(":")[2].lstrip("/")).split("/")
        if any(name in {".", ".."} for name in names):
            raise Foreign("its path has dots in it")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise Foreign("it is malformed") from None
    path = parts.path.rstrip("/")
    if "//" in path:
        raise Foreign("its path has empty names in it")
    if not parts.netloc.isascii() or "%" in parts.netloc:
        raise Foreign("its bucket or host has a strange name")
    if path and not path.startswith("/"):
        if scheme not in {*REFERENCES, PROXIED}:
            raise Foreign("it is no absolute address")
        path = "/" + path
    return _Place(scheme, parts.netloc, path)


def _readings(address: str) -> Iterator[str]:
    """Yield an address as it is, and as each further decoding of percent signs makes it.

    MLflow decodes until nothing changes.
    """
    for _ in range(MAX_DECODINGS):
        yield address
        decoded = unquote(address)
        if decoded == address:
            return
        address = decoded
    raise Foreign("it is encoded again and again")


class Addresses:
    """The places of a server.

    Args:
        own: ARTIFACTS_DESTINATION or DEFAULT_ARTIFACT_ROOT.
        allowed: further places, from ALLOWED_ARTIFACT_LOCATIONS.
        public_url: the origin of this server, by which a client may name it; None if there is none.
    """

    def __init__(self, own: str, allowed: Iterable[str] = (), public_url: str | None = None) -> None:
        self._places = tuple(_place(address) for address in (own, *allowed))
        self._own = self._places[0]
        self._host = urlsplit(public_url).netloc if public_url else ""

    def check(self, address: str) -> None:
        """Return if the server may touch what an address names.

        Or if it names a run or a model, which is asked about next.

        Raises:
            Foreign: otherwise; the text says why, and what would let it in.
        """
        try:
            place = _place(address)
            if place.scheme in REFERENCES:
                if place.authority:
                    raise Foreign("it names another server")
                return
            if self._is_proxied(place) or any(own.holds(place) for own in self._places):
                return
            raise Foreign("it isn't below this server's own artifact store")
        except Foreign as error:
            shown = address if len(address) <= 200 else address[:200] + "…"
            raise Foreign(
                f"The server doesn't touch {shown!r}: {error}. Whoever runs the server can allow a further place by "
                "the "
                f"setting {SETTING}."
            ) from None

    def is_within(self, address: str, owns: Callable[[str], bool]) -> bool:
        """Return whether an address that :meth:`check` lets pass is within what somebody owns of this server's store.

        What ALLOWED_ARTIFACT_LOCATIONS adds is the whole server's, as what lies in no folder of the store's own.

        Args:
            owns: asked about the path below the store's root, or about "" for a further place.
        """
        place = _place(address)
        if place.scheme in REFERENCES:
            return True
        if self._is_proxied(place):
            path = place.path if place.scheme == PROXIED else _PROXY_PATH.sub("", place.path)
            return owns(path.strip("/"))
        if self._own.holds(place):
            return owns(place.path.removeprefix(self._own.path).strip("/"))
        return owns("")

    def check_source(self, address: str) -> None:
        """As ``check``, for what a client names as the source of a version:

        a word that names no place may stand there too.

        MLflow's prompts have such a word; nothing can be read by it.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", address):
            self.check(address)

    def check_proxied(self, address: str) -> None:
        """As ``check``, for what MLflow asks whether it goes through this server:

        only a web page that isn't ours is refused.

        MLflow takes each address with the path of a server's artifacts, whatever its host, for one in this server's own
        store; and it fails with an assertion for the others.
        """
        if address.startswith(("http:", "https:")) and not _PROXY_PATH.search(address):
            self.check(address)

    def _is_proxied(self, place: _Place) -> bool:
        """Whether it is this server's own store, as seen through the server."""
        if place.scheme == PROXIED:
            return place.authority in {"", self._host}
        return (
            place.scheme in {"http", "https"} and place.authority == self._host and bool(_PROXY_PATH.match(place.path))
        )


def path_in_store(address: str) -> str:
    """Return the path below ARTIFACTS_DESTINATION that an address names which goes through this server.

    Raises:
        Foreign: if it is none of those.
    """
    try:
        place = _place(address)
    except Foreign:
        raise Foreign("its artifacts' address is malformed") from None
    if place.scheme != PROXIED or place.authority:
        raise Foreign("its artifacts aren't in this server's store")
    return place.path.strip("/")


def parse_allowed(value: str) -> tuple[str, ...]:
    """Return the places that a comma-separated list names.

    Raises:
        Foreign: naming one that is no place, or that would let in everything.
    """
    found = []
    for address in (text.strip() for text in value.split(",")):
        if not address:
            continue
        try:
            place = _place(address)
        except Foreign as error:
            raise Foreign(f"names {address!r}, but {error}") from None
        if place.scheme in {*REFERENCES, PROXIED, "http", "https"}:
            raise Foreign(f"names {address!r}, which is no artifact store")
        if place.scheme == "file" and (place.authority or place.path.count("/") < 2):
            raise Foreign(f"names {address!r}: give a folder that holds artifacts and nothing else")
        if place.scheme != "file" and not place.authority:
            raise Foreign(f"names {address!r}, which has no bucket")
        found.append(address)
    return tuple(found)
