"""Spans that come by OTLP: none may name the trace's owner, who is stamped where the trace's row is written (rows.py).

MLflow makes a tag of the trace from each attribute ``mlflow.traceTag.NAME`` of a root span (``log_spans`` in
mlflow/store/tracking/sqlalchemy_store.py). What a root is, MLflow decides by a parent that is absent, blank or all
zeros, so no span may carry the owner there, whatever its parent.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from gatehouse.stamping.people import CLAIMED_TAG, RESERVED_TAGS, USER_TAG
from gatehouse.upstream.spans import TAG_PREFIX, Unreadable, read_json, read_protobuf

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWNER = TAG_PREFIX + USER_TAG
_CLAIMED = TAG_PREFIX + CLAIMED_TAG
_RESERVED = frozenset(TAG_PREFIX + key for key in RESERVED_TAGS)

#: A compressed body may grow to so many bytes.
MAX_BYTES = 64 * 1024 * 1024
#: zlib's window sizes by Content-Encoding; "deflate" may come with and without zlib's own header.
_WINDOWS: Mapping[str, tuple[int, ...]] = {"gzip": (31,), "deflate": (15, -15)}


def stamp_spans(body: bytes, headers: Mapping[bytes, bytes], user: str) -> tuple[bytes, str | None]:
    """Return an export of spans in plain protobuf that names no owner, and whom the client claimed to be.

    Args:
        body: ``ExportTraceServiceRequest``, in protobuf or JSON.
        headers: the request's headers.
        user: the identity's e-mail address.

    Raises:
        Unreadable: if the body isn't what its headers say.
    """
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").lower()
    if encoding:
        body = _decompress(body, encoding)
    media_type = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip()
    if media_type == "application/json":
        request = read_json(body)
    elif media_type == "application/x-protobuf":
        request = read_protobuf(body)
    else:
        raise Unreadable(f"Content-Type is {media_type!r}; send application/x-protobuf or application/json.")
    claimed = _stamp(request)
    return request.SerializeToString(), claimed if claimed != user else None


def _stamp(request: Any) -> str | None:
    """Take the trace's owner, and what MLflow alone sets, from all spans; return the claim."""
    claimed = None
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                reserved = [index for index, attribute in enumerate(span.attributes) if attribute.key in _RESERVED]
                for index in reversed(reserved):
                    del span.attributes[index]
                for attribute in span.attributes:
                    if attribute.key == _OWNER:
                        attribute.key = _CLAIMED
                        claimed = attribute.value.string_value or claimed
    return claimed


def _decompress(body: bytes, encoding: str) -> bytes:
    windows = _WINDOWS.get(encoding)
    if windows is None:
        raise Unreadable(f"Content-Encoding is {encoding!r}; send gzip, deflate or none.")
    for window in windows:
        try:
            return _inflate(body, window)
        except zlib.error:
            continue
    raise Unreadable(f"The body isn't {encoding}.")


def _inflate(body: bytes, window: int) -> bytes:
    """Return the decompressed body; a gzip file may have several members."""
    parts, size = [], 0
    while body:
        engine = zlib.decompressobj(window)
        part = engine.decompress(body, MAX_BYTES + 1 - size)
        size += len(part)
        if size > MAX_BYTES:
            raise Unreadable(f"The body grows beyond {MAX_BYTES // 1024 // 1024} MiB when it is decompressed.")
        if not engine.eof:
            raise Unreadable("The compressed body is cut off.")
        parts.append(part)
        body = engine.unused_data
    return b"".join(parts)
