"""The one place that reads bodies: as the table of operations says, within its limits, before anybody parses them.

Three things bound what bodies cost: their size and the number of values in them, by operation; the memory that all of
them take at once, by process and identity (:mod:`gatehouse.bodies.budget`); and the time in which a client must send
some.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatehouse.bodies import scan
from gatehouse.bodies.budget import NoMemory
from gatehouse.bodies.rules import Kind
from gatehouse.request.responses import error_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive

    from gatehouse.bodies.budget import Budget
    from gatehouse.bodies.rules import Rule
    from gatehouse.request.context import Context

#: A body of so many bytes at most waits for no memory: it takes less than what the connection itself does.
FREE = 16 * 1024
#: Bytes of memory for each byte and for each value of a body, until it is answered: it is there as it came and as it
#: goes on, and MLflow parses it into Python's objects and then into protobuf's (tests/bodies/test_body.py measures).
PER_BYTE, PER_VALUE = 5, 128
#: A client that sends fewer than PROGRESS bytes in PATIENCE seconds, and isn't done, is cut off.
PROGRESS = 64 * 1024
PATIENCE = 30.0
#: A larger body is looked through beside the event loop, not on it.
ASIDE = 256 * 1024


class Disconnected(Exception):
    """The client went away before the body was whole."""


class BadBody(Exception):
    """The body isn't what this kind of request may carry; the text says why, and ``answer`` tells the client."""

    def __init__(
        self, message: str, status: int = 400, code: str = "INVALID_PARAMETER_VALUE", *headers: tuple[bytes, bytes]
    ) -> None:
        super().__init__(message)
        self.answer = error_response(status, code, message, headers)


def _too_large(taken: Rule) -> BadBody:
    size = f"{taken.limit // 1024} KiB" if taken.limit < 1024 * 1024 else f"{taken.limit // (1024 * 1024)} MiB"
    return BadBody(f"The request's body is larger than {size}.", taken.status)


def _too_many(taken: Rule) -> BadBody:
    return BadBody(f"The request's body has more than {taken.values} values in it. Send it in several parts.", 413)


def declared_length(context: Context) -> int | None:
    """Return the Content-Length, or None if there is none (which the server has checked to be a number)."""
    value = context.header(b"content-length")
    return int(value) if value else None


class Bodies:
    """Reads bodies.

    Args:
        budget: the memory for them.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    async def read(self, context: Context, taken: Rule) -> bytes:
        """Return the whole body; it stands in ``context.body`` from now on, without a Content-Encoding.

        Raises:
            BadBody: if it isn't what ``taken`` allows.
            Disconnected: if the client went away.
        """
        if context.body is not None:
            return context.body
        if (declared_length(context) or 0) > taken.limit:
            raise _too_large(taken)
        if taken.kind is not Kind.OTLP and context.header(b"content-encoding") not in {b"", b"identity"}:
            raise BadBody("This takes no body with a Content-Encoding. Send it as it is.", 415)
        try:
            body = await self._receive(context, taken)
            # Looking through it takes the event loop's time.
            await context.enter()
            gone: frozenset[bytes] = frozenset()
            if taken.kind is Kind.OTLP:
                body = await self._otlp(context, taken, body)
                gone = frozenset({b"content-encoding"})
            elif taken.kind is Kind.JSON:
                await _aside(body, scan.check_json, body)
            if gone or (declared_length(context) or 0) != len(body):
                replace_body(context, body, gone)
            else:
                context.body, context.receive = body, _replay(body, context.receive)
        except scan.Unreadable as error:
            raise BadBody(str(error)) from None
        except NoMemory:
            text = "Too much is being sent to this server at once. Try again later."
            raise BadBody(text, 429, "RESOURCE_EXHAUSTED", (b"retry-after", b"5")) from None
        return body

    async def _receive(self, context: Context, taken: Rule) -> bytes:
        """Return the body as it came; memory is held for it."""
        chunks: list[bytes] = []
        size = values = progress = 0
        loop = asyncio.get_running_loop()
        more = True
        try:
            async with asyncio.timeout(PATIENCE) as patience:
                while more:
                    message = await context.receive()
                    if message["type"] != "http.request":
                        raise Disconnected
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(chunk)
                    if size > taken.limit:
                        raise _too_large(taken)
                    if taken.kind is Kind.JSON:
                        values += scan.values(chunk)
                        if values > taken.values:
                            raise _too_many(taken)
                    if size > FREE:
                        await self._hold(context, PER_BYTE * size + PER_VALUE * values)
                        # Waiting for memory isn't the client's fault.
                        patience.reschedule(max(patience.when() or 0, loop.time() + 1))
                    chunks.append(chunk)
                    progress += len(chunk)
                    if progress >= PROGRESS:
                        progress = 0
                        patience.reschedule(loop.time() + PATIENCE)
        except TimeoutError:
            text = f"Fewer than {PROGRESS} bytes came within {PATIENCE:g} s: given up."
            raise BadBody(text, 408, "DEADLINE_EXCEEDED", (b"connection", b"close")) from None
        return b"".join(chunks)

    async def _otlp(self, context: Context, taken: Rule, body: bytes) -> bytes:
        """Return an OTLP body unpacked, with no more in it than it may have."""
        encoding = context.header(b"content-encoding").decode("latin-1").lower()
        if encoding not in {"", "identity"}:
            size = await asyncio.to_thread(lambda: sum(map(len, scan.unpacked(body, encoding, taken.limit))))
            await self._hold(context, PER_BYTE * (size + len(body)))
            body = await asyncio.to_thread(lambda: b"".join(scan.unpacked(body, encoding, taken.limit)))
        if context.header(b"content-type").startswith(b"application/json"):
            found = scan.values(body)
            await _aside(body, scan.check_json, body)
        else:
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

            # Python's own speed: a tenth of a second for a body with 100,000 fields.
            found = await asyncio.to_thread(scan.fields, body, ExportTraceServiceRequest.DESCRIPTOR, taken.values)
        if found > taken.values:
            raise _too_many(taken)
        await self._hold(context, PER_BYTE * len(body) + PER_VALUE * found)
        return body

    async def _hold(self, context: Context, amount: int) -> None:
        """Hold memory for the request, until its end."""
        if context.memory is None:
            context.memory = context.exits.enter_context(self._budget.reservation(context.key))
        await context.memory.take(amount - context.memory.held)


async def _aside(body: bytes, function: Callable[[bytes], None], *arguments: bytes) -> None:
    """Call what takes time in proportion to a body, in a thread if that is long."""
    if len(body) > ASIDE:
        await asyncio.to_thread(function, *arguments)
    else:
        function(*arguments)


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
