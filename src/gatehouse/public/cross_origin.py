"""Pages of the origins in MLFLOW_SERVER_CORS_ALLOWED_ORIGINS may ask, with a token of their own.

Before such a request a browser asks whether it may, without any credential (Fetch standard, CORS-preflight). The proxy
lets these questions through when an origin is listed, and here, in front of the identity's layer, they are answered:
for listed origins alone, and from memory. What is answered to the request itself is SecurityLayer's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send

    from gatehouse.request.context import Context, Handler

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand where CORSMiddleware has an application: it is asked for answers to questions alone."""


class CrossOriginLayer:
    """Layer: answers the browser's question for the origins listed, and passes all else on untouched.

    Args:
        app: the next layer.
        origins: scheme, host and port, as browsers send them.
    """

    def __init__(self, app: Handler, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._rules = CORSMiddleware(
            _nothing, allow_origins=origins, allow_methods=METHODS, allow_headers=["*"], allow_credentials=True
        )

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.method == "OPTIONS" and self._origins:
            headers = Headers(scope=context.scope)
            if headers.get("origin") in self._origins and "access-control-request-method" in headers:
                await self._rules.preflight_response(headers)(context.scope, context.receive, send)
                return
        await self._app(context, send)
