"""Artifacts in a local folder.

An upload is written aside, in a folder of the root that no path leads to, and moved under its name when it is whole and
on the disk. Every folder on the way is opened by itself and never through a symbolic link (openat(2) with O_NOFOLLOW),
so nothing in the root, whoever put it there, leads out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat as modes
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from urllib.parse import unquote, urlsplit

from gatehouse.artifacts.stores.base import (
    PIECE,
    Conflict,
    Damaged,
    Denied,
    Entry,
    Full,
    NotFound,
    Sink,
    Source,
    Stat,
    Store,
    StoreError,
)

#: Where uploads are written, in the root; the same file system, so that moving is renaming.
UPLOADS = ".gatehouse-uploads"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO doesn't wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO}


def _error(error: OSError, path: str) -> StoreError:
    """Return what an error of the system means for an artifact."""
    if error.errno in _ROOM:
        return Full("The artifact store's disk is full. Nothing was stored.")
    if error.errno in _RIGHTS:
        return Denied(
            f"The server's user {os.getuid()} may not do this in the artifact store's folder: {error.strerror}."
        )
    if error.errno in _NOTHING:
        return NotFound(f"No such artifact: {path!r}")
    return StoreError(f"The artifact store's disk fails: {error.strerror}")


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error(error, path) from error


@contextlib.contextmanager
def _told_writer(path: str) -> Iterator[None]:
    """As :func:`_told`, and Conflict where an artifact exists in place of a folder, or a folder in place of one."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOTHING - {errno.ENOENT} | {errno.ENOTEMPTY, errno.EEXIST}:
            what = "a folder, or below an artifact" if error.errno != errno.ELOOP else "below a symbolic link"
            raise Conflict(f"{path!r} can't be stored: it is {what}.") from error
        raise _error(error, path) from error


def _stat(found: os.stat_result) -> Stat:
    # Each upload is a file of its own, with a time to the nanosecond (see commit).
    etag = f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"
    return Stat(found.st_size, etag, datetime.fromtimestamp(found.st_mtime, timezone.utc))


