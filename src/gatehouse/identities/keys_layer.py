"""``/gatehouse/keys``: people make keys for their programs, list them, and revoke them."""

from __future__ import annotations

import asyncio
import datetime
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

from gatehouse.bodies.reader import BadBody, Disconnected
from gatehouse.bodies.rules import Kind, Rule
from gatehouse.identities import keys
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.policy.roles import Role
from gatehouse.request.responses import error_response, json_response, send_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Message, Send

    from gatehouse.audit.log import AuditLog
    from gatehouse.bodies.reader import Bodies
    from gatehouse.policy.roles import Policy
    from gatehouse.policy.source import PolicySource
    from gatehouse.request.context import Context, Handler

PATH = "/gatehouse/keys"
_ONE = re.compile(rf"{PATH}/([0-9a-f]{{12}})")
_BODY = Rule(Kind.JSON, 4096, 50)
_ROLES = {str(role): role for role in Role}


class Store(Protocol):
    """What is done with stored keys (:class:`gatehouse.database.keys.KeyTable`); calls block."""

    def listed(self, owner: str | None = None) -> Sequence[Any]:
        """Return somebody's keys, or all."""

    def add(self, key: Any, digest: str) -> None:
        """Store a new key."""

    def revoke(self, key_id: str, owner: str | None = None) -> Any:
        """End a key."""


class KeysLayer:
    """Layer: answers what is asked about keys, and passes everything else on.

    Args:
        app: the next layer.
        store: where keys are stored.
        known: the keys that this process has looked up.
        policy: who has which role.
        bodies: reads the request.
        log: the audit log; no key is made while it can't be written.
        new: makes the record of a key.
        problem: what the store raises if it can't.
    """

    def __init__(
        self,
        app: Handler,
        store: Store,
        known: keys.Keys,
        policy: PolicySource,
        bodies: Bodies,
        log: AuditLog,
        new: Callable[..., Any],
        problem: type[Exception],
    ) -> None:
        self._app = app
        self._store = store
        self._known = known
        self._policy = policy
        self._bodies = bodies
        self._log = log
        self._new = new
        self._problem = problem

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        one = _ONE.fullmatch(context.path)
        if context.path != PATH and one is None:
            await self._app(context, send)
            return
        policy = await self._policy.current()
        context.role = policy.role_of(context.who)
        context.kind = policy.kind_of(context.who)
        try:
            messages = await self._answer(context, policy, one[1] if one else None)
        except Disconnected:
            return
        except BadBody as error:
            context.refusal = str(error)
            messages = error.answer
        except ValueError as error:
            messages = error_response(400, "INVALID_PARAMETER_VALUE", str(error))
        except self._problem as error:
            messages = error_response(400, "INVALID_PARAMETER_VALUE", str(error))
        await send_all(send, messages)

    async def _answer(self, context: Context, policy: Policy, key_id: str | None) -> tuple[Message, Message]:
        verb = (context.method, key_id is not None)
        action = {("GET", False): "list_keys", ("POST", False): "create_key", ("DELETE", True): "revoke_key"}.get(verb)
        if action is None:
            return error_response(405, "BAD_REQUEST", f"GET and POST {PATH}, DELETE {PATH}/ID.")
        context.route = Route(action, Access.READ if action == "list_keys" else Access.WRITE, {})
        # The best that somebody has in any workspace: for each request, the role there counts, and the key's.
        most = policy.best_role_of(context.who)
        if refusal := _refusal(context, action, most):
            context.refusal = refusal
            return error_response(403, "PERMISSION_DENIED", refusal)
        owner = None if context.role is Role.ADMIN else context.who.email
        if action == "list_keys":
            found = await asyncio.to_thread(self._store.listed, owner)
            return json_response(200, {"keys": [_told(key) for key in found]})
        if not await self._log.ready():
            text = "The audit log can't be written, so this server takes no writes."
            return error_response(503, "TEMPORARILY_UNAVAILABLE", text)
        if key_id is not None:
            context.add_objects([("key", key_id)])
            context.begin()
            key = await asyncio.to_thread(self._store.revoke, key_id, owner)
            self._known.forget(key_id)
            return json_response(200, {"id": key_id, "name": key.name, "owner": key.owner})
        return await self._create(context, most)

    async def _create(self, context: Context, most: Role) -> tuple[Message, Message]:
        if not context.header(b"content-type").startswith(b"application/json"):
            raise ValueError("Send JSON, with Content-Type: application/json.")
        name, role, days = keys.parse_request(await self._bodies.read(context, _BODY))
        context.add_objects([("key", name)])
        if _ROLES[role] > most:
            context.refusal = f"Your role here is {most}, and a key has at most its maker's role."
            return error_response(403, "PERMISSION_DENIED", context.refusal)
        secret = keys.make()
        now = int(time.time())
        who = context.who
        key = self._new(
            id=secrets.token_hex(6), name=name, owner=who.email, subject=who.subject, groups=who.groups,
            role=int(_ROLES[role]), created=now, expires=now + days * 86400, used=None, revoked=None,
        )  # fmt: skip
        context.begin()
        await asyncio.to_thread(self._store.add, key, keys.digest(secret))
        return json_response(200, {**_told(key), "key": secret})


def _refusal(context: Context, action: str, most: Role) -> str | None:
    """Return why somebody may have nothing to do with keys; None if that isn't so."""
    if context.who.key is not None:
        return "A key makes, lists and revokes no keys: come in with a token of your own."
    if context.who.issuer is not None:
        return "A machine has a token of its own platform, and needs no key."
    if action == "create_key" and most is Role.NONE:
        return f"{context.who.email} has no role here, and a key has at most its maker's."
    return None


def _told(key: Any) -> dict[str, Any]:
    """Return what is told of a key: everything but its secret."""

    def moment(seconds: int | None) -> str | None:
        if seconds is None:
            return None
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="seconds")

    return {
        "id": key.id, "name": key.name, "owner": key.owner, "role": str(Role(key.role)),
        "state": key.state(time.time()), "created": moment(key.created), "expires": moment(key.expires),
        "last_used": moment(key.used),
        "revoked": moment(key.revoked),
    }  # fmt: skip
