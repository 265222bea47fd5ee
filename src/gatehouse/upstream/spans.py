"""OTLP's trace export as the message that MLflow's route makes of it, from protobuf and from JSON.

Relied on: ``_convert_otlp_json_ids_to_base64`` in mlflow/server/otel_api.py, and ``SpanAttributeKey.TRACE_TAG_PREFIX``.
Guarded by tests/access/test_stamping.py, which sends both forms through MLflow.
"""

from __future__ import annotations

from typing import Any

#: A span's attribute of this prefix becomes a tag of its trace (mlflow/tracing/constant.py, SpanAttributeKey).
TAG_PREFIX = "mlflow.traceTag."

#: ``ExportTraceServiceRequest``.
Message = Any


class Unreadable(Exception):
    """The body isn't an export of spans; the text says why."""


def read_protobuf(body: bytes) -> Message:
    """Return the message of a protobuf body.

    Raises:
        Unreadable: if it isn't one.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise Unreadable("The body isn't an OTLP ExportTraceServiceRequest.") from None
    return request


def read_json(body: bytes) -> Message:
    """Return the message of a JSON body, as MLflow reads it.

    Raises:
        Unreadable: if it isn't one.
    """
    from google.protobuf.json_format import Error, Parse
    from mlflow.server.otel_api import _convert_otlp_json_ids_to_base64
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    try:
        Parse(_convert_otlp_json_ids_to_base64(body), request, ignore_unknown_fields=True)
    except (Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"The body isn't an OTLP ExportTraceServiceRequest in JSON: {error}") from None
    return request
