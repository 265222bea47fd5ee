"""What an artifact store does: the one interface that the layer, MLflow's repository and ``gatehouse gc`` use.

All calls block, and move a piece at a time (PIECE), so a transfer of any size takes constant memory and a caller
that reads slowly slows the other side down. Paths are relative POSIX paths below the store's root, already
checked (:func:`gatehouse.artifacts.paths.check`); a store may rely on that, and must not follow anything out of its
root.
"""

from __future__ import annotations

import mimetypes
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

#: Bytes of the pieces that a transfer is made of, unless a store needs another size.
PIECE = 256 * 1024


def content_type(path: str) -> str:
    """Return the media type that a store is told of an artifact.

    What leaves this server is labelled by MLflow's own rules.
    """
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


class StoreError(Exception):
    """The store can't or won't do it; ``status`` and ``code`` are the answer's, in MLflow's terms.

    The message is for whoever made the request: it names no credential, and says what to do where anything can be done.
    """

    status = 503
    code = "TEMPORARILY_UNAVAILABLE"


class NotFound(StoreError):
    """There is nothing under this path."""

    status = 404
    code = "RESOURCE_DOES_NOT_EXIST"


class Denied(StoreError):
    """The server's own account may not do this; the message names the missing permission."""

    status = 403
    code = "PERMISSION_DENIED"


class Conflict(StoreError):
    """Another object exists at the path, such as an artifact where a folder is needed."""

    status = 409
    code = "RESOURCE_CONFLICT"


class Full(StoreError):
    """The store has no room left."""

    status = 507
    code = "RESOURCE_EXHAUSTED"


class Damaged(StoreError):
    """What arrived isn't what was sent: its checksum or its length is another one. Nothing was stored."""

    status = 502
    code = "DATA_LOSS"


class CannotSign(StoreError):
    """The store, or the server's account, can't sign URLs; the bytes can go through the server instead."""

    status = 501
    code = "NOT_IMPLEMENTED"


@dataclass(frozen=True)
class Stat:
    """An artifact: its size in bytes, its strong entity tag without quotes, its time in UTC."""

    size: int
    etag: str
    modified: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """A row of a folder's listing: its name in there, and the size in bytes unless it is a folder."""

    name: str
    is_folder: bool
    size: int | None = None


class Source(ABC):
    """An open artifact, or a range of it."""

    stat: Stat

    @abstractmethod
    def read(self) -> bytes:
        """Return the next piece, or nothing at the end.

        Raises:
            StoreError: if the store fails in the middle, or the bytes don't have the checksum that the store names.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection or the file, also in the middle."""


class Sink(ABC):
    """An upload: nothing is under the artifact's name before ``commit``, and the old artifact stays until then."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Take the next bytes, however many; blocks until they are on their way."""

    @abstractmethod
    def commit(self) -> Stat:
        """Put the artifact under its name, whole.

        Raises:
            Damaged: if the store's checksum is another one.
        """

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind; never raises, for the reason of the failure is known already."""


@dataclass(frozen=True)
class SignedUrl:
    """A URL that lets its holder move one artifact for a limited time, with the headers that must be sent."""

    url: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Multipart:
    """An upload in parts, straight to the store: a signed URL for each part, in order."""

    upload_id: str
    parts: list[SignedUrl]


class Store(ABC):
    """The folder of artifacts that ARTIFACTS_DESTINATION names."""

    @abstractmethod
    def stat(self, path: str) -> Stat:
        """Return what is known of an artifact; a folder is NotFound."""

    @abstractmethod
    def open(self, path: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> Source:
        """Open the bytes from ``start`` up to ``stop`` (excluded); with ``etag``, of that version or not at all.

        Raises:
            NotFound: if there is no such artifact, or it was replaced by another version meanwhile.
        """

    @abstractmethod
    def create(self, path: str, size: int | None = None) -> Sink:
        """Begin an upload; ``size`` in bytes if it is known."""

    @abstractmethod
    def list(self, path: str) -> Iterator[Entry]:
        """Yield what is in a folder, one level deep, by name; nothing for a folder that isn't there."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete an artifact, or a folder with all in it; what isn't there is no error."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that the server may read, write, list and delete here; leaves nothing behind.

        Raises:
            Denied: naming the permission that is missing.
            StoreError: if the store can't be reached, or has no such bucket.
        """

    def sweep(self, before: datetime, dry_run: bool) -> Iterator[tuple[str, int]]:  # noqa: ARG002 - for those that override it
        """Remove what uploads interrupted before a time left behind; yield each one's path and size in bytes."""
        return iter(())

    # Straight to the store, where it can sign; the others say that they can't.

    def check_signing(self) -> None:
        """Make sure that URLs can be signed; changes nothing.

        Raises:
            CannotSign: naming what is missing.
            StoreError: if it can't be found out.
        """
        self.sign_download("gatehouse-check", 60)

    def sign_download(self, path: str, seconds: int) -> SignedUrl:  # noqa: ARG002
        """Return a URL that downloads an artifact.

        Raises:
            CannotSign: if this store, or the server's account, can't; the message names what is missing.
        """
        raise CannotSign("This artifact store doesn't sign URLs; send the bytes through the server.")

    def begin_multipart(self, path: str, parts: int, seconds: int) -> Multipart:  # noqa: ARG002
        """Begin an upload in parts; it is checked that URLs can be signed before anything is begun."""
        raise CannotSign("This artifact store doesn't sign URLs; send the bytes through the server.")

    def complete_multipart(self, path: str, upload_id: str, etags: Sequence[str]) -> None:  # noqa: ARG002
        """Put the uploaded parts, in order, under the artifact's name."""
        raise CannotSign("This artifact store doesn't sign URLs; send the bytes through the server.")

    def abort_multipart(self, path: str, upload_id: str) -> None:  # noqa: ARG002
        """Throw an upload in parts away."""
        raise CannotSign("This artifact store doesn't sign URLs; send the bytes through the server.")
