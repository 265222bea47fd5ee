"""The short way for what is read most: the database's own JSON, sent from the event loop.

It is the last layer before MLflow: who asks, and whether they may, has been settled in front of it, and MLflow's own
checks of Host and Origin have passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.dispatch.dispatcher import WORKSPACE_HEADER, who
from gatehouse.dispatch.work import TOOK_TOO_LONG, Stopped, within
from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Send

    from gatehouse.database.reads.service import Reads
    from gatehouse.request.context import Context, Handler


class ReadsLayer:
    """Layer: answers some requests itself, and hands on all others.

    Args:
        app: MLflow.
        reads: what answers.
    """

    def __init__(self, app: Handler, reads: Reads) -> None:
        self._app = app
        self._reads = reads

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        parts = None
        if self._reads.takes(context.operation, context.method) and not context.header(WORKSPACE_HEADER):
            kind = context.header(b"content-type").decode("latin-1")
            query = context.scope["query_string"]
            answering = self._reads.answer(
                str(context.operation), context.method, query, kind, context.body or b"", who(context)
            )
            try:
                parts = await within(answering, context.receive, self._reads.limit_s)
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
