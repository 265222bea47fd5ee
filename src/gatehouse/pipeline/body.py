"""The one place that reads bodies: as the table of operations says, whole and within its limits, before anybody parses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.operations.bodies import Kind, rule
from gatehouse.pipeline.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send

    from gatehouse.operations.bodies import Rule
    from gatehouse.pipeline.context import Context, Handler


class Disconnected(Exception):
    """The client went away before the body was whole."""


class BadBody(Exception):
    """The body isn't what this kind of request may carry; the text says why."""

    def __init__(self, message: str, status: int = 400, code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.answer = error_response(status, code, message)


class TooLarge(BadBody):
    """The body is larger than this kind of request may be."""

    def __init__(self, limit: int, status: int = 413) -> None:
        size = f"{limit // 1024} KiB" if limit < 1024 * 1024 else f"{limit // (1024 * 1024)} MiB"
        super().__init__(f"The request's body is larger than {size}.", status)


def declared_length(context: Context) -> int | None:
    """Return the Content-Length, or None if there is none (which the server has checked to be a number)."""
    value = context.header(b"content-length")
    return int(value) if value else None


async def read_body(context: Context, taken: Rule) -> bytes:
    """Return the whole body, which ``taken`` limits; it stands in ``context.body`` from now on.

    Raises:
        TooLarge: if it is larger.
        Disconnected: if the client went away.
    """
    if context.body is None:
        if (declared_length(context) or 0) > taken.limit:
            raise TooLarge(taken.limit, taken.status)
        chunks = []
        size = 0
        more = True
        while more:
            message = await context.receive()
            if message["type"] != "http.request":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > taken.limit:
                raise TooLarge(taken.limit, taken.status)
            chunks.append(chunk)
            more = message.get("more_body", False)
        replace_body(context, b"".join(chunks))
    assert context.body is not None  # noqa: S101 - for mypy
    return context.body


def replace_body(context: Context, body: bytes, dropped: frozenset[bytes] = frozenset()) -> None:
    """Let those who read the request from now on find this body, and none of the ``dropped`` headers."""
    gone = dropped | {b"content-length", b"transfer-encoding"}
    headers = [(name, value) for name, value in context.scope["headers"] if name not in gone]
    context.scope = {**context.scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
    context.receive = _replay(body, context.receive)
    context.body = body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once, and then what the server has to say."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


class BodyLayer:
    """Layer: reads what the operation takes, and refuses what is more.

    :param app: the next layer; it finds the body in the context, unless the operation takes a stream.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.route is not None:
            taken = rule(context.route)
            try:
                await self._read(context, taken)
            except Disconnected:
                return
            except BadBody as error:
                context.refusal = str(error)
                await send_all(send, error.answer)
                return
        await self._app(context, send)

    async def _read(self, context: Context, taken: Rule) -> None:
        if taken.kind is Kind.NONE:
            replace_body(context, b"")
        elif taken.kind is not Kind.STREAM:
            await read_body(context, taken)
