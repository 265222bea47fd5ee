"""``GET /gatehouse/ready``: 200 if every worker of MLflow's answers, else 503.

For the platform's probes, which have no identity.

oauth2-proxy's ``/ping`` answers for oauth2-proxy alone. The database isn't asked: a probe that fails while it is away
would have the platform restart a server that can't mend that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Send

    from gatehouse.audit.log import AuditLog
    from gatehouse.request.context import Context, Handler

PATH = "/gatehouse/ready"


class ReadinessLayer:
    """Layer: answers the one path, and passes everything else on untouched.

    Args:
        log: the way to the supervisor, which asks all workers.
    """

    def __init__(self, app: Handler, log: AuditLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.path != PATH or context.method not in {"GET", "HEAD"}:
            await self._app(context, send)
            return
        healthy = await self._log.healthy()
        body = b"OK" if healthy else b"Service Unavailable"
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200 if healthy else 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if context.method == "HEAD" else body})
