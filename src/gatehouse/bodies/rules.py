"""What each operation takes as its body: nothing, a stream, JSON up to a size, or spans by OTLP.

An operation that isn't named here takes JSON: that of a read is a filter and some names, and small; that of a write may
be as large as MLflow's clients make it. What no operation reads isn't read here either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from gatehouse.operations.classes import Access
from gatehouse.operations.table import GRAPHQL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatehouse.operations.router import Route

KIB = 1024
MIB = 1024 * KIB


class Kind(Enum):
    """How a body is taken."""

    #: It is left unread; the server drops it.
    NONE = "none"
    #: It is handed on as it comes, by whoever serves the operation.
    STREAM = "stream"
    #: JSON, read whole.
    JSON = "json"
    #: ``ExportTraceServiceRequest`` in protobuf or JSON, perhaps compressed, read whole.
    OTLP = "otlp"


@dataclass(frozen=True)
class Rule:
    """What one operation takes."""

    kind: Kind
    #: Bytes of the whole body; what is compressed counts as it is unpacked.
    limit: int = 0
    #: Values, names and texts in it (:func:`gatehouse.bodies.scan.values`), or fields of a protobuf message.
    values: int = 0
    #: How a larger one is refused.
    status: int = 413


NONE = Rule(Kind.NONE)
#: A filter, some names, some hundred identifiers.
SMALL = Rule(Kind.JSON, 256 * KIB, 25_000)
#: As large as Cloud Run's own limit for HTTP/1. A batch of 1,000 metrics, the most that MLflow takes, has 15,000
#: values.
LARGE = Rule(Kind.JSON, 32 * MIB, 500_000)
#: A refused request's body is looked at for the names in it.
NOTED = Rule(Kind.JSON, 64 * KIB, 5_000)

#: What is read without a look at its content.
RAW = Rule(Kind.STREAM, 32 * MIB)

#: Operation → what it takes, where that isn't told by its class.
RULES: Mapping[str, Rule] = {
    # MLflow's own UI sends queries of a few KiB; the largest variables are the names of 100 runs.
    GRAPHQL: Rule(Kind.JSON, 256 * KIB, 5_000),
    # Some 4,000 spans; exporters send 512 at once.
    "export_traces": Rule(Kind.OTLP, 32 * MIB, 200_000),
    "upload_artifact": Rule(Kind.STREAM),
    # MLflow's own handler of the UI's uploads reads them whole, and takes no more (mlflow/server/handlers.py).
    "serve_upload_artifact": Rule(Kind.STREAM, 10 * MIB, status=400),
}


def rule(route: Route) -> Rule:
    """Return what a request on this route takes."""
    if route.operation is None or route.access is Access.CLOSED:
        return NONE
    # GraphQL's operations are named with their fields.
    named = RULES.get(route.operation.partition(" ")[0])
    return named or (SMALL if route.access is Access.READ else LARGE)
