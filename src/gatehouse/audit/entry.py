"""What an audit line says: the structured form that Cloud Logging understands, within what can be written at once.

https://cloud.google.com/logging/docs/structured-logging; what is ours is below ``audit``. A line holds names of things
(experiment, run, model, artifact path), never a token, a parameter, a metric, a tag's value or a secret.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import TYPE_CHECKING, Any

from gatehouse.audit.wire import MAX_LINE
from gatehouse.request.objects import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from gatehouse.request.context import Context

_TRACE = re.compile(rb"([0-9a-f]{32})(?:/([0-9]{1,20}))?(?:;o=([01]))?", re.IGNORECASE)
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def entry(
    context: Context, scope: Scope, status: int | None, seconds: float, project: str | None = None
) -> dict[str, Any]:
    """Return what the line of a request says, uncut.

    Args:
        context: what is known of the request.
        scope: the request as it came.
        status: the answer's; without one, nobody will know its result.
        seconds: how long it took.
        project: the Google Cloud project, which makes the trace id a link; None if unknown.
    """
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
    if identity and identity.key is not None:
        who = f"key {identity.key} of {who}"
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
        "kind": (context.kind or "person") if identity else None,
        "role": str(context.role) if context.role is not None else None,
        "action": action,
        "class": route.access.name.lower() if route else None,
        "objects": context.objects,
        "result": result,
        "request_id": context.request_id,
    }
    if context.workspace is not None:
        audit["workspace"] = context.workspace
    if identity and identity.key is not None:
        audit["key"] = identity.key
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
        **_trace(headers, project),
        "audit": audit,
    }
    return entry


def _trace(headers: Mapping[bytes, bytes], project: str | None) -> dict[str, Any]:
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
    name = f"projects/{project}/traces/{trace}" if project else trace
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
