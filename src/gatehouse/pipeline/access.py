"""May this identity do that: each request's route is found, classed, and compared with the role."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from gatehouse.operations.classes import Access
from gatehouse.operations.graphql import graphql_access
from gatehouse.operations.router import Route
from gatehouse.operations.table import GRAPHQL
from gatehouse.pipeline.audit import RECORD, query_objects, refuse_unaudited
from gatehouse.pipeline.body import (
    Disconnected,
    TooLarge,
    declared_length,
    read_body,
    read_or_refuse,
    replay,
    with_body,
)
from gatehouse.pipeline.identity import IDENTITY
from gatehouse.pipeline.responses import error_response, page, send_all, wants_page
from gatehouse.policy.roles import NEEDED, Role

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gatehouse.operations.router import Router
    from gatehouse.pipeline.audit import AuditLog, Record
    from gatehouse.policy.identity import Identity
    from gatehouse.policy.roles import Policy
    from gatehouse.policy.source import PolicySource

#: Where the :class:`~gatehouse.operations.router.Route` lives in the ASGI scope.
ROUTE = "gatehouse.route"

#: MLflow's own UI sends queries of a few KiB.
MAX_GRAPHQL_BYTES = 1024 * 1024
#: A refused request's body is looked at for the names in it up to this size.
MAX_NOTED_BYTES = 64 * 1024


class AccessLayer:
    """ASGI layer: refuses what the role of the identity doesn't allow.

    :param app: the next layer; it finds the route in the scope.
    :param router: which route MLflow will take.
    :param policy: who has which role.
    :param log: the audit log; no write goes on while it can't be written.
    """

    def __init__(self, app: ASGIApp, router: Router, policy: PolicySource, log: AuditLog) -> None:
        self._app = app
        self._router = router
        self._policy = policy
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record: Record = scope[RECORD]
        identity: Identity = scope[IDENTITY]
        policy = await self._policy.current()
        route = self._router.find(scope)
        if route.operation == GRAPHQL:
            body = await read_or_refuse(scope, receive, send, MAX_GRAPHQL_BYTES)
            if body is None:
                return
            route, scope, receive = _graphql_route(body), with_body(scope, body), replay(body, receive)
        record.route = route
        record.role = role = policy.role_of(identity)
        record.is_service_account = policy.is_service_account(identity)
        if route.access > Access.READ:
            record.add_objects(route.variables.items())
            record.add_objects(query_objects(scope))
        if not role.may(route.access):
            await _note_objects(scope, receive, record)
            await send_all(send, self._refuse(scope, record, policy, identity, role, route))
            return
        if route.access > Access.READ and not await self._log.ready():
            record.refusal = "the audit log can't be written"
            await send_all(send, refuse_unaudited())
            return
        await self._app({**scope, ROUTE: route}, receive, send)

    def _refuse(
        self, scope: Scope, record: Record, policy: Policy, identity: Identity, role: Role, route: Route
    ) -> tuple[Message, Message]:
        """Return a refusal that says who you are, what you lack, and whom to ask."""
        operation = (route.operation or scope["method"]).replace("_", " ")
        if route.access is Access.CLOSED:
            text = "MLflow's assistant is closed: it would run commands on the server. Nobody may use it."
        else:
            needed = NEEDED[route.access]
            have = "has no role here" if role is Role.NONE else f"is {_article(role)} here"
            who = policy.contact or "whoever runs this server"
            text = (
                f"{identity.email} {have}; {operation!r} needs the role {needed}. Ask {who} for it "
                f"(request {record.request_id})."
            )
            if policy.hint and needed is Role.ADMIN:
                text += f" {policy.hint}"
        record.refusal = text
        if wants_page(scope):
            return page(403, "You may not do this", [("Signed in as", identity.email), ("Role", str(role))], text)
        return error_response(403, "PERMISSION_DENIED", text)


async def _note_objects(scope: Scope, receive: Receive, record: Record) -> None:
    """Note what a refused request names, if its body is small JSON."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    length = declared_length(scope)
    if kind.startswith(b"application/json") and length is not None and length <= MAX_NOTED_BYTES:
        with contextlib.suppress(TooLarge, Disconnected, ValueError, RecursionError):
            document = json.loads(await read_body(scope, receive, MAX_NOTED_BYTES))
            if isinstance(document, dict):
                record.add_objects(document.items())


def _article(role: Role) -> str:
    return f"{'a' if role is Role.VIEWER else 'an'} {role}"


def _graphql_route(body: bytes) -> Route:
    """Return the route of a GraphQL request: its class is that of the worst of its fields."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None  # MLflow refuses it
    access, fields = graphql_access(document.get("query") if isinstance(document, dict) else None)
    return Route(f"{GRAPHQL} {' '.join(fields)}"[:200].rstrip(), access, {})
