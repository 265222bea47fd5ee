"""An ASGI application on an event loop of its own, in a thread: for a handler that would hold the one it runs on."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from gatehouse.dispatch.work import GRACE_S, TOOK_TOO_LONG, Work, current, supervise
from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from concurrent.futures import Executor

    from starlette.types import ASGIApp, Message, Send

    from gatehouse.request.context import Context


async def serve_beside(app: ASGIApp, context: Context, send: Send, pool: Executor, limit_s: float) -> None:
    """Let an ASGI application serve a request in a thread, on an event loop of its own, for so many seconds at most.

    MLflow's handlers of FastAPI's ask the database while they hold the loop that they run on, and make its own spans of
    those that came. When the client goes, or it takes too long, the queries are cancelled, and what waits on the
    thread's loop.
    """
    served = _Served(app, context, send)
    variables = copy_context()
    variables.run(current.set, served)
    # While a body streams in, it is the handler that hears of the client's end.
    receive = context.receive if context.body is not None else _never
    await supervise(
        served, asyncio.get_running_loop().run_in_executor(pool, variables.run, served.run), receive, limit_s
    )
    if served.stopped and not served.answered:
        await send_all(send, error_response(400, "INVALID_PARAMETER_VALUE", TOOK_TOO_LONG))


class _Served(Work):
    """One request on its way through the application."""

    def __init__(self, app: ASGIApp, context: Context, send: Send) -> None:
        super().__init__()
        self._app = app
        self._context = context
        self._send = send
        self._outer = asyncio.get_running_loop()
        self._given = False
        self._starting = threading.Lock()
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        #: Whether an answer has begun.
        self.answered = False

    def run(self) -> None:
        """Serve the request; in a thread."""
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            if not self.stopped:
                raise

    def stop(self) -> None:
        """Cancel its queries, and what waits for another server."""
        super().stop()
        with self._starting:
            if self._inner is not None:
                loop, task = self._inner
                loop.call_soon_threadsafe(self._end, loop, task)

    def _end(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """End the handler, on its own loop; one that has begun its answer is given time to say all of it."""
        if self.answered:
            loop.call_later(GRACE_S, task.cancel)
        else:
            task.cancel()

    async def _serve(self) -> None:
        task = asyncio.ensure_future(self._app(dict(self._context.scope), self._receive, self._pass_on))
        with self._starting:
            self._inner = asyncio.get_running_loop(), task
            if self.stopped:
                task.cancel()  # it hasn't begun
        try:
            await task
        finally:
            with self._starting:
                self._inner = None

    async def _receive(self) -> Message:
        if self._context.body is None:
            message: Message = await self._on_the_other_loop(self._context.receive())
            return message
        if self._given:
            await asyncio.Event().wait()  # whoever asks for the client's end is ended with the answer
        self._given = True
        return {"type": "http.request", "body": self._context.body, "more_body": False}

    async def _pass_on(self, message: Message) -> None:
        self.answered = True
        await self._on_the_other_loop(self._send(message))

    async def _on_the_other_loop(self, asked: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await asked

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(wait(), self._outer))


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("this is never set")
