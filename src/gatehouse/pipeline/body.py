"""Request bodies that are looked at before MLflow gets them: read whole, within a limit, and handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.pipeline.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send


#: JSON bodies are read whole, as MLflow does itself; Cloud Run's own limit for HTTP/1 is as high.
MAX_JSON_BYTES = 32 * 1024 * 1024


class TooLarge(Exception):
    """The body is larger than this kind of request may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request's body is larger than {limit // (1024 * 1024)} MiB.")


class Disconnected(Exception):
    """The client went away before the body was whole."""


def declared_length(scope: Scope) -> int | None:
    """Return the Content-Length, or None if there is none (which the server has checked to be a number)."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body of at most ``limit`` bytes.

    Raises:
        TooLarge: if it is larger.
        Disconnected: if the client went away.
    """
    if (declared_length(scope) or 0) > limit:
        raise TooLarge(limit)
    chunks = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


async def read_or_refuse(scope: Scope, receive: Receive, send: Send, limit: int, status: int = 413) -> bytes | None:
    """Return the whole body, or None if the request is over: it was too large, and has been told so, or the client is gone."""
    try:
        return await read_body(scope, receive, limit)
    except TooLarge as error:
        await send_all(send, error_response(status, "INVALID_PARAMETER_VALUE", str(error)))
    except Disconnected:
        pass
    return None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once, and then what the server has to say."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def with_body(scope: Scope, body: bytes, dropped: frozenset[bytes] = frozenset()) -> Scope:
    """Return the scope of a request whose body was replaced."""
    gone = dropped | {b"content-length", b"transfer-encoding"}
    headers = [(name, value) for name, value in scope["headers"] if name not in gone]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
