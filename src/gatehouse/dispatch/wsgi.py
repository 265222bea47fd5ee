"""What a WSGI application answers (PEP 3333), a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Answer:
    """What a WSGI application answers: status and headers, and its body taken a chunk at a time."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self._body: Iterable[bytes] | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Take status and headers, as WSGI's callable does (PEP 3333)."""
        if exc_info is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self.status = int(status.split(" ", 1)[0])
        self.headers = [
            (name.strip().lower().encode("ascii"), value.strip().encode("ascii")) for name, value in headers
        ]
        return _no_write

    def run(self, app: Any, environ: dict[str, Any]) -> tuple[bytes, Iterator[bytes] | None]:
        """Call the application; return its first chunk, and the iterator of the others unless that was all."""
        self._body = app(environ, self.start_response)
        chunks = iter(self._body)
        first, rest = self.next(chunks)
        if rest is None:
            return first, None
        second, rest = self.next(chunks)
        return (first, None) if rest is None and not second else (first, _chain(second, rest))

    def next(self, chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes] | None]:
        """Return the next chunk and the iterator, or nothing and None at the end."""
        for chunk in chunks:
            return chunk, chunks
        return b"", None

    def close(self) -> None:
        """Close the body, as PEP 3333 asks for, also when the client has gone."""
        if self._body is not None and hasattr(self._body, "close"):
            self._body.close()


def _chain(first: bytes, rest: Iterator[bytes] | None) -> Iterator[bytes]:
    yield first
    if rest is not None:
        yield from rest


def _no_write(_data: bytes) -> None:
    raise NotImplementedError("Flask never uses WSGI's write()")
