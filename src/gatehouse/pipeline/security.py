"""MLflow's own checks of Host and Origin, once for each request, whoever serves it in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gatehouse.pipeline.context import Context, Handler

#: Where the context travels through MLflow's layers, which know the ASGI scope alone.
_CONTEXT = "gatehouse.context"


class SecurityLayer:
    """Layer: lets in what MLflow's layers let in, and adds their headers to each answer.

    :param app: the next layer.
    :param middlewares: MLflow's layers, the outermost first (:func:`gatehouse.upstream.security.take_off`).
    """

    def __init__(self, app: Handler, middlewares: Sequence[Middleware]) -> None:
        async def behind(scope: Scope, receive: Receive, send: Send) -> None:
            context: Context = scope.pop(_CONTEXT)
            context.scope, context.receive = scope, receive
            await app(context, send)

        checked: ASGIApp = behind
        for middleware in reversed(middlewares):
            checked = middleware.cls(checked, *middleware.args, **middleware.kwargs)
        self._checked = checked

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        await self._checked({**context.scope, _CONTEXT: context}, context.receive, send)
