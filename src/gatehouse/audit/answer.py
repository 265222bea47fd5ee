"""An answer on its way out: held until its request's line is written, for no write is acknowledged without one."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

from gatehouse.audit.log import AuditError
from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message, Send

    from gatehouse.audit.layer import AuditLayer
    from gatehouse.request.context import Context

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


class Answer:
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
            await send_all(self._send, unwritable(text))
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


def unwritable(message: str) -> tuple[Message, Message]:
    """Return the answer to a write whose line can't be written."""
    return error_response(503, "TEMPORARILY_UNAVAILABLE", message + " Tell whoever runs this server.")


def refuse_unaudited() -> tuple[Message, Message]:
    """Return the answer to a write that comes while no line can be written."""
    return unwritable("Nothing was changed: the audit log can't be written, so this server takes no writes.")
