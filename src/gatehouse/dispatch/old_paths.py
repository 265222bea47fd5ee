"""Paths of MLflow's first releases, which old clients still ask: served where today's mean the same, told where not.

MLflow 0.9 to 1.x had each call below ``/api/2.0/preview/mlflow/`` too, and its Java client until 1.22 asks there. The
path is changed before anybody judges it, so it is judged as what it becomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Send

    from gatehouse.request.context import Context, Handler

NOW = "/api/2.0/mlflow/"
ONCE = "/api/2.0/preview/mlflow/"
#: Calls that are gone (MLflow 2.0), and what does their work.
GONE: Mapping[str, str] = {
    "experiments/list": "experiments/search (POST, or GET with ?max_results=1000)",
    "registered-models/list": "registered-models/search (GET with ?max_results=1000)",
    "model-versions/list": "model-versions/search (GET with ?filter=name='NAME')",
    "metrics/get": "metrics/get-history (GET with ?run_id=…&metric_key=…)",
    "params/get": "runs/get (GET with ?run_id=…)",
}


class OldPathsLayer:
    """Layer: brings old paths to today's calls."""

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        path = context.path
        if path.startswith(ONCE):
            path = NOW + path.removeprefix(ONCE)
            context.scope = {**context.scope, "path": path, "raw_path": quote(path).encode()}
        if path.startswith(NOW) and (instead := GONE.get(path.removeprefix(NOW))):
            text = f"MLflow has no {path} since version 2.0. Use {NOW}{instead}."
            await send_all(send, error_response(404, "ENDPOINT_NOT_FOUND", text))
            return
        await self._app(context, send)
