"""The short way to MLflow's Flask routes: one thread hop, and nothing that would answer the same without it.

MLflow serves most routes by its Flask application, mounted below its FastAPI application. On that way a request passes
layers and three thread hops that do nothing for it: about half of its CPU time. This dispatcher calls the Flask
application directly when every one of these layers would leave the request alone, and hands everything else
to the FastAPI application, unchanged. MLflow's checks of Host and Origin are behind it (SecurityLayer); of the rest:

* workspace: it has no workspace header and workspaces are off (workspace_context_middleware);
* the path is none of FastAPI's own routes (traces, jobs, gateway, artifacts, MCP, server-info).

tests/gate/test_dispatch.py compares the answers of both ways, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from gatehouse.operations.bodies import RAW, rule
from gatehouse.pipeline.body import BadBody, Bodies, Disconnected
from gatehouse.pipeline.budget import Budget, capacity
from gatehouse.pipeline.fairness import Turns, Work, current, supervise
from gatehouse.pipeline.responses import send_all
from gatehouse.upstream.routing import build_environ, native_paths

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gatehouse.pipeline.context import Context

#: Handlers at once in a worker that is alone. More cost throughput, for they wait for the interpreter's lock; fewer
#: leave the processor idle while they wait for a distant database, and let one slow query hold up all.
QUICK_THREADS = 4
#: Where several workers share the processors, each needs fewer; two, so that a slow query still has somebody beside it.
LEAST_QUICK_THREADS = 2
#: Handlers at once that move bytes or wait for other servers. They never hold up the quick ones.
SLOW_THREADS = 16
#: Flask's routes that move artifacts or call other servers (mlflow/server/__init__.py).
SLOW_PATHS = ("artifact", "gateway-proxy", "promptlab", "invoke", "demo")

#: FastAPI's one route whose handler takes, like Flask's quick ones, a second database connection while it holds the
#: first.
OTLP_PATH = "/v1/traces"

WORKSPACE_HEADER = b"x-mlflow-workspace"


class Dispatcher:
    """Handler: MLflow, with the short way to its Flask routes.

    ``fastapi_app`` is ``mlflow.server.fastapi_app.app`` and ``flask_app`` is ``mlflow.server.app``; ``workers`` is the
    number of processes that serve beside each other, ``limit_s`` the seconds after which a quick handler's work in the
    database ends; ``bodies`` reads what nobody has read yet.
    """

    def __init__(
        self,
        fastapi_app: Any,
        flask_app: Any,
        workers: int = 1,
        limit_s: float = 60.0,
        bodies: Bodies | None = None,
    ) -> None:
        from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES

        self.fastapi_app: ASGIApp = fastapi_app
        self.flask_app = flask_app
        self._native = native_paths(fastapi_app)
        # Workspaces change what the layers do: then none is skipped.
        self._usable = not MLFLOW_ENABLE_WORKSPACES.get()
        threads = max(LEAST_QUICK_THREADS, QUICK_THREADS // workers)
        self._quick = ThreadPoolExecutor(threads, "quick")
        # One limit for all that can wait for a second connection: a pool with one connection more never stands still.
        self._turns = Turns(threads)
        self._limit_s = limit_s
        self._slow = ThreadPoolExecutor(SLOW_THREADS, "slow")
        self._movers = Turns(SLOW_THREADS)
        self._bodies = bodies or Bodies(Budget(capacity(workers)))

    async def __call__(self, context: Context, send: Send) -> None:
        """Let MLflow serve one request."""
        if context.path == OTLP_PATH:
            # Its body has been read already (BodyLayer), so no slow sender keeps the others out.
            async with self._turns.turn(who(context)):
                await self._beside(context, send)
        elif self._usable and self.is_plain(context.scope):
            await self.call_flask(context, send)
        else:
            await self.fastapi_app(context.scope, context.receive, send)

    async def _beside(self, context: Context, send: Send) -> None:
        """Let the FastAPI application serve a request in a thread, on an event loop of its own.

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
            asyncio.run(_served(self.fastapi_app, dict(context.scope), receive, send_here))

        await loop.run_in_executor(self._quick, copy_context().run, serve)

    def is_plain(self, scope: Scope) -> bool:
        """Tell whether all of FastAPI's layers would pass this request on to Flask unchanged."""
        if any(name == WORKSPACE_HEADER for name, _ in scope["headers"]):
            return False
        return not self._native.match(scope["path"])

    async def call_flask(self, context: Context, send: Send) -> None:
        """Run Flask's handler in a thread and send what it answers, chunk by chunk if it is a stream."""
        try:
            # Flask takes no stream.
            body = await self._bodies.read(context, rule(context.route) if context.route else RAW)
        except Disconnected:
            return
        except BadBody as error:
            await send_all(send, error.answer)
            return
        pool = self._slow if any(part in context.path for part in SLOW_PATHS) else self._quick
        loop = asyncio.get_running_loop()
        # Flask's handlers see the context of the request, as they do on the long way.
        variables = copy_context()
        answer = Answer()
        environ = build_environ(context.scope, body)

        def start() -> asyncio.Future[tuple[bytes, Iterator[bytes] | None]]:
            return loop.run_in_executor(pool, variables.run, answer.run, self.flask_app, environ)

        if pool is self._quick:
            work = Work()
            variables.run(current.set, work)
            async with self._turns.turn(who(context)):
                first, rest = await supervise(work, start(), context.receive, self._limit_s)
        else:
            async with self._movers.turn(who(context)):
                first, rest = await start()
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        try:
            while rest is not None:
                await send({"type": "http.response.body", "body": first, "more_body": True})
                first, rest = await loop.run_in_executor(pool, variables.run, answer.next, rest)
            await send({"type": "http.response.body", "body": first, "more_body": False})
        finally:
            answer.close()


def who(context: Context) -> str | None:
    """Return whose turn a request is."""
    return context.identity.email if context.identity else None


class Answer:
    """What a WSGI application answers: status and headers, and its body taken a chunk at a time."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self._body: Iterable[bytes] | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Take status and headers, as WSGI's callable does (PEP 3333)."""
        if exc_info is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self.status = int(status.split(" ", 1)[0])
        self.headers = [
            (name.strip().lower().encode("ascii"), value.strip().encode("ascii")) for name, value in headers
        ]
        return _no_write

    def run(self, app: Any, environ: dict[str, Any]) -> tuple[bytes, Iterator[bytes] | None]:
        """Call the application; return its first chunk, and the iterator of the others unless that was all."""
        self._body = app(environ, self.start_response)
        chunks = iter(self._body)
        first, rest = self.next(chunks)
        if rest is None:
            return first, None
        second, rest = self.next(chunks)
        return (first, None) if rest is None and not second else (first, _chain(second, rest))

    def next(self, chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes] | None]:
        """Return the next chunk and the iterator, or nothing and None at the end."""
        for chunk in chunks:
            return chunk, chunks
        return b"", None

    def close(self) -> None:
        """Close the body, as PEP 3333 asks for, also when the client has gone."""
        if self._body is not None and hasattr(self._body, "close"):
            self._body.close()


def _chain(first: bytes, rest: Iterator[bytes] | None) -> Iterator[bytes]:
    yield first
    if rest is not None:
        yield from rest


async def _sent(send: Send, message: Message) -> None:
    await send(message)


async def _served(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def _no_write(_data: bytes) -> None:
    raise NotImplementedError("Flask never uses WSGI's write()")
