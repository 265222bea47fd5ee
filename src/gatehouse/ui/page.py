"""MLflow's page, with one script more: it leads back to sign-in, and to the very page, when a session ends.

The script (session.js) is a file of its own, so that no content security policy has to allow inline code.
MLflow's files stay as they are; the page gets its line on the way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.ui.account import SCRIPT_PATH

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from gatehouse.request.context import Context, Handler

#: MLflow's operation that serves the page.
PAGE = "serve"
_HEAD = b"<head>"
# Before MLflow's own scripts, so that it sees their first request.
_LINE = _HEAD + b'<script src=".' + SCRIPT_PATH.encode() + b'"></script>'
#: The page changes on its way, so neither a part of it nor a comparison with what a browser has makes sense.
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since", b"if-range", b"range", b"accept-encoding"})
_VALIDATORS = frozenset({b"etag", b"last-modified", b"content-length", b"accept-ranges"})


class UiLayer:
    """Layer: adds the script's line to MLflow's page, and passes everything else on."""

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.operation != PAGE or context.method != "GET":
            await self._app(context, send)
            return
        start: Message | None = None
        chunks: list[bytes] = []

        async def add_script(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is None:
                await send(message)
                return
            chunks.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body = b"".join(chunks).replace(_HEAD, _LINE, 1)
            headers = [(name, value) for name, value in start["headers"] if name.lower() not in _VALIDATORS]
            await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        headers = [(name, value) for name, value in context.scope["headers"] if name not in _CONDITIONS]
        context.scope = {**context.scope, "headers": headers}
        await self._app(context, add_script)
