"""Artifacts, from where the source has them into the gate's store: a piece at a time, each file whole or not at all."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from gatehouse.artifacts.paths import BadPath, check
from gatehouse.artifacts.stores.base import PIECE, NotFound, StoreError
from gatehouse.moving.server.remote import TRIES, Interrupted, ServerError, wait

if TYPE_CHECKING:
    from gatehouse.artifacts.stores.base import Store
    from gatehouse.moving.server.remote import Remote

SERVED = "mlflow-artifacts:"


@dataclass
class Moved:
    """What came of the artifacts of one place."""

    files: int = 0
    bytes: int = 0
    #: Files that were here already, with the same bytes.
    there: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: Moved) -> None:
        """Add another place's."""
        self.files += other.files
        self.bytes += other.bytes
        self.there += other.there
        self.failed.update(other.failed)


class Files:
    """Copies artifacts; any thread may.

    Args:
        store: the gate's.
        served: where the old server kept what it calls ``mlflow-artifacts:/`` (a folder or a bucket), if it did.
        folder: the ``mlruns`` folder, where the source is one: what has moved with it is found in there.
        allowed: folders and buckets that may be read besides; a source names places as it likes, and is not believed.
        server: the old server, where the source is one: what it serves comes from it, unless ``served`` is given.
    """

    def __init__(
        self,
        store: Store,
        served: str | None,
        folder: Path | None,
        allowed: Iterable[str] = (),
        server: Remote | None = None,
    ) -> None:
        self._store = store
        self._server = server
        self._served = served.rstrip("/") if served else None
        self._folder = folder
        places = [*allowed, *([self._served] if self._served else []), *([str(folder)] if folder else [])]
        self._folders = [os.path.realpath(path) for place in places if (path := _path(place)) is not None]
        self._buckets = [place.rstrip("/") for place in places if _path(place) is None]

    def copy(self, old: str, new: str, dry_run: bool = False) -> Moved:
        """Copy all below one location.

        Args:
            old: the location there.
            new: the location here, below ``mlflow-artifacts:``.
            dry_run: whether to count alone.
        """
        moved = Moved()
        base = new.removeprefix(SERVED).strip("/")
        try:
            for path, size, opener in self._files(old):
                try:
                    self._one(check(posixpath.join(base, path)), size, opener, moved, dry_run)
                except (BadPath, StoreError, OSError, ServerError) as error:
                    moved.failed[f"{old}/{path}"] = str(error)
        except Exception as error:  # whatever the library of the old store raises
            moved.failed[old] = f"{type(error).__name__}: {error}"
        return moved

    def _files(self, old: str) -> Iterator[tuple[str, int | None, Callable[[], Iterator[bytes]]]]:
        """Yield the files below a location there, if it may be read: relative path, size, and what opens each."""
        if self._server is not None and self._served is None and old.startswith(SERVED):
            return _served(self._server, old)
        place = self._place(old)
        self._permit(place)
        return _local(place) if isinstance(place, Path) else _remote(place)

    def _place(self, old: str) -> Path | str:
        """Return the folder on this machine, or the URL, that a location means."""
        if old.startswith(SERVED):
            if self._served is None:
                raise FileNotFoundError(
                    "the old server kept it (mlflow-artifacts:); name its --artifacts-destination by --served-artifacts"
                )
            path = unquote(urlsplit(old).path).strip("/")
            return _path(f"{self._served}/{path}") or f"{self._served}/{path}"
        local = _path(old)
        if local is None:
            return old
        if self._folder is not None:
            # EXPERIMENT/RUN/artifacts, EXPERIMENT/models/MODEL/artifacts, EXPERIMENT/traces/TRACE/artifacts
            parts = local.parts
            for count in (3, 4):
                inside = self._folder.joinpath(*parts[-count:])
                if len(parts) > count and inside.is_dir():
                    return inside
        return local

    def _permit(self, place: Path | str) -> None:
        """Raise PermissionError unless a place lies in one that may be read."""
        if isinstance(place, Path):
            real = os.path.realpath(place)
            if any(real == folder or real.startswith(folder + os.sep) for folder in self._folders):
                return
        elif ".." not in place.split("/") and any(f"{place}/".startswith(bucket + "/") for bucket in self._buckets):
            return
        raise PermissionError(
            f"{place} isn't read unasked; if you trust the source, add --allow with the place it lies in"
        )

    def _one(
        self, path: str, size: int | None, opener: Callable[[], Iterator[bytes]], moved: Moved, dry_run: bool
    ) -> None:
        try:
            there: int | None = self._store.stat(path).size
        except NotFound:
            there = None
        if there is not None and there == size:
            moved.there += 1
            return
        if dry_run:
            moved.files += 1
            moved.bytes += size or 0
            return
        for attempt in range(TRIES):
            try:
                count, digest = self._write(path, size, opener)
                break
            except Interrupted:
                if attempt == TRIES - 1:
                    raise
                wait(attempt)
        self._verify(path, digest)
        moved.files += 1
        moved.bytes += count

    def _write(self, path: str, size: int | None, opener: Callable[[], Iterator[bytes]]) -> tuple[int, bytes]:
        """Write a file, whole or not at all; return its size and SHA-256."""
        came = hashlib.sha256()
        sink = self._store.create(path, size)
        try:
            count = 0
            for piece in opener():
                came.update(piece)
                count += len(piece)
                sink.write(piece)
            if size is not None and count != size:
                raise OSError(f"{count} bytes came of {size}")
            sink.commit()
        except BaseException:
            sink.abort()
            raise
        return count, came.digest()

    def _verify(self, path: str, digest: bytes) -> None:
        """Read it back, and compare."""
        arrived = hashlib.sha256()
        source = self._store.open(path)
        try:
            while piece := source.read():
                arrived.update(piece)
        finally:
            source.close()
        if arrived.digest() != digest:
            self._store.delete(path)
            raise OSError("what was read back isn't what was written")


