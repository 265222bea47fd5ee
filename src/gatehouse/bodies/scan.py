"""How much there is in a body before anybody parses it: counted in time and memory that the body's size bounds.

A JSON parser makes up to 30 bytes of objects from each byte of ``[{},{},...]`` and holds the interpreter's lock all the
while; MLflow then makes a message of each value. So values are counted first, by the characters without which there is
none.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.descriptor import Descriptor

#: How deep a JSON body may be nested; protobuf's own limit.
DEPTH = 100
#: Members of a gzip file: each costs a copy of what is behind it, and no exporter sends more than one.
MEMBERS = 16
#: Bytes that are decompressed at once.
STEP = 64 * 1024

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_SQUARE = bytes.maketrans(b"{}", b"[]")
#: zlib's window sizes by Content-Encoding; "deflate" may come with and without zlib's own header.
_WINDOWS: Mapping[str, tuple[int, ...]] = {"gzip": (31,), "deflate": (15, -15)}


class Unreadable(ValueError):
    """The text says what is wrong with a body."""


# --- JSON ----------------------------------------------------------------------------------------------------


def values(piece: bytes) -> int:
    """Return an upper bound for the number of values, names and texts in a piece of JSON.

    Each value but the outermost stands behind one of these characters. Those inside of texts count too: MLflow parses
    some.
    """
    return piece.count(b",") + piece.count(b":") + piece.count(b"[") + piece.count(b"{") + piece.count(b'"') // 2


def check_json(body: bytes) -> None:
    """Refuse what can't be a JSON object of MLflow's; linear in the body's size. The caller has bounded :func:`values`.

    Raises:
        Unreadable: if it isn't an object (or a text that holds one: old clients encode twice), is nested deeper than
            :data:`DEPTH`, or has a NUL in a text, which no database keeps.
    """
    whole = body
    if b"\0" in body:
        raise Unreadable("The request's body isn't JSON in UTF-8.")
    start = body[:STEP].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    if start and not start.startswith((b"{", b'"')):
        raise Unreadable("The request's body isn't a JSON object.")
    if b"\\" in body:
        # What is left of a run of backslashes belongs to the character behind it.
        body = body.replace(b"\\\\", b"")
        if b"\\u0000" in body:
            raise Unreadable("A text in the request's body has a NUL character (\\u0000) in it, which can't be stored.")
        body = body.replace(b'\\"', b"")
    if body.count(b"[") + body.count(b"{") > DEPTH and _is_deep(body):
        raise Unreadable(f"The request's body is nested deeper than {DEPTH} levels.")
    if start.startswith(b'"'):
        _check_twice_encoded(whole)


def _check_twice_encoded(body: bytes) -> None:
    """Look at the JSON in a text that is JSON, which MLflow decodes a second time."""
    try:
        inner = json.loads(body)
        if not isinstance(json.loads(inner), dict):
            raise Unreadable("The request's body isn't a JSON object.")
        check_json(inner.encode())
    except (ValueError, TypeError, RecursionError) as error:
        text = str(error) if isinstance(error, Unreadable) else "The text in the request's body isn't JSON."
        raise Unreadable(text) from None


def _is_deep(body: bytes) -> bool:
    """Return whether the brackets outside of texts are nested too deep; ``body`` has no escaped quotes."""
    outside = b"".join(body.split(b'"')[::2]).translate(_SQUARE, _NOT_BRACKETS)
    # Each round takes the innermost pairs out. What isn't balanced stays, and isn't JSON; a parser gets as deep in it.
    for _ in range(DEPTH):
        shorter = outside.replace(b"[]", b"")
        if len(shorter) == len(outside):
            break
        outside = shorter
    return b"[]" in outside or len(outside) > DEPTH


# --- OTLP ----------------------------------------------------------------------------------------------------


def unpacked(body: bytes, encoding: str, limit: int) -> Iterator[bytes]:
    """Yield a body without its Content-Encoding, piece by piece.

    Args:
        body: as it came.
        encoding: gzip or deflate.
        limit: of the bytes that come out.

    Raises:
        Unreadable: if it isn't what its encoding says, or grows beyond the limit.
    """
    size = 0
    try:
        for piece in _inflate(body, _window(body, encoding)):
            size += len(piece)
            if size > limit:
                raise Unreadable(f"The body grows beyond {limit // 2**20} MiB when it is decompressed.")
            yield piece
    except zlib.error:
        raise Unreadable(f"The body isn't {encoding}.") from None


def _window(body: bytes, encoding: str) -> int:
    windows = _WINDOWS.get(encoding)
    if windows is None:
        raise Unreadable(f"Content-Encoding is {encoding[:40]!r}; send gzip, deflate or none.")
    for window in windows[:-1]:
        with contextlib.suppress(zlib.error):
            zlib.decompressobj(window).decompress(body[:STEP], STEP)
            return window
    return windows[-1]


def _inflate(body: bytes, window: int) -> Iterator[bytes]:
    for _ in range(MEMBERS):
        engine = zlib.decompressobj(window)
        at, pending = 0, body[:STEP]
        while not engine.eof:
            piece = engine.decompress(pending, STEP)
            yield piece
            pending = engine.unconsumed_tail
            if not pending and not engine.eof:
                at += STEP
                pending = body[at : at + STEP]
                if not pending and not piece:
                    raise Unreadable("The compressed body is cut off.")
        body = engine.unused_data + body[at + STEP :]
        if not body:
            return
    raise Unreadable(f"The compressed body has more than {MEMBERS} parts.")


def fields(body: bytes, message: Descriptor, limit: int) -> int:
    """Return how many fields a protobuf message and those inside of it have; stop counting above ``limit``.

    What isn't well-formed ends the count: protobuf's own parser refuses it without having made more objects.
    """
    count = 0
    pending = [(message, 0, len(body))]
    while pending and count <= limit:
        kind, at, end = pending.pop()
        inner = kind.fields_by_number
        while at < end and count <= limit:
            tag, at = _varint(body, at, end)
            count += 1
            wire = tag & 7
            if wire == 0:
                _, at = _varint(body, at, end)
            elif wire == 1:
                at += 8
            elif wire == 5:
                at += 4
            elif wire == 2:
                size, at = _varint(body, at, end)
                field = inner.get(tag >> 3)
                if field is not None and field.message_type is not None and at + size <= end:
                    pending.append((field.message_type, at, at + size))
                at += size
            else:
                raise Unreadable("The body isn't an OTLP ExportTraceServiceRequest.")
    return count


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number and the position behind it; beyond the end, where there is none."""
    value = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end
