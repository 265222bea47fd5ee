"""Which workspace a request is for, found once, and whether the identity may enter it.

MLflow's clients name a workspace by one header; without it a request is for ``default``. One that doesn't exist and one
in which somebody has no role are the same answer, from the policy alone and before anything of MLflow runs: no status,
text or time tells which names exist. Present only where workspaces are on.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

from gatehouse.operations.workspaces import Reach, reach
from gatehouse.policy.roles import DEFAULT_WORKSPACE, Role, is_workspace_name
from gatehouse.request.responses import error_response, send_all
from gatehouse.upstream.workspaces import HEADER, enter

if TYPE_CHECKING:
    from typing import Protocol

    from starlette.types import Message, Send

    from gatehouse.operations.router import Route
    from gatehouse.policy.identity import Identity
    from gatehouse.policy.roles import Policy
    from gatehouse.request.context import Context, Handler

    class Known(Protocol):
        """Tells which workspaces there are; ``database.workspaces.Store`` does."""

        def knows(self, name: str) -> bool:
            """Return whether it is known, without asking anybody, that there is such a workspace."""

        def exists(self, name: str) -> bool:
            """Return whether there is such a workspace; the database may be asked."""


#: What the request's identity sees of the list of workspaces: nothing, outside of a request.
caller: ContextVar[tuple[Policy, Identity] | None] = ContextVar("gatehouse_caller", default=None)


def sees(name: str) -> bool:
    """Return whether the request's identity has a role in a workspace."""
    found = caller.get()
    return found is not None and found[0].role_in(found[1], name) is not Role.NONE


class WorkspaceLayer:
    """Layer: reads which workspace a request names; a header that could be read in two ways is answered with 400.

    Args:
        app: the next layer; it finds the name in the context, and the header at most once, well-formed.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        # WSGI takes underscores for hyphens (PEP 3333). That spelling was dropped before; whoever sent it means it.
        found = [(name, value) for name, value in context.arrived["headers"] if name.replace(b"_", b"-") == HEADER]
        problem = None
        if len(found) > 1:
            problem = "The request names a workspace twice: send the header X-MLFLOW-WORKSPACE once."
        elif found and found[0][0] != HEADER:
            problem = "The request names a workspace by another header than X-MLFLOW-WORKSPACE."
        elif found and (named := found[0][1].decode("latin-1")):
            if is_workspace_name(named):
                context.named_workspace = named
            else:
                problem = (
                    "The header X-MLFLOW-WORKSPACE is no workspace's name: that is 2 to 63 small letters, digits and "
                    "hyphens."
                )
        if problem:
            context.refusal = problem
            await send_all(send, error_response(400, "INVALID_PARAMETER_VALUE", problem))
            return
        context.workspace = context.named_workspace or DEFAULT_WORKSPACE
        await self._app(context, send)


class Workspaces:
    """Decides whether a request may enter the workspace that it names, and lets MLflow know which one it is.

    Args:
        known: which workspaces there are.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    async def enter(
        self, context: Context, policy: Policy, route: Route
    ) -> tuple[Role, tuple[Message, Message] | None]:
        """Return the role that counts for the request, and the answer if it may not enter."""
        identity, verdict = context.who, reach(route)
        caller.set((policy, identity))
        workspace = context.workspace or DEFAULT_WORKSPACE
        named = route.variables.get("workspace_name")
        if named is not None and context.named_workspace not in {None, named}:
            return Role.NONE, self._contradiction(context)
        if verdict is Reach.NAMED:
            role = policy.role_in(identity, str(named))
            if role is Role.NONE or not await self._exists(str(named)):
                return role, self._absent(context, str(named))
            workspace = DEFAULT_WORKSPACE
        elif verdict is Reach.SERVER:
            # Whichever workspace it names, the answer is the same: MLflow isn't told the name.
            workspace, role = DEFAULT_WORKSPACE, policy.best_role_of(identity)
        elif verdict is None:
            return policy.role_of(identity), self._without_verdict(context, route)
        else:
            role = policy.role_in(identity, workspace)
            if role is Role.NONE and context.named_workspace is None:
                return role, self._choose(context, policy)
            if role is Role.NONE or not await self._exists(workspace):
                return role, self._absent(context, workspace)
            if verdict is Reach.ADMINISTERED and policy.role_of(identity) is not Role.ADMIN:
                role = min(role, Role.EDITOR)
        headers = [(name, value) for name, value in context.scope["headers"] if name != HEADER]
        context.scope = {**context.scope, "headers": [*headers, (HEADER, workspace.encode())]}
        enter(workspace)
        return role, None

    async def _exists(self, name: str) -> bool:
        return self._known.knows(name) or (
            is_workspace_name(name) and await asyncio.to_thread(self._known.exists, name)
        )

    def _absent(self, context: Context, name: str) -> tuple[Message, Message]:
        """Answer for a workspace that isn't there, and for somebody else's: one answer for both."""
        context.refusal = f"There is no workspace {name!r} for {context.who.email}."
        return error_response(404, "RESOURCE_DOES_NOT_EXIST", f"{context.refusal} (request {context.request_id})")

    def _choose(self, context: Context, policy: Policy) -> tuple[Message, Message]:
        """Answer who has no role in ``default``, which everybody knows of, and named no other."""
        own = list(policy.roles_of(context.who))
        yours = (
            f"Yours: {', '.join(own)}." if own else f"Ask {policy.contact or 'whoever runs this server'} for a role."
        )
        context.refusal = (
            f"{context.who.email} has no role here in the workspace 'default', and the request names no other: set "
            f"MLFLOW_WORKSPACE, or the header X-MLFLOW-WORKSPACE. {yours} (request {context.request_id})"
        )
        return error_response(403, "PERMISSION_DENIED", context.refusal)

    def _contradiction(self, context: Context) -> tuple[Message, Message]:
        context.refusal = "The request's path names one workspace and its header another."
        return error_response(400, "INVALID_PARAMETER_VALUE", context.refusal)

    def _without_verdict(self, context: Context, route: Route) -> tuple[Message, Message]:
        context.refusal = (
            f"{str(route.operation).replace('_', ' ')!r} is closed on a server with workspaces: nobody has looked "
            "yet at what of other workspaces it tells."
        )
        return error_response(403, "PERMISSION_DENIED", context.refusal)
