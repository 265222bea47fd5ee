"""What a request may carry before its body: every layer behind this one reads it, some of them more than once.

The parsers of headers that MLflow and its libraries bring take up to the square of a value's length. So what they parse
is short; what may be long is read by linear code alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from gatehouse.request.context import Context, Handler

#: Bytes of all headers, and how many.
MAX_HEADERS, MAX_NAMES = 64 * 1024, 200
#: Bytes of a header that is parsed, and of any other one.
MAX_PARSED, MAX_VALUE = 1024, 8 * 1024
#: The one header that nobody behind parses, and that is long where other programs share the domain.
LONG = frozenset({b"cookie"})
#: Headers that a library parses.
PARSED = frozenset(
    {b"host", b"origin", b"range", b"content-digest", b"repr-digest", b"digest", b"cache-control", b"forwarded"}
)
PARSED_PREFIXES = (b"accept", b"access-control-", b"content-", b"if-", b"x-mlflow-")
#: Characters of the path as it is decoded, and bytes of the query. An artifact's path has at most 1,024
#: (artifacts/paths.py); the patterns of MLflow's gateway and MCP routes take the square of a path's length.
MAX_PATH, MAX_QUERY = 2 * 1024, 32 * 1024
#: Parameters of a query.
MAX_PARAMETERS = 1_000


def wrong(scope: Scope) -> tuple[int, str] | None:
    """Return the status and the text with which a request is refused, or None."""
    path = scope["path"]
    if len(path) > MAX_PATH or len(scope.get("raw_path") or b"") > 3 * MAX_PATH:
        return 414, f"The request's path is longer than {MAX_PATH} characters."
    query = scope.get("query_string", b"")
    if len(query) > MAX_QUERY or query.count(b"&") >= MAX_PARAMETERS:
        return (
            414,
            f"The request's query is longer than {MAX_QUERY} bytes, or has more than {MAX_PARAMETERS} parameters.",
        )
    if "\0" in path or b"%00" in query or b"\0" in query:
        return 400, "The request's address has a NUL character (%00) in it, which names nothing and can't be stored."
    size = 0
    headers = scope["headers"]
    if any(name == b"trailer" for name, _ in headers):
        # Whoever reads them takes them for headers.
        return 400, "The request announces trailers, which nothing here takes."
    if len(headers) > MAX_NAMES:
        return 431, f"The request has more than {MAX_NAMES} headers."
    for name, value in headers:
        size += len(name) + len(value)
        if name in LONG:
            continue
        most = MAX_PARSED if name in PARSED or name.startswith(PARSED_PREFIXES) else MAX_VALUE
        if len(value) > most:
            return 431, f"The request's header {name[:64].decode('latin-1')} is longer than {most} bytes."
    if size > MAX_HEADERS:
        return 431, f"The request's headers have more than {MAX_HEADERS} bytes."
    return None


class BoundsLayer:
    """Layer: refuses a request that is too large before its body, or has in it what is never meant.

    Args:
        app: the next layer.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if found := wrong(context.scope):
            status, context.refusal = found
            await send_all(send, error_response(status, "INVALID_PARAMETER_VALUE", context.refusal))
        else:
            await self._app(context, send)
