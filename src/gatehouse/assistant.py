"""MLflow's assistant, closed: it runs commands on the server's machine for whoever it takes for a local caller."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/ajax-api/3.0/mlflow/assistant"
BODY = json.dumps(
    {"error_code": "PERMISSION_DENIED", "message": "MLflow's assistant is closed on this server."}
).encode()


class AssistantClosed:
    """Answers every path of the assistant with 403; a pure ASGI layer.

    MLflow judges "local" by the client's address and by the absence of forwarding headers
    (mlflow/server/assistant/api.py), neither of which means anything behind a proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": BODY})
            return
        await self.app(scope, receive, send)
