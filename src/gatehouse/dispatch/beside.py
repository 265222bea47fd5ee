"""An ASGI application on an event loop of its own, in a thread: for a handler that would hold the one it runs on."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gatehouse.request.context import Context


async def serve_beside(app: ASGIApp, context: Context, send: Send, pool: Executor) -> None:
    """Let an ASGI application serve a request in a thread, on an event loop of its own.

    MLflow makes its own spans of those that came while it holds the loop that it runs on.
    """
    loop = asyncio.get_running_loop()
    body = context.body or b""

    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # whoever asks for the client's end is ended with the answer
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send_here(message: Message) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_sent(send, message), loop))

    def serve() -> None:
        asyncio.run(_served(app, dict(context.scope), receive, send_here))

    await loop.run_in_executor(pool, copy_context().run, serve)


async def _sent(send: Send, message: Message) -> None:
    await send(message)


async def _served(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