def _make_folder(name: str, parent: int, mode: int = 0o777) -> None:
    """Make a folder if it isn't there, and have its name on the disk:

    an artifact in it outlives a crash only with it.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
        os.fsync(parent)


def _make_folders(path: str) -> None:
    """Make a folder and those above it, as :func:`_make_folder` does."""
    above, name = os.path.split(path.rstrip("/"))
    if not os.path.isdir(above):  # noqa: PTH112
        _make_folders(above)
    parent = os.open(above, _FOLDER)
    try:
        _make_folder(name, parent)
    finally:
        os.close(parent)


class LocalStore(Store):
    """A folder; ``destination`` is its ``file://`` URL."""

    def __init__(self, destination: str) -> None:
        self._root = unquote(urlsplit(destination).path) or "/"

    @contextlib.contextmanager
    def _folder(self, path: str, create: bool = False) -> Iterator[int]:
        """Open a folder by its path; yield its descriptor."""
        if path.split("/", 1)[0] == UPLOADS:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if create and not os.path.isdir(self._root):  # noqa: PTH112 - a text, as everywhere in here
            _make_folders(self._root)
        folder = os.open(self._root, _FOLDER)  # the root itself may be a link: whoever runs the server made it
        try:
            for name in filter(None, path.split("/")):
                if create:
                    _make_folder(name, folder)
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _parent(self, path: str, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that an artifact is in; yield its descriptor and the artifact's name in there."""
        parent, _, name = path.rpartition("/")
        if not name or path == UPLOADS:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        with self._folder(parent, create) as folder:
            yield folder, name

    def stat(self, path: str) -> Stat:
        with _told(path), self._parent(path) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not modes.S_ISREG(found.st_mode):
            raise NotFound(f"No such artifact: {path!r}")
        return _stat(found)

    def open(self, path: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> Source:
        with _told(path), self._parent(path) as (folder, name):
            descriptor = os.open(name, _READ, dir_fd=folder)
        found = os.fstat(descriptor)
        stat = _stat(found)
        if not modes.S_ISREG(found.st_mode) or (etag is not None and etag != stat.etag):
            os.close(descriptor)
            raise NotFound(f"No such artifact, or no longer: {path!r}")
        return _LocalSource(path, descriptor, stat, start, stat.size if stop is None else stop)

    def create(self, path: str, size: int | None = None) -> Sink:
        with _told_writer(path):
            with self._parent(path, create=True):
                pass  # a conflict is reported before the bytes are sent
            return _LocalSink(self, path, size)

    @contextlib.contextmanager
    def _uploads(self) -> Iterator[int]:
        """Open the folder that uploads are written in."""
        with self._folder("", create=True) as root:
            _make_folder(UPLOADS, root, 0o700)
            folder = os.open(UPLOADS, _FOLDER | os.O_NOFOLLOW, dir_fd=root)
        try:
            yield folder
        finally:
            os.close(folder)

    def list(self, path: str) -> Iterator[Entry]:
        found = []
        try:
            with _told(path), self._folder(path) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    if path == "" and entry.name == UPLOADS:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        found.append(Entry(entry.name, is_folder=True))
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            found.append(Entry(entry.name, False, entry.stat(follow_symlinks=False).st_size))
        except NotFound:
            return iter(())
        return iter(sorted(found, key=lambda entry: entry.name))

    def delete(self, path: str) -> None:
        if not path:
            raise Denied("The root of the artifact store can't be deleted.")
        try:
            with _told(path), self._parent(path) as (folder, name):
                if modes.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
        except NotFound:
            return

    def check(self) -> None:
        with _told(""):
            sink = _LocalSink(self, "", 0)
            sink.abort()
            with self._folder("") as root, os.scandir(root) as entries:
                next(entries, None)
            if sink.left:
                raise Denied(f"The server's user {os.getuid()} may not delete files in the artifact store's folder.")

    def sweep(self, before: datetime, dry_run: bool) -> Iterator[tuple[str, int]]:
        with _told(UPLOADS), self._uploads() as folder:
            for name in sorted(os.listdir(folder)):  # noqa: PTH208
                with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if found.st_mtime < before.timestamp():
                        if not dry_run:
                            os.unlink(name, dir_fd=folder)
                        yield f"{UPLOADS}/{name}", found.st_size


class _LocalSource(Source):
    def __init__(self, path: str, descriptor: int, stat: Stat, start: int, stop: int) -> None:
        self.stat = stat
        self._path = path
        self._descriptor = descriptor
        self._position = start
        self._stop = stop

    def read(self) -> bytes:
        wanted = min(PIECE, self._stop - self._position)
        if wanted <= 0:
            return b""
        with _told(self._path):
            data = os.pread(self._descriptor, wanted, self._position)
        if not data:
            raise Damaged(f"{self._path!r} was cut short while it was read.")
        self._position += len(data)
        return data

    def close(self) -> None:
        os.close(self._descriptor)


class _LocalSink(Sink):
    def __init__(self, store: LocalStore, path: str, size: int | None) -> None:
        self._store = store
        self._path = path
        self._name = secrets.token_hex(16)
        self.left = False
        with store._uploads() as folder:
            room = os.fstatvfs(folder)
            if size is not None and size > room.f_bavail * room.f_frsize:
                raise Full("The artifact store's disk has no room for it. Nothing was stored.")
            self._descriptor = os.open(self._name, _CREATE, 0o666, dir_fd=folder)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        with _told(self._path):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def commit(self) -> Stat:
        with (
            _told_writer(self._path),
            self._store._uploads() as uploads,
            self._store._parent(self._path, create=True) as (folder, name),
        ):
            # The system's own times are some milliseconds coarse, and inodes are used again: too little for an entity
            # tag.
            now = time.time_ns()
            os.utime(self._descriptor, ns=(now, now))
            # On the disk before it has its name: a crash leaves the old artifact or the new one, whole.
            os.fsync(self._descriptor)
            os.rename(self._name, name, src_dir_fd=uploads, dst_dir_fd=folder)
            os.fsync(folder)
            stat = _stat(os.fstat(self._descriptor))
        os.close(self._descriptor)
        return stat

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        try:
            with self._store._uploads() as folder:
                os.unlink(self._name, dir_fd=folder)
        except OSError:
            self.left = True
