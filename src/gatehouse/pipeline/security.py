"""MLflow's own checks of Host and Origin, once for each request, whoever serves it in the end.

MLflow compares the Host header letter by letter, and lets pages of any program on the person's own machine write. So a
Host that is spelled otherwise is put right before, and where people reach the server by another name than localhost,
such a page is a stranger's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gatehouse.operations.table import SAFE_METHODS
from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gatehouse.request.context import Context, Handler

#: Where the context travels through MLflow's layers, which know the ASGI scope alone.
_CONTEXT = "gatehouse.context"


class SecurityLayer:
    """Layer: lets in what MLflow's layers let in, and adds their headers to each answer.

    Args:
        app: the next layer.
        middlewares: MLflow's layers, the outermost first (:func:`gatehouse.upstream.security.take_off`).
        public_url: where people reach the server.
        origins: the origins whose pages may write (MLFLOW_SERVER_CORS_ALLOWED_ORIGINS), the server's own among them.
    """

    def __init__(
        self, app: Handler, middlewares: Sequence[Middleware], public_url: str = "", origins: Sequence[str] = ()
    ) -> None:
        async def behind(scope: Scope, receive: Receive, send: Send) -> None:
            context: Context = scope.pop(_CONTEXT)
            context.scope, context.receive = scope, receive
            await app(context, send)

        checked: ASGIApp = behind
        for middleware in reversed(middlewares):
            checked = middleware.cls(checked, *middleware.args, **middleware.kwargs)
        self._checked = checked
        self._public = urlsplit(public_url)
        #: Whether a page on the person's own machine may be the server's own.
        self._is_local = self._public.hostname in {None, *LOCAL}
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        origin = context.header(b"origin")
        if origin and not self._is_local and origin not in self._origins and _host(origin) in LOCAL:
            if context.method not in SAFE_METHODS:
                context.refusal = f"a page of {origin[:200].decode('latin-1')} may not write here"
                await send_all(
                    send, error_response(403, "PERMISSION_DENIED", f"Cross-origin request blocked: {context.refusal}.")
                )
                return
            # Nor may it read: MLflow's layers would allow it to.
            context.scope = {
                **context.scope,
                "headers": [each for each in context.scope["headers"] if each[0] != b"origin"],
            }
        scope = {**context.scope, _CONTEXT: context}
        if (host := self._canonical(context.header(b"host"))) is not None:
            scope["headers"] = [(name, host if name == b"host" else value) for name, value in scope["headers"]]
        await self._checked(scope, context.receive, send)

    def _canonical(self, host: bytes) -> bytes | None:
        """Return the public host where another spelling of it came:

        capitals, a dot at the end, the scheme's own port.
        """
        public = self._public.netloc.encode()
        if host == public or not public:
            return None
        name, colon, port = (
            host.lower().rpartition(b":") if host[-1:].isdigit() and b":" in host else (host.lower(), b"", b"")
        )
        name = name.removesuffix(b".")
        if port == DEFAULT_PORTS.get(self._public.scheme):
            colon = port = b""
        return public if name + colon + port == public.lower() else None


#: The person's own machine, as a browser names it.
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_PORTS = {"https": b"443", "http": b"80"}


def _host(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).hostname
    except ValueError:
        return None
