"""Who am I: for people, for scripts, and for MLflow's own account menu.

``GET /gatehouse/whoami`` answers in JSON, or with a small page for a browser. The other paths are those of
MLflow's own login (mlflow/server/auth), which its UI asks to show who is signed in, what they may do, and a
way to sign out; a viewer's UI hides what a viewer can't do. They are advice for the UI: what is allowed is
decided in :mod:`gatehouse.pipeline.access`.
"""

from __future__ import annotations

import datetime
import zlib
from importlib import resources
from typing import TYPE_CHECKING, Any

from gatehouse.pipeline.authentication import WHOAMI_PATH
from gatehouse.policy.roles import DEFAULT_WORKSPACE, Role
from gatehouse.request.responses import error_response, json_response, page, response, send_all, wants_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Message, Send

    from gatehouse.policy.identity import Identity
    from gatehouse.policy.roles import Policy
    from gatehouse.policy.source import PolicySource
    from gatehouse.request.context import Context, Handler

#: The script that MLflow's page loads first: see :mod:`gatehouse.ui.page`.
SCRIPT_PATH = "/gatehouse/session.js"
#: Role → the permission that MLflow's UI knows (mlflow/server/auth/permissions.py).
_PERMISSIONS: Mapping[Role, str] = {Role.VIEWER: "READ", Role.EDITOR: "MANAGE", Role.ADMIN: "MANAGE"}
_RESOURCES = ("experiment", "registered_model", "prompt", "scorer")


class AccountLayer:
    """Layer: answers the questions about the account, and passes everything else on.

    Args:
        app: the next layer.
        policy: who has which role.
    """

    def __init__(self, app: Handler, policy: PolicySource) -> None:
        self._app = app
        self._policy = policy
        script = resources.files("gatehouse.ui").joinpath("session.js").read_bytes()
        self._script = response(200, "text/javascript; charset=utf-8", script, caching=b"private, max-age=300")
        self._answers: Mapping[str, Callable[[Context, Identity, Policy], tuple[Message, Message]]] = {
            WHOAMI_PATH: self._whoami,
            SCRIPT_PATH: lambda *_: self._script,
            "/ajax-api/2.0/mlflow/users/current": _current_user,
            "/api/2.0/mlflow/users/current": _current_user,
            "/ajax-api/3.0/mlflow/users/current/permissions": _permissions,
            "/ajax-api/3.0/mlflow/users/roles/list": _roles,
            "/ajax-api/2.0/mlflow/users/list": _users,
            # The assistant is closed (see operations/table.py); its two questions at each start of the UI hear that
            # none is there.
            "/ajax-api/3.0/mlflow/assistant/config": _no_assistant,
            "/ajax-api/3.0/mlflow/assistant/providers": _no_assistant,
        }

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        answer = self._answers.get(context.path) if context.method in {"GET", "HEAD"} else None
        if answer is None:
            if context.path.startswith("/gatehouse/"):
                await send_all(send, error_response(404, "ENDPOINT_NOT_FOUND", "Gatehouse has no such page."))
            else:
                await self._app(context, send)
            return
        policy = await self._policy.current()
        context.role = policy.role_in(context.who, context.workspace or DEFAULT_WORKSPACE)
        context.kind = policy.kind_of(context.who)
        start, body = answer(context, context.who, policy)
        await send(start)
        await send({**body, "body": b""} if context.method == "HEAD" else body)

    def _whoami(self, context: Context, identity: Identity, policy: Policy) -> tuple[Message, Message]:
        role = policy.role_in(identity, context.workspace or DEFAULT_WORKSPACE)
        # Where workspaces are off there is nothing to tell them apart.
        own = policy.roles_of(identity) if context.workspace else {}
        ends = context.session_ends
        moment = datetime.datetime.fromtimestamp(ends, datetime.timezone.utc) if ends else None
        expires = moment.isoformat(timespec="seconds") if moment else None
        kind = policy.kind_of(identity)
        if wants_page(context):
            rows = [
                ("Signed in as", identity.email),
                ("Kind", kind),
                ("Role", str(role)),
                *([("Workspace", context.workspace)] if context.workspace else []),
                *(
                    [("Your workspaces", ", ".join(f"{name} ({role})" for name, role in own.items()) or "none")]
                    if context.workspace
                    else []
                ),
                ("Groups", ", ".join(identity.groups) or "none"),
                ("Session ends", expires or "with the token"),
            ]
            if policy.contact:
                rows.append(("Ask for more", policy.contact))
            return page(200, "Who am I", rows)
        return json_response(
            200,
            {
                "email": identity.email,
                "subject": identity.subject,
                "kind": kind,
                **({"key": identity.key} if identity.key is not None else {}),
                "groups": list(identity.groups),
                "role": str(role),
                **(
                    {"workspace": context.workspace, "workspaces": {name: str(role) for name, role in own.items()}}
                    if context.workspace
                    else {}
                ),
                "expires": expires,
                "contact": policy.contact,
                # Seconds since anybody could look at the policy's file, where that is long ago.
                **({"policy_age": round(age)} if (age := self._policy.age or 0) >= self._policy.OVERDUE else {}),
            },
        )


