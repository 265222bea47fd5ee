"""The short way to MLflow's Flask routes: one thread hop, and nothing that would answer the same without it.

MLflow serves most routes by its Flask application, mounted below its FastAPI application. On that way a request passes
layers and three thread hops that do nothing for it: about half of its CPU time. This dispatcher calls the Flask
application directly when every one of these layers would leave the request alone, and hands everything else
to the FastAPI application, unchanged. MLflow's checks of Host and Origin are behind it (SecurityLayer); of the rest:

* workspace: the gate has found it, and MLflow's Flask application asks nobody once it is known
  (workspace_context_middleware, gatehouse.teams.entrance); where workspaces are off, no header names one;
* the path is none of FastAPI's own routes (traces, jobs, gateway, artifacts, MCP, server-info).

tests/dispatch/test_dispatch.py compares the answers of both ways, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from gatehouse.bodies.budget import Budget, capacity
from gatehouse.bodies.reader import BadBody, Bodies, Disconnected
from gatehouse.bodies.rules import RAW, rule
from gatehouse.dispatch.beside import serve_beside
from gatehouse.dispatch.turns import Turns
from gatehouse.dispatch.work import Work, current, supervise
from gatehouse.dispatch.wsgi import Answer
from gatehouse.request.responses import send_all
from gatehouse.upstream.routing import build_environ, native_paths
from gatehouse.upstream.workspaces import HEADER, enabled

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Scope, Send

    from gatehouse.request.context import Context

#: Handlers at once in a worker that is alone. More cost throughput, for they wait for the interpreter's lock; fewer
#: leave the processor idle while they wait for a distant database, and let one slow query hold up all.
QUICK_THREADS = 4
#: Where several workers share the processors, each needs fewer; two, so that a slow query still has somebody beside it.
LEAST_QUICK_THREADS = 2
#: Handlers at once that move bytes or wait for other servers. They never hold up the quick ones.
SLOW_THREADS = 16
#: Flask's routes that move artifacts or call other servers (mlflow/server/__init__.py).
SLOW_PATHS = ("artifact", "gateway-proxy", "promptlab", "invoke", "demo")
#: Seconds after which the work of a transfer by MLflow's own handlers ends: the longest request that Cloud Run takes.
TRANSFER_LIMIT_S = 3600.0

#: FastAPI's one route whose handler takes, like Flask's quick ones, a second database connection while it holds the
#: first. The others wait for other servers, or ask the database for little.
OTLP_PATH = "/v1/traces"

GATEWAY = "/gateway/"


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
        self.fastapi_app: ASGIApp = fastapi_app
        self.flask_app = flask_app
        self._native = native_paths(fastapi_app)
        self._workspaces = enabled()
        threads = max(LEAST_QUICK_THREADS, QUICK_THREADS // workers)
        self._quick = ThreadPoolExecutor(threads, "quick")
        # One limit for all that can wait for a second connection: a pool with one connection more never stands still.
        self._turns = Turns(threads)
        self._limit_s = limit_s
        self._slow = ThreadPoolExecutor(SLOW_THREADS, "slow")
        self._movers = Turns(SLOW_THREADS)
        self._bodies = bodies or Bodies(Budget(capacity(workers)))
        #: Who waits for what, by the pool's name; to be looked at.
        self.pools = {"quick": self._turns, "slow": self._movers}

    async def __call__(self, context: Context, send: Send) -> None:
        """Let MLflow serve one request."""
        if self.is_plain(context.scope):
            await self.call_flask(context, send)
        elif self._is_quick(context.path):
            # Its body has been read already (BodyLayer), so no slow sender keeps the others out.
            async with self._turns.turn(who(context)):
                await serve_beside(self.fastapi_app, context, send, self._quick, self._limit_s)
        else:
            context.leave()
            async with self._movers.turn(who(context)):
                await serve_beside(self.fastapi_app, context, send, self._slow, self._slow_limit_s(context.path))

    def _is_quick(self, path: str) -> bool:
        """Tell whether a request of the long way is one of the quick ones."""
        if self._native.match(path):
            return path == OTLP_PATH
        return not any(part in path for part in SLOW_PATHS)

    def _slow_limit_s(self, path: str) -> float:
        """Return the seconds that a request may take which isn't one of the quick ones."""
        from mlflow.environment_variables import MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS

        if "artifact" in path:
            return TRANSFER_LIMIT_S
        if self._native.match(path) and not path.startswith(GATEWAY):
            return self._limit_s
        # A model provider's answer has a limit of MLflow's own; the database is asked in front of it, and after it.
        return self._limit_s + float(MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS.get())

    def is_plain(self, scope: Scope) -> bool:
        """Tell whether all of FastAPI's layers would pass this request on to Flask unchanged."""
        if not self._workspaces and any(name == HEADER for name, _ in scope["headers"]):
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

        work = Work()
        variables.run(current.set, work)
        limit_s, turns = self._limit_s, self._turns
        if pool is self._slow:
            context.leave()
            limit_s, turns = self._slow_limit_s(context.path), self._movers
        async with turns.turn(who(context)):
            first, rest = await supervise(work, start(), context.receive, limit_s)
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
