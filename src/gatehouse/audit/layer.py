"""Who did what: one line of JSON for each write and each refusal, on stdout, before the answer is sent.

A write is not let through while stdout can't be written to, and one whose line fails to be written isn't
acknowledged (docs/decisions/0007). What a line says is :mod:`gatehouse.audit.entry`; it goes to the log's one writer by
:mod:`gatehouse.audit.log`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.audit.answer import Answer
from gatehouse.audit.entry import entry, fit

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from gatehouse.audit.log import AuditLog
    from gatehouse.audit.refusals import Refusals
    from gatehouse.request.context import Context, Handler


class AuditLayer:
    """ASGI layer, the outermost one: writes the line of each write and each refusal.

    Args:
        app: the next layer; it and those below fill the context.
        log: where the lines go.
        project: the Google Cloud project, which makes the trace id a link; None if unknown.
        reads: whether reads are written too.
        refusals: remembers the latest refusals; None if nobody shows them.
    """

    def __init__(
        self,
        app: Handler,
        log: AuditLog,
        project: str | None = None,
        reads: bool = False,
        refusals: Refusals | None = None,
    ) -> None:
        self._app = app
        self._log = log
        self._project = project
        self._reads = reads
        self._refusals = refusals

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        answer = Answer(self, context, send)
        try:
            await self._app(context, answer.send)
            await answer.flush()
        except BaseException:
            # MLflow failed or the client went away; the write may have happened.
            await answer.abandoned()
            raise

    def wants(self, context: Context, status: int) -> bool:
        """Return whether this request gets a line: writes, and refusals (MLflow's own too: it has some)."""
        return context.refusal is not None or self._reads or status in {401, 403} or context.is_write

    def begin(self, context: Context, scope: Scope, seconds: float) -> int:
        """Leave the line of a write that can happen from now on.

        Return the number by which :meth:`write` replaces it.
        """
        return self._log.open(fit(entry(context, scope, None, seconds, self._project)))

    async def write(
        self, context: Context, scope: Scope, status: int, seconds: float, number: int | None = None
    ) -> None:
        """Write the line of a request; ``scope`` is the request as it came."""
        if self._refusals is not None and context.refusal is not None:
            self._refusals.note(context, status)
        await self._log.write(fit(entry(context, scope, status, seconds, self._project)), number)


class IntentLayer:
    """Layer, the last one before anything can change: a write that MLflow makes has its line from here on.

    Should this worker die before the answer, the log's writer writes the line in its place, with the result
    ``unknown``.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        context.begin()
        await self._app(context, send)
