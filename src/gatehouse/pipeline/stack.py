"""The way in: one context for each request, and the layers around MLflow in the order that requests meet them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gatehouse.request.context import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from gatehouse.request.context import Handler


class Layer(Protocol):
    """Makes one layer: given the handler behind it, returns the handler of both."""

    def __call__(self, app: Handler, /) -> Handler:
        """Stand in front of ``app``."""


def stack(layers: Sequence[Layer], innermost: Handler) -> Handler:
    """Return the layers around a handler; the first one listed meets a request first."""
    handler = innermost
    for layer in reversed(layers):
        handler = layer(handler)
    return handler


class Pipeline:
    """The ASGI application: requests pass the layers, the server's own start and end go to MLflow.

    Args:
        handler: the outermost layer.
        lifespan: MLflow's application, whose start and end are its own business.
    """

    def __init__(self, handler: Handler, lifespan: ASGIApp) -> None:
        self._handler = handler
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "http":
            context = Context(scope, receive)
            with context.exits:
                await self._handler(context, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind == "websocket":  # MLflow has none; closing before the accept is a plain 403
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            raise ValueError(f"unknown kind of connection: {kind}")
