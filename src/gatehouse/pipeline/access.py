"""May this identity do that: each request's route is found, classed, and compared with the role."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from gatehouse.audit.answer import refuse_unaudited
from gatehouse.bodies.reader import BadBody, Disconnected, declared_length
from gatehouse.bodies.rules import NOTED, RULES
from gatehouse.operations.classes import Access
from gatehouse.operations.graphql import Unreadable, judge
from gatehouse.operations.router import Route
from gatehouse.operations.table import GRAPHQL
from gatehouse.policy.roles import NEEDED, Role
from gatehouse.request.responses import error_response, page, send_all, wants_page

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from gatehouse.audit.log import AuditLog
    from gatehouse.bodies.reader import Bodies
    from gatehouse.operations.router import Router
    from gatehouse.policy.roles import Policy
    from gatehouse.policy.source import PolicySource
    from gatehouse.request.context import Context, Handler
    from gatehouse.teams.entrance import Workspaces


class AccessLayer:
    """Layer: refuses what the role of the identity doesn't allow.

    Args:
        app: the next layer; it finds the route in the context.
        router: which route MLflow will take.
        policy: who has which role.
        bodies: reads what must be read to find a route.
        log: the audit log; no write goes on while it can't be written.
        workspaces: who may enter which; None where workspaces are off.
    """

    def __init__(
        self,
        app: Handler,
        router: Router,
        policy: PolicySource,
        bodies: Bodies,
        log: AuditLog,
        workspaces: Workspaces | None = None,
    ) -> None:
        self._app = app
        self._router = router
        self._policy = policy
        self._bodies = bodies
        self._log = log
        self._workspaces = workspaces

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        policy = await self._policy.current()
        route = self._router.find(context.scope)
        if route.operation == GRAPHQL:
            try:
                route = await _graphql_route(await self._bodies.read(context, RULES[GRAPHQL]))
            except Disconnected:
                return
            except BadBody as error:
                context.refusal = str(error)
                await send_all(send, error.answer)
                return
        context.route = route
        context.role = role = policy.role_of(context.who)
        context.kind = policy.kind_of(context.who)
        closed_door = None
        if self._workspaces is not None and route.access is not Access.CLOSED:
            role, closed_door = await self._workspaces.enter(context, policy, route)
            context.role = role
        if context.is_write:
            context.add_objects(route.variables.items())
            context.add_objects(context.query_parameters())
        if closed_door is not None:
            await self._note_objects(context)
            await send_all(send, closed_door)
            return
        if not role.may(route.access):
            await self._note_objects(context)
            await send_all(send, self._refuse(context, policy, role, route))
            return
        if context.is_write and not await self._log.ready():
            context.refusal = "the audit log can't be written"
            await send_all(send, refuse_unaudited())
            return
        await self._app(context, send)

    def _refuse(self, context: Context, policy: Policy, role: Role, route: Route) -> tuple[Message, Message]:
        """Return a refusal that says who you are, what you lack, and whom to ask."""
        email = context.who.email
        operation = (route.operation or context.method).replace("_", " ")
        if route.access is Access.CLOSED:
            text = "MLflow's assistant is closed: it would run commands on the server. Nobody may use it."
        else:
            needed = NEEDED[route.access]
            here = "here" if context.named_workspace is None else f"in the workspace {context.named_workspace!r}"
            have = f"has no role {here}" if role is Role.NONE else f"is {_article(role)} {here}"
            who = policy.contact or "whoever runs this server"
            text = (
                f"{email} {have}; {operation!r} needs the role {needed}. Ask {who} for it "
                f"(request {context.request_id})."
            )
            if policy.hint and needed is Role.ADMIN:
                text += f" {policy.hint}"
        context.refusal = text
        if wants_page(context):
            return page(403, "You may not do this", [("Signed in as", email), ("Role", str(role))], text)
        return error_response(403, "PERMISSION_DENIED", text)

    async def _note_objects(self, context: Context) -> None:
        """Note what a refused request names, if its body is small JSON."""
        length = declared_length(context)
        is_json = context.header(b"content-type").startswith(b"application/json")
        if is_json and length is not None and length <= NOTED.limit:
            with contextlib.suppress(BadBody, Disconnected, ValueError, RecursionError):
                document = json.loads(await self._bodies.read(context, NOTED))
                if isinstance(document, dict):
                    context.add_objects(document.items())


def _article(role: Role) -> str:
    return f"{'a' if role is Role.VIEWER else 'an'} {role}"


async def _graphql_route(body: bytes) -> Route:
    """Return the route of a GraphQL request: its class is that of the worst of its fields.

    Raises:
        BadBody: if its query can't be read, so that nobody knows what it would do.
    """
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    try:
        access, fields = await judge(document)
    except Unreadable as error:
        raise BadBody(str(error)) from None
    return Route(f"{GRAPHQL} {' '.join(fields)}"[:200].rstrip(), access, {})
