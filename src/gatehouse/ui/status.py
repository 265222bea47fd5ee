"""``/gatehouse/status``: what matters now, for admins, in JSON or as a page for a browser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatehouse.operations.classes import Access
from gatehouse.request.responses import error_response, json_response, page, send_all, wants_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from starlette.types import Send

    from gatehouse.policy.source import PolicySource
    from gatehouse.request.context import Context, Handler

PATH = "/gatehouse/status"


class StatusLayer:
    """Layer: answers admins how the server is, and passes everything else on.

    Args:
        app: the next layer.
        policy: who has which role.
        gather: returns the status; blocks.
        rows: the status as names and texts.
    """

    def __init__(
        self,
        app: Handler,
        policy: PolicySource,
        gather: Callable[[], dict[str, Any]],
        rows: Callable[[dict[str, Any]], list[tuple[str, str]]],
    ) -> None:
        self._app = app
        self._policy = policy
        self._gather = gather
        self._rows = rows

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.path != PATH or context.method not in {"GET", "HEAD"}:
            await self._app(context, send)
            return
        policy = await self._policy.current()
        context.role = role = policy.role_of(context.who)
        context.kind = policy.kind_of(context.who)
        if not role.may(Access.ADMIN):
            context.refusal = f"{context.who.email} has the role {role} here, and the status is for admins."
            await send_all(send, error_response(403, "PERMISSION_DENIED", context.refusal))
            return
        status = await asyncio.to_thread(self._gather)
        if wants_page(context):
            bad = any(not each["ok"] for each in status["findings"])
            start, body = page(
                200, "Status", self._rows(status), "Something needs to be mended." if bad else "All is well."
            )
        else:
            start, body = json_response(200, status)
        await send(start)
        await send({**body, "body": b""} if context.method == "HEAD" else body)