def _path(location: str) -> Path | None:
    """Return the path that a location means on this machine, or None if it is elsewhere."""
    url = urlsplit(location)
    if url.scheme == "file":
        return Path(unquote(url.path))
    return Path(location) if not url.scheme else None


def _local(folder: Path) -> Iterator[tuple[str, int | None, Callable[[], Iterator[bytes]]]]:
    """Yield the files below a folder: relative path, size, and what opens each. Links that lead out of it are none."""
    root = os.path.realpath(folder)
    for where, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(where, name)
            real = os.path.realpath(path)
            if not real.startswith(root + os.sep) or not Path(real).is_file():
                raise OSError(f"{path} leads out of its folder, or is no file")
            yield str(path.relative_to(root)), path.stat().st_size, partial(_read, path)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _served(server: Remote, location: str) -> Iterator[tuple[str, int | None, Callable[[], Iterator[bytes]]]]:
    """Yield the files below a folder that the old server serves."""
    url = urlsplit(location)
    if url.netloc and url.netloc.lower() != server.host:
        raise PermissionError(f"another server keeps it, {url.netloc}: nothing of {server.name} goes there")
    folder = unquote(url.path).strip("/")
    for path, size in server.files(folder):
        yield path, size, partial(server.download, posixpath.join(folder, path))


def _remote(uri: str) -> Iterator[tuple[str, int | None, Callable[[], Iterator[bytes]]]]:
    """Yield the files below a bucket's folder, by MLflow's own repository for its kind."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(uri)

    def download(path: str) -> Iterator[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "file")
            repository._download_file(path, str(target))
            yield from _read(target)

    def walk(path: str | None) -> Iterator[tuple[str, int | None, Callable[[], Iterator[bytes]]]]:
        for entry in repository.list_artifacts(path):
            if entry.is_dir:
                yield from walk(entry.path)
            else:
                yield entry.path, entry.file_size, partial(download, entry.path)

    yield from walk(None)
