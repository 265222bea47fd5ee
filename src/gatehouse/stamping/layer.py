"""Whatever MLflow records as owner or author is the verified identity, not what the client says.

The layer reads a request that writes, stamps it as MLflow's own message class (people.py), and hands on the message's
canonical JSON; what MLflow reads as plain JSON is stamped as that (documents.py), and spans as OTLP's message
(spans.py). A different name that the client gave is kept in the tag ``gatehouse.claimed_user``. Writes of the tag
``mlflow.user`` that come later become writes of that tag, and its deletion is refused, so the first stamp stays.

Where MLflow takes the author from its own login (review queues, jobs, MCP servers, gateway calls), the identity is
given to it there: see ``current.tell_flask`` and ``state["username"]``. What it creates by itself is stamped in its
rows (rows.py).
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from gatehouse.bodies.reader import replace_body
from gatehouse.operations.router import operation_name
from gatehouse.request.responses import error_response, send_all
from gatehouse.stamping import plain
from gatehouse.stamping.current import serve
from gatehouse.stamping.documents import DOCUMENTS
from gatehouse.stamping.people import STAMPS, USER_TAG, Refused, refuse_deletion
from gatehouse.upstream import requests, spans

if TYPE_CHECKING:
    from starlette.types import Send

    from gatehouse.request.context import Context, Handler
    from gatehouse.upstream.requests import Message

#: A larger body is parsed beside the event loop, not on it.
_LARGE = 256 * 1024

#: Operations with spans in their body, not JSON of MLflow's own.
SPANS = "export_traces"
#: Operations that name what they delete in the path.
_DELETED_BY_PATH = frozenset(
    {"delete_dataset_tag", "delete_logged_model_tag", "delete_mcp_server_tag", "delete_mcp_server_version_tag"}
)
#: Operations whose body isn't MLflow's JSON (artifacts, calls of language models): it streams through
#: untouched.
OPAQUE = frozenset(
    {
        "anthropic_passthrough_messages",
        "chat_completions",
        "gemini_passthrough_generate_content",
        "gemini_passthrough_stream_generate_content",
        "invocations",
        "openai_passthrough_chat",
        "openai_passthrough_embeddings",
        "openai_passthrough_responses",
        "openai_passthrough_responses_compact",
        "raw_proxy",
        "serve_gateway_proxy",
        "serve_upload_artifact",
        "typesafe_passthrough_system_one",
        "upload_artifact",
    }
)


class StampingLayer:
    """Layer: puts the identity into what is recorded, and the names of things into the audit line.

    Args:
        app: the next layer.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        email = context.who.email
        # MLflow's FastAPI routes take the author from here.
        context.scope = {**context.scope, "state": {**context.scope.get("state", {}), "username": email}}
        serve(email)
        operation = context.operation
        if context.is_write and operation is not None and operation not in OPAQUE:
            try:
                await self._stamp(context, operation, email)
            except Refused as error:
                context.refusal = str(error)
                code = "PERMISSION_DENIED" if error.status == 403 else "INVALID_PARAMETER_VALUE"
                await send_all(send, error_response(error.status, code, str(error)))
                return
        await self._app(context, send)

    async def _stamp(self, context: Context, operation: str, user: str) -> None:
        """Make the request what MLflow shall see."""
        if operation in _DELETED_BY_PATH:
            variables = context.route.variables if context.route else {}
            refuse_deletion(variables.get("key", variables.get("tag_key")))
        body = context.body or b""
        if operation == SPANS:
            from gatehouse.stamping.spans import stamp_spans

            headers = dict(reversed(context.scope["headers"]))  # the first of each name counts, as in Starlette
            context.add_objects([("experiment_id", headers.get(b"x-mlflow-experiment-id", b"").decode("latin-1"))])
            try:
                body, context.claimed = await asyncio.to_thread(stamp_spans, body, headers, user)
            except spans.Unreadable as error:
                raise Refused(str(error)) from None
            replace_body(context, body, frozenset({b"content-encoding", b"content-type"}))
            context.scope["headers"].append((b"content-type", b"application/x-protobuf"))
            return
        if len(body) > _LARGE:
            body = await asyncio.to_thread(stamp_json, body, operation, user, context)
        else:
            body = stamp_json(body, operation, user, context)
        replace_body(context, body)


def stamp_json(body: bytes, operation: str, user: str, context: Context) -> bytes:
    """Return a JSON body with the identity in it, in the one spelling that MLflow's message class gives it.

    Raises:
        Refused: if the operation names a person and the body can't be read as its message.
    """
    document = _parse(body)
    if isinstance(document, dict):
        context.add_objects(document.items())
    stamp = STAMPS.get(operation)
    if stamp is not None:
        if stamp.only_tags and isinstance(document, dict) and not _mentions_user(body):
            return body
        if operation == "create_run" and (run := plain.run(document, body)) is not None:
            context.claimed = stamp.apply(run, user)
            return run.write()
        try:
            message = read(operation, _object(document, body))
            context.claimed = stamp.apply(message, user)
            return requests.write(message)
        except (requests.Unreadable, ValueError) as error:  # ValueError: text that protobuf can't encode
            raise Refused(str(error)) from None
    if change := DOCUMENTS.get(operation):
        document = _object(document, body)
        context.claimed = change(document, user)
        return json.dumps(document).encode()
    return body


def read(operation: str, document: dict[str, Any]) -> Message:
    """Return a request's JSON as the message that the operation's handler makes of it.

    Raises:
        Unreadable: if it can't be one.
    """
    return requests.read(_message_classes()[operation], document)


@cache
def _message_classes() -> dict[str, type[Message]]:
    return {operation_name(handler): kind for handler, kind in requests.message_classes().items()}


def _object(document: Any, body: bytes) -> dict[str, Any]:
    """Return a body's JSON object; an absent body is an empty one, as MLflow has it."""
    if isinstance(document, dict):
        return document
    if not body.strip():
        return {}
    raise Refused("The request's body isn't a JSON object.")


def _mentions_user(body: bytes) -> bool:
    """Return whether the tag of the owner can be in a body, in any way that JSON can spell it.

    Its letters can be written as they are, as ``\\u`` escapes, or in UTF-16 or UTF-32, which have NUL bytes.
    """
    return USER_TAG.encode() in body or b"\\u" in body or b"\0" in body


def _parse(body: bytes) -> Any:
    """Return the JSON of a body as MLflow reads it, or None."""
    try:
        document = json.loads(body)
        # Old clients encode twice, and MLflow decodes twice.
        return json.loads(document) if isinstance(document, str) else document
    except (ValueError, RecursionError):
        return None
