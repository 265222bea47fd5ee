"""The short way: what PostgreSQL can do in one statement is done from the event loop.

It is the last layer before MLflow: who asks, and whether they may, has been settled in front of it, MLflow's own checks
of Host and Origin have passed, and a write has its author and its audit line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.dispatch.dispatcher import who
from gatehouse.dispatch.work import TOOK_TOO_LONG, Stopped, within
from gatehouse.request.responses import error_response, send_all
from gatehouse.upstream.workspaces import HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Send

    from gatehouse.database.shortway import ShortWay
    from gatehouse.request.context import Context, Handler


class ShortWayLayer:
    """Layer: answers some requests itself, and hands on all others.

    Args:
        app: MLflow.
        ways: what answers; the operations of each are its own.
    """

    def __init__(self, app: Handler, ways: Sequence[ShortWay]) -> None:
        self._app = app
        self._ways = {operation: way for way in ways for operation in way.operations}

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        parts = None
        way = self._ways.get((context.operation or "", context.method))
        # Without workspaces, MLflow refuses a header that names one.
        if way is not None and not (context.workspace is None and context.header(HEADER)):
            kind = context.header(b"content-type").decode("latin-1")
            query = context.scope["query_string"]
            operation, body = str(context.operation), context.body or b""
            answering = way.answer(operation, context.method, query, kind, body, who(context), context.workspace)
            try:
                parts = await within(answering, context.receive, way.limit_s)
            except Stopped:
                await send_all(send, error_response(400, "INVALID_PARAMETER_VALUE", TOOK_TOO_LONG))
                return
        if parts is None:
            await self._app(context, send)
            return
        # As Flask sends them.
        length = str(sum(map(len, parts))).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        *before, last = parts
        for part in before:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last, "more_body": False})
