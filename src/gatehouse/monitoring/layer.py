"""What each request adds to a worker's notes: a layer in front of all others, there only with METRICS."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gatehouse.operations.table import GRAPHQL, OPERATIONS
from gatehouse.policy.roles import Role

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from gatehouse.monitoring.notes import Notes
    from gatehouse.request.context import Context, Handler

#: Operations that move an artifact's bytes: those in the request's body, and those in the answer's.
UPLOADS = frozenset({"upload_artifact", "serve_upload_artifact"})
DOWNLOADS = frozenset(
    {
        "download_artifact",
        "serve_artifacts",
        "serve_model_version_artifact",
        "serve_get_logged_model_artifact",
        "serve_get_trace_artifact",
    }
)
#: Status of a refusal → why. Its text may name somebody, and is the audit log's.
REASONS = {
    400: "malformed",
    401: "unauthenticated",
    404: "malformed",
    408: "slow_client",
    413: "too_large",
    414: "too_large",
    415: "encoding",
    429: "memory",
    431: "too_large",
    503: "audit_log",
}


class MonitoringLayer:
    """Layer: notes each request when it ends, with its operation, class, role, result and time.

    Args:
        app: the next layer; those behind it fill the context.
        notes: this worker's.
        store: the kind of the artifact store: ``gs``, ``s3``, ``file`` …
    """

    def __init__(self, app: Handler, notes: Notes, store: str) -> None:
        self._app = app
        self._notes = notes
        self._store = store

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        receive = context.receive
        status = came = went = 0
        complete = False

        async def receiving() -> Message:
            nonlocal came
            message = await receive()
            if message["type"] == "http.request":
                came += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            nonlocal status, went, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                went += len(message.get("body", b""))
                complete = complete or not message.get("more_body", False)
            await send(message)

        context.receive = receiving
        self._notes.in_flight += 1
        try:
            await self._app(context, sending)
        finally:
            self._notes.in_flight -= 1
            self._note(context, status, complete, came, went, time.perf_counter() - started)

    def _note(self, context: Context, status: int, complete: bool, came: int, went: int, seconds: float) -> None:
        notes, route = self._notes, context.route
        operation = name_of(context.operation)
        access = route.access.name.lower() if route else "none"
        role = str(context.role) if context.role is not None else "unknown"
        notes.count("gatehouse_requests_total", operation, access, role, result_of(context, status, complete))
        notes.time("gatehouse_request_duration_seconds", operation, seconds=seconds)
        if reason := reason_of(context, status):
            notes.count("gatehouse_refusals_total", reason)
        if came and operation in UPLOADS:
            notes.count("gatehouse_artifact_bytes_total", self._store, "in", by=came)
        if went and operation in DOWNLOADS and status in {200, 206}:
            notes.count("gatehouse_artifact_bytes_total", self._store, "out", by=went)


def name_of(operation: str | None) -> str:
    """Return a label's value: one of MLflow's own names, or ``none`` or ``other``.

    GraphQL's fields are the client's choice.
    """
    if operation is None:
        return "none"
    first = operation.partition(" ")[0]
    return first if first in OPERATIONS or first == GRAPHQL else "other"


def result_of(context: Context, status: int, complete: bool) -> str:
    """Return what came of a request, in the audit log's words."""
    if not status or not complete:
        return "gone"
    if context.refusal is not None or status == 401:
        return "refused"
    return "failed" if status >= 500 else "done" if status < 400 else "rejected"


def reason_of(context: Context, status: int) -> str | None:
    """Return why the gate refused, or None if it didn't."""
    if status == 403 and context.refusal is not None:
        denied = context.route is not None and not (context.role or Role.NONE).may(context.route.access)
        return "role" if denied else "origin"
    if status == 403 and context.role is None and context.identity is not None:
        return "origin"  # MLflow's own checks of Host and Origin, in front of the roles
    if context.refusal is None and status != 401:
        return None
    return REASONS.get(status, "other")