def _user(identity: Identity) -> dict[str, Any]:
    # MLflow's UI lists an administrator's users and roles on pages that need MLflow's own login: nobody is
    # one.
    return {"id": _id(identity), "username": identity.email, "is_admin": False}


def _id(identity: Identity) -> int:
    """Return a number for the UI, which wants one; nothing is looked up by it."""
    return zlib.crc32(identity.email.encode())


def _current_user(context: Context, identity: Identity, policy: Policy) -> tuple[Message, Message]:  # noqa: ARG001
    # The UI shows its "Logout" for basic authentication alone; session.js makes that the proxy's sign-out.
    return json_response(200, {"user": _user(identity), "is_basic_auth": True})


def _roles_of(context: Context, identity: Identity, policy: Policy) -> dict[str, Role]:
    """Return the workspaces in which somebody has a role, with it; MLflow's UI knows one where they are off."""
    roles = policy.roles_of(identity)
    return roles if context.workspace else {name: role for name, role in roles.items() if name == DEFAULT_WORKSPACE}


def _rows(workspace: str, role: Role) -> list[dict[str, Any]]:
    return [
        {
            "role_id": int(role),
            "role_name": str(role),
            "workspace": workspace,
            "resource_type": resource,
            "resource_pattern": "*",
            "permission": _PERMISSIONS[role],
        }
        for resource in _RESOURCES
    ]


def _permissions(context: Context, identity: Identity, policy: Policy) -> tuple[Message, Message]:
    is_admin = policy.role_of(identity) is Role.ADMIN
    roles = _roles_of(context, identity, policy)
    rows = [row for workspace, role in roles.items() for row in _rows(workspace, role)]
    return json_response(200, {"is_admin": is_admin, "permissions": rows})


def _roles(context: Context, identity: Identity, policy: Policy) -> tuple[Message, Message]:
    entries = [
        {
            "id": int(role),
            "name": str(role),
            "workspace": workspace,
            "description": "from Gatehouse's access policy",
            "permissions": [{**row, "id": number} for number, row in enumerate(_rows(workspace, role), 1)],
        }
        for workspace, role in _roles_of(context, identity, policy).items()
    ]
    return json_response(200, {"roles": entries})


def _users(context: Context, identity: Identity, policy: Policy) -> tuple[Message, Message]:  # noqa: ARG001
    # Nobody else's address is told.
    return json_response(200, {"users": [_user(identity)]})


def _no_assistant(context: Context, identity: Identity, policy: Policy) -> tuple[Message, Message]:  # noqa: ARG001
    content = {"providers": {}, "projects": {}, "remote_access_allowed": False}
    if context.path.endswith("/providers"):
        content = {"providers": [], "resolved": None, "gateway_vendor_options": {}}
    return json_response(200, content)
