"""Who did what: one line of JSON for each write and each refusal, on stdout, before the answer is sent.

The lines have the structured form that Cloud Logging understands
(https://cloud.google.com/logging/docs/structured-logging); what is ours is below ``audit``. They hold names
of things (experiment, run, model, artifact path), never a token, a parameter, a metric, a tag's value or a
secret.

A write is not let through while stdout can't be written to, and one whose line fails to be written isn't
acknowledged (docs/decisions/0007). The line itself goes to the log's one writer, by
:mod:`gatehouse.pipeline.audit_log`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from gatehouse.pipeline.audit_log import AuditError
from gatehouse.pipeline.audit_wire import MAX_LINE
from gatehouse.pipeline.context import MAX_TEXT
from gatehouse.pipeline.responses import error_response, send_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message, Scope, Send

    from gatehouse.pipeline.audit_log import AuditLog
    from gatehouse.pipeline.context import Context, Handler

#: Operation → where its answer tells the identifier of what it made.
_MADE: Mapping[str, tuple[str, ...]] = {
    "create_assessment": ("assessment", "assessment_id"),
    "create_dataset": ("dataset", "dataset_id"),
    "create_experiment": ("experiment_id",),
    "create_issue": ("issue", "issue_id"),
    "create_label_schema": ("label_schema", "schema_id"),
    "create_logged_model": ("model", "info", "model_id"),
    "create_model_version": ("model_version", "version"),
    "create_review_queue": ("review_queue", "queue_id"),
    "create_run": ("run", "info", "run_id"),
    "create_webhook": ("webhook", "webhook_id"),
    "serve_create_promptlab_run": ("run", "info", "run_id"),
}

_TRACE = re.compile(rb"([0-9a-f]{32})(?:/([0-9]{1,20}))?(?:;o=([01]))?", re.IGNORECASE)
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class AuditLayer:
    """ASGI layer, the outermost one: writes the line of each write and each refusal.

    :param app: the next layer; it and those below fill the context.
    :param log: where the lines go.
    :param project: the Google Cloud project, which makes the trace id a link; None if unknown.
    :param reads: whether reads are written too.
    """

    def __init__(self, app: Handler, log: AuditLog, project: str | None = None, reads: bool = False) -> None:
        self._app = app
        self._log = log
        self._project = project
        self._reads = reads

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        answer = _Answer(self, context, send)
        try:
            await self._app(context, answer.send)
            await answer.flush()
        except BaseException:
            # MLflow failed or the client went away; the write may have happened.
            await answer.abandoned()
            raise

    def wants(self, context: Context, status: int) -> bool:
        """Return whether this request gets a line: writes, and refusals (MLflow's own too: it has some)."""
        return context.refusal is not None or self._reads or status in {401, 403} or context.is_write

    def begin(self, context: Context, scope: Scope, seconds: float) -> int:
        """Leave the line of a write that can happen from now on; return the number by which :meth:`write` replaces it."""
        return self._log.open(fit(self.entry(context, scope, None, seconds)))

    async def write(
        self, context: Context, scope: Scope, status: int, seconds: float, number: int | None = None
    ) -> None:
        """Write the line of a request; ``scope`` is the request as it came."""
        await self._log.write(fit(self.entry(context, scope, status, seconds)), number)

    def entry(self, context: Context, scope: Scope, status: int | None, seconds: float) -> dict[str, Any]:
        """Return what the line of a request says, uncut; without a status, nobody will know its result."""
        route, identity = context.route, context.identity
        action = (route and route.operation) or "none"
        result = (
            "unknown"
            if status is None
            else "refused"
            if context.refusal is not None
            else "failed"
            if status >= 500
            else "done"
            if status < 400
            else "rejected"
        )
        severity = {"refused": "WARNING", "failed": "ERROR", "unknown": "ERROR"}.get(result, "NOTICE")
        who = identity.email if identity else "somebody unverified"
        what = " ".join(f"{name}={text}" for name, text in context.objects.items())
        headers = dict(scope["headers"])
        request: dict[str, Any] = {
            "requestMethod": scope["method"][:16],
            # Without the query, which may carry what isn't ours to log.
            "requestUrl": scope["path"][: 2 * MAX_TEXT],
            **({} if status is None else {"status": status}),
            "latency": f"{seconds:.6f}s",
            "userAgent": headers.get(b"user-agent", b"").decode("utf-8", "replace")[:MAX_TEXT],
        }
        if context.client_address:
            request["remoteIp"] = context.client_address
        audit: dict[str, Any] = {
            "identity": identity.email if identity else None,
            "subject": identity.subject if identity else None,
            "kind": ("service account" if context.is_service_account else "person") if identity else None,
            "role": str(context.role) if context.role is not None else None,
            "action": action,
            "class": route.access.name.lower() if route else None,
            "objects": context.objects,
            "result": result,
            "request_id": context.request_id,
        }
        if context.refusal is not None:
            audit["reason"] = context.refusal[:MAX_TEXT]
        if context.claimed is not None:
            audit["claimed"] = context.claimed[:MAX_TEXT]
        entry: dict[str, Any] = {
            "severity": severity,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"),
            "message": f"{who} {action} {what}: {result} ({status or 'its process died'})"[: 2 * MAX_TEXT],
            "httpRequest": request,
            "logging.googleapis.com/labels": {"log": "audit"},
            **self._trace(headers),
            "audit": audit,
        }
        return entry

    def _trace(self, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
        """Return the fields that tie the line to the platform's trace of the request."""
        match = _TRACE.fullmatch(headers.get(b"x-cloud-trace-context", b""))
        if match:
            trace, span, sampled = match[1].decode().lower(), match[2], match[3] == b"1"
            span_id = f"{int(span):016x}"[-16:] if span else None
        else:
            match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
            if not match:
                return {}
            trace, span_id, sampled = match[1].decode(), match[2].decode(), bool(int(match[3], 16) & 1)
        name = f"projects/{self._project}/traces/{trace}" if self._project else trace
        fields: dict[str, Any] = {
            "logging.googleapis.com/trace": name,
            "logging.googleapis.com/trace_sampled": sampled,
        }
        if span_id:
            fields["logging.googleapis.com/spanId"] = span_id
        return fields


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def fit(entry: dict[str, Any]) -> bytes:
    """Return the line of an entry, with what can be cut cut until the line can be written at once."""
    line = _line(entry)
    for name in ("userAgent", "objects", "message", "requestUrl", "reason", "claimed", "subject", "identity"):
        if len(line) <= MAX_LINE:
            break
        if name in {"userAgent", "requestUrl"}:
            entry["httpRequest"][name] = "(cut)"
        elif name == "objects":
            objects = list(entry["audit"]["objects"].items())[:8]
            entry["audit"]["objects"] = {key: text[:24] for key, text in objects}
        elif name == "message":
            entry["message"] = f"{entry['audit']['action']}: {entry['audit']['result']}"
        elif name in entry["audit"]:
            entry["audit"][name] = str(entry["audit"][name])[:24]
        line = _line(entry)
    return line


class _Answer:
    """One request's answer on its way out."""

    def __init__(self, layer: AuditLayer, context: Context, send: Send) -> None:
        self._context = context
        self._layer = layer
        self._scope = context.scope
        self._send = send
        self._started = time.perf_counter()
        self._decided = False
        self._cut_off = False
        self._held: Message | None = None
        self._number: int | None = None
        context.begin = self._begin

    def _begin(self) -> None:
        if self._context.is_write:
            seconds = time.perf_counter() - self._started
            self._number = self._layer.begin(self._context, self._scope, seconds)

    async def _write(self, status: int) -> None:
        seconds = time.perf_counter() - self._started
        await self._layer.write(self._context, self._scope, status, seconds, self._number)

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on, after the line is written."""
        if self._cut_off:
            return
        if message["type"] == "http.response.start" and not self._decided:
            if not self._layer.wants(self._context, message["status"]):
                self._decided = True
                await self._send(message)
                return
            headers = [*message.get("headers", ()), (b"x-request-id", self._context.request_id.encode())]
            self._held = {**message, "headers": headers}
            if self._context.operation in _MADE and message["status"] == 200:
                return  # the answer's body tells what was made
        elif self._held is not None and message["type"] == "http.response.body":
            self._note_made(message.get("body", b""))
        if self._held is None or (await self._release() and message["type"] != "http.response.start"):
            await self._send(message)

    async def flush(self) -> None:
        """Send what is still held back."""
        if self._held is not None:
            await self._release()

    async def _release(self) -> bool:
        """Write the line, then send the start of the answer; return whether the rest may follow."""
        assert self._held is not None  # noqa: S101 - for mypy
        start, self._held, self._decided = self._held, None, True
        try:
            await self._write(start["status"])
        except AuditError:
            if self._context.refusal is not None or not self._context.is_write:
                await self._send(start)  # nothing was changed, so the answer tells the truth
                return True
            self._cut_off = True
            text = "The change may have been made, but its audit line couldn't be written."
            await send_all(self._send, _unwritable(text))
            return False
        await self._send(start)
        return True

    def _note_made(self, body: bytes) -> None:
        """Note the identifier of what a create operation made."""
        operation = self._context.operation or ""
        try:
            value = json.loads(body)
            for key in _MADE[operation]:
                value = value[key]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        self._context.add_objects([(_MADE[operation][-1], value)])

    async def abandoned(self) -> None:
        """Write the line of a request that ended without an answer."""
        if not self._decided and self._layer.wants(self._context, 500):
            self._decided = True
            with contextlib.suppress(AuditError):  # it was said on stderr; there is no answer to hold back
                await self._write(500)


class IntentLayer:
    """Layer, the last one before anything can change: a write that MLflow makes has its line from here on.

    Should this worker die before the answer, the log's writer writes the line in its place, with the result
    ``unknown``.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        context.begin()
        await self._app(context, send)


def _unwritable(message: str) -> tuple[Message, Message]:
    return error_response(503, "TEMPORARILY_UNAVAILABLE", message + " Tell whoever runs this server.")


def refuse_unaudited() -> tuple[Message, Message]:
    """Return the answer to a write that comes while no line can be written."""
    return _unwritable("Nothing was changed: the audit log can't be written, so this server takes no writes.")


def query_objects(context: Context) -> list[tuple[str, str]]:
    """Return the parameters of the query, for :meth:`Context.add_objects` to choose from."""
    query = context.scope.get("query_string", b"")
    if not query:
        return []
    return parse_qsl(query[:8192].decode("latin-1"), max_num_fields=None)
