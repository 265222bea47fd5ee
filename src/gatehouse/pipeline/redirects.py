"""No redirect answers a path of the API:

clients follow it without the body, and what they meant is lost without a word.

MLflow's SDK (requests) follows 301 and 302 on a PUT with an empty body, and the empty artifact is stored with 200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from gatehouse.request.context import Context, Handler

#: The page of MLflow's UI, which a person opens.
PAGE = "/"


class NoRedirectLayer:
    """Layer: an answer that leads elsewhere becomes a refusal that says where.

    Args:
        app: the next layer.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        replaced = False

        async def watch(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and 300 <= message["status"] < 400 and message["status"] != 304:
                replaced = True
                where = next((value for name, value in message["headers"] if name.lower() == b"location"), b"")
                text = f"This path is spelled otherwise: {where.decode('latin-1')[:1024]}"
                await send_all(send, error_response(404, "ENDPOINT_NOT_FOUND", text))
            elif not replaced:
                await send(message)

        await self._app(context, send if context.path == PAGE else watch)
