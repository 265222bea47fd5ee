"""What MLflow's code or ours fails with, told in MLflow's own shape, on a connection that stays usable.

Left alone, an exception that no handler of MLflow's expects is a page of HTML (from Flask) or a line of text (from
FastAPI). The latter also comes back to uvicorn, which closes the connection after the answer; the proxy learns of that
too late and answers somebody's next request on it with 502.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from gatehouse.request.context import Context, Handler

_logger = logging.getLogger(__name__)


def tell(error: BaseException | None) -> tuple[int, str, str]:
    """Return the status, MLflow's error code and the message for an exception.

    Nothing secret that it quotes gets out.
    """
    if isinstance(error, ImportError) and (error.name is None or isinstance(error, ModuleNotFoundError)):
        # With a name it is Python's own; without, whoever raised it says what to install.
        package = (error.name or "").partition(".")[0]
        text = f"This needs the Python package {package!r}, which isn't installed here." if package else str(error)
        return 501, "NOT_IMPLEMENTED", f"{text} How to add a package: README.md, Limits."
    name = type(error).__name__ if error else "an error"
    return 500, "INTERNAL_ERROR", f"The server failed with {name}; its log has the details at this time."


def register(fastapi_app: Any, flask_app: Any) -> None:
    """Make both of MLflow's applications answer their failures in MLflow's shape."""
    from flask import Response
    from starlette.responses import JSONResponse
    from werkzeug.exceptions import InternalServerError

    async def answer_for_fastapi(_request: Any, error: Exception) -> Any:
        status, code, text = tell(error)
        return JSONResponse({"error_code": code, "message": text}, status)

    def answer_for_flask(error: Exception) -> Any:
        status, code, text = tell(getattr(error, "original_exception", error))
        body = json.dumps({"error_code": code, "message": text})
        return Response(body, status, mimetype="application/json")

    fastapi_app.add_exception_handler(Exception, answer_for_fastapi)
    flask_app.register_error_handler(InternalServerError, answer_for_flask)


class FailureLayer:
    """Layer: an exception ends here, and costs the connection only if half an answer has left on it.

    Args:
        app: the next layer.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        started = finished = False

        async def watch(message: Message) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(context, watch)
        except Exception as error:
            if started and not finished:
                raise
            _logger.exception("%s %s failed", context.method, context.path[:1024])
            if not started:
                await send_all(send, error_response(*tell(error)))
