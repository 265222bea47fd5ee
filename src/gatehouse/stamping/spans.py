"""Spans that come by OTLP: the trace's owner is the verified identity here too.

MLflow makes a tag of the trace from each attribute ``mlflow.traceTag.NAME`` of its root span
(``log_spans`` in mlflow/store/tracking/sqlalchemy_store.py), so that is where the owner is stamped.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNER = "mlflow.traceTag.mlflow.user"
CLAIMED = "mlflow.traceTag.gatehouse.claimed_user"

#: A compressed body may grow to so many bytes.
MAX_BYTES = 64 * 1024 * 1024
#: zlib's window sizes by Content-Encoding; "deflate" may come with and without zlib's own header.
_WINDOWS: Mapping[str, tuple[int, ...]] = {"gzip": (31,), "deflate": (15, -15)}


class UnreadableSpans(Exception):
    """The body isn't what its headers say."""


def stamp_spans(body: bytes, headers: Mapping[bytes, bytes], user: str) -> tuple[bytes, str | None]:
    """Return an uncompressed OTLP body whose root spans name the owner, and whom the client claimed to be.

    :param body: ``ExportTraceServiceRequest``, in protobuf or JSON.
    :param headers: the request's headers.
    :raises UnreadableSpans: if the body can't be read.
    """
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").lower()
    if encoding:
        body = _decompress(body, encoding)
    media_type = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip()
    if media_type == "application/json":
        return _stamp_json(body, user)
    if media_type == "application/x-protobuf":
        return _stamp_protobuf(body, user)
    raise UnreadableSpans(f"Content-Type is {media_type!r}; send application/x-protobuf or application/json.")


def _decompress(body: bytes, encoding: str) -> bytes:
    windows = _WINDOWS.get(encoding)
    if windows is None:
        raise UnreadableSpans(f"Content-Encoding is {encoding!r}; send gzip, deflate or none.")
    for window in windows:
        try:
            return _inflate(body, window)
        except zlib.error:
            continue
    raise UnreadableSpans(f"The body isn't {encoding}.")


def _inflate(body: bytes, window: int) -> bytes:
    """Return the decompressed body; a gzip file may have several members."""
    parts, size = [], 0
    while body:
        engine = zlib.decompressobj(window)
        part = engine.decompress(body, MAX_BYTES + 1 - size)
        size += len(part)
        if size > MAX_BYTES:
            raise UnreadableSpans(f"The body grows beyond {MAX_BYTES // 1024 // 1024} MiB when it is decompressed.")
        if not engine.eof:
            raise UnreadableSpans("The compressed body is cut off.")
        parts.append(part)
        body = engine.unused_data
    return b"".join(parts)


def _stamp_protobuf(body: bytes, user: str) -> tuple[bytes, str | None]:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise UnreadableSpans("The body isn't an OTLP ExportTraceServiceRequest.") from None
    claimed = None
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                for attribute in span.attributes:
                    if attribute.key == OWNER:
                        attribute.key = CLAIMED
                        claimed = attribute.value.string_value or claimed
                if not span.parent_span_id:
                    attribute = span.attributes.add()
                    attribute.key = OWNER
                    attribute.value.string_value = user
    return request.SerializeToString(), claimed if claimed != user else None


def _stamp_json(body: bytes, user: str) -> tuple[bytes, str | None]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableSpans("The body isn't JSON.") from None
    claimed = None
    for resource in _list(request, "resourceSpans", "resource_spans"):
        for scope in _list(resource, "scopeSpans", "scope_spans"):
            for span in _list(scope, "spans", "spans"):
                attributes = _list(span, "attributes", "attributes")
                for attribute in attributes:
                    if isinstance(attribute, dict) and attribute.get("key") == OWNER:
                        attribute["key"] = CLAIMED
                        value = attribute.get("value")
                        text = value.get("stringValue", value.get("string_value")) if isinstance(value, dict) else None
                        claimed = text if isinstance(text, str) else claimed
                if isinstance(span, dict) and not (span.get("parentSpanId") or span.get("parent_span_id")):
                    span["attributes"] = [*attributes, {"key": OWNER, "value": {"stringValue": user}}]
    return json.dumps(request).encode(), claimed if claimed != user else None


def _list(value: Any, name: str, other: str) -> list[Any]:
    """Return the list in a field, which protobuf's JSON takes under either of its names."""
    found = value.get(name, value.get(other)) if isinstance(value, dict) else None
    if isinstance(value, dict) and name != other and name in value and other in value:
        raise UnreadableSpans(f"Both {name} and {other} are there.")
    return found if isinstance(found, list) else []
