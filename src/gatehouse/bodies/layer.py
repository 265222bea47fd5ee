"""Each request's body, before anybody asks for it:

read whole, left to stream, or dropped, as its operation takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.bodies.reader import BadBody, Disconnected, replace_body
from gatehouse.bodies.rules import Kind, rule
from gatehouse.request.responses import send_all

if TYPE_CHECKING:
    from starlette.types import Send

    from gatehouse.bodies.reader import Bodies
    from gatehouse.request.context import Context, Handler


class BodyLayer:
    """Layer: reads what the operation takes, and refuses what is more.

    Args:
        app: the next layer; it finds the body in the context, unless the operation takes a stream.
        bodies: reads them.
    """

    def __init__(self, app: Handler, bodies: Bodies) -> None:
        self._app = app
        self._bodies = bodies

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.route is not None:
            taken = rule(context.route)
            try:
                if taken.kind is Kind.NONE:
                    replace_body(context, b"")
                elif taken.kind is not Kind.STREAM:
                    await self._bodies.read(context, taken)
            except Disconnected:
                return
            except BadBody as error:
                context.refusal = str(error)
                await send_all(send, error.answer)
                return
        await self._app(context, send)
