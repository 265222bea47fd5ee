"""MLflow's scripts and styles, compressed once and sent from the event loop:

a fifth of the bytes, and no thread of Flask's.

``python -m gatehouse.ui.static`` compresses them all when the image is built, into ``share/gatehouse/static`` of the
Python environment; where that wasn't done, each is compressed when it is first asked for. The copies that were asked
for are kept in memory. MLflow's own files stay as they are. Whatever isn't a whole, compressed copy of such a file
(ranges, HEAD, clients that take no gzip, small files and images) is MLflow's to answer.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Send

    from gatehouse.request.context import Context, Handler

#: MLflow's operation that serves these files.
OPERATION = "serve_static_file"
#: What is worth it, with the media type that MLflow gives it.
TYPES: Mapping[str, bytes] = {
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml; charset=utf-8",
    ".json": b"application/json",
    ".txt": b"text/plain; charset=utf-8",
}
#: A smaller file fits into one packet as it is.
LEAST_BYTES = 1400
#: Webpack puts a hash of the content into these names (main.01234567.js): such a file never changes.
_HASHED = re.compile(r"\.[0-9a-f]{8,}\.(?:chunk\.|worker\.)?\w+$")
#: Behind a sign-in, so for no cache that several people share.
_FOREVER = b"private, max-age=31536000, immutable"
#: As MLflow says it.
_FOR_WEEKS = b"private, max-age=2419200"
#: When a first request compresses, somebody waits.
_QUICK, _THOROUGH = 6, 9
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|x-gzip|\*)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?(?:,|$)")


def compressed_folder() -> Path:
    """Return where the image keeps the compressed copies."""
    return Path(sys.prefix) / "share" / "gatehouse" / "static"


def source_folder() -> Path:
    """Return where MLflow has its files."""
    found = find_spec("mlflow")
    if found is None or found.origin is None:
        raise RuntimeError("MLflow isn't installed")
    return Path(found.origin).parent / "server" / "js" / "build"


@dataclass(frozen=True)
class File:
    """One file that is worth compressing."""

    path: Path
    size: int
    changed_ns: int

    @property
    def etag(self) -> bytes:
        """What tells this content from another one's."""
        return f'"{self.changed_ns // 1_000_000_000:x}-{self.size:x}-gzip"'.encode()


def takes_gzip(header: bytes) -> bool:
    """Tell whether a client takes gzip, by its Accept-Encoding (RFC 9110 section 12.5.3)."""
    found = _GZIP.search(header.decode("latin-1").lower())
    return found is not None and (not found[1] or found[1].strip("0.") != "")


def files(folder: Path) -> dict[str, File]:
    """Return what is worth compressing, by its path below the folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in TYPES and path.is_file():
            status = path.stat()
            if status.st_size >= LEAST_BYTES:
                found[path.relative_to(folder).as_posix()] = File(path, status.st_size, status.st_mtime_ns)
    return found


class StaticLayer:
    """Layer: sends compressed copies of MLflow's static files, and passes everything else on.

    Args:
        app: the next layer.
        folder: MLflow's files.
        compressed: the copies that were made beforehand, if any were.
    """

    def __init__(self, app: Handler, folder: Path, compressed: Path) -> None:
        self._app = app
        self._folder = folder
        self._compressed = compressed
        self._made: dict[str, asyncio.Future[bytes]] = {}

    @cached_property
    def _files(self) -> dict[str, File]:
        # At the first request: a start has no time to walk through them.
        return files(self._folder)

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.operation != OPERATION or context.method != "GET" or context.route is None:
            await self._app(context, send)
            return
        name = str(context.route.variables.get("path"))
        file = self._files.get(name)
        if file is None or context.header(b"range") or not takes_gzip(context.header(b"accept-encoding")):
            await self._app(context, send)
            return
        headers = [
            (b"cache-control", _FOREVER if _HASHED.search(name) else _FOR_WEEKS),
            (b"etag", file.etag),
            (b"vary", b"Accept-Encoding"),
        ]
        if file.etag in context.header(b"if-none-match"):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        body = await self._copy(name, file)
        headers += [
            (b"content-type", TYPES[file.path.suffix]),
            (b"content-encoding", b"gzip"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _copy(self, name: str, file: File) -> bytes:
        """Return the compressed copy; whoever asks for it while it is made waits for the same one."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = asyncio.ensure_future(asyncio.to_thread(self._make, name, file))
        try:
            return await asyncio.shield(made)
        except OSError:
            del self._made[name]
            raise

    def _make(self, name: str, file: File) -> bytes:
        ready = self._compressed / f"{name}.gz"
        if ready.is_file():
            return ready.read_bytes()
        return gzip.compress(file.path.read_bytes(), _QUICK, mtime=0)


def main(target: Path) -> int:
    """Compress all of MLflow's files into a folder, for the image; return an exit code."""
    before = after = 0
    for name, file in files(source_folder()).items():
        copy = gzip.compress(file.path.read_bytes(), _THOROUGH, mtime=0)
        path = target / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(copy)
        before, after = before + file.size, after + len(copy)
    print(f"{target}: {before // 1024} KiB became {after // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else compressed_folder()))
