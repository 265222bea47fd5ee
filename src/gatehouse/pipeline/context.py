"""What is known of one request: made once, when it comes in, and filled by the layers that it passes.

The layers pass it on, and the way to answer beside it; MLflow's own applications get ``context.scope`` and
``context.receive`` in the end.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from gatehouse.operations.classes import Access
from gatehouse.operations.table import SAFE_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import Receive, Scope, Send

    from gatehouse.operations.router import Route
    from gatehouse.pipeline.budget import Reservation
    from gatehouse.policy.identity import Identity
    from gatehouse.policy.roles import Role

#: Characters of a name, and names in a list, that go into an audit line.
MAX_TEXT = 200
_MAX_LIST = 10

#: Names of things, as MLflow's requests call them, and as the audit line calls them.
_OBJECTS: Mapping[str, str] = {
    "alias": "alias",
    "artifact_path": "path",
    "assessment_id": "assessment_id",
    "budget_policy_id": "budget_policy_id",
    "dataset_id": "dataset_id",
    "endpoint_id": "endpoint_id",
    "endpoint_name": "endpoint",
    "experiment_id": "experiment_id",
    "experiment_ids": "experiment_id",
    "guardrail_id": "guardrail_id",
    "issue_id": "issue_id",
    "item_id": "item_id",
    "job_id": "job_id",
    "key": "key",
    "model_definition_id": "model_definition_id",
    "model_id": "model_id",
    "name": "name",
    "new_name": "new_name",
    "path": "path",
    "queue_id": "queue_id",
    "request_id": "trace_id",
    "request_ids": "trace_id",
    "run_id": "run_id",
    "run_uuid": "run_id",
    "schema_id": "schema_id",
    "secret_id": "secret_id",
    "secret_name": "secret",
    "stage": "stage",
    "tag_key": "key",
    "trace_id": "trace_id",
    "trace_ids": "trace_id",
    "version": "version",
    "webhook_id": "webhook_id",
    "workspace_name": "workspace",
}
_CAMEL = re.compile(r"(?<=[a-z])([A-Z])")
#: No field of MLflow's that names a thing is longer.
_MAX_FIELD = 64


@dataclass(eq=False)
class Context:
    """One request: what came, who sent it, what it asks for, and what its audit line will say.

    A layer that changes the request for those behind it replaces :attr:`scope` or :attr:`receive`.
    """

    scope: Scope
    receive: Receive
    #: Whom the proxy vouches for, and by which way; None until IdentityLayer has verified it.
    identity: Identity | None = None
    #: The address of the client, as far as the trusted hops vouch for it.
    client_address: str | None = None
    #: When the browser's session ends, in seconds since the epoch; looked at for ``whoami`` alone.
    session_ends: float | None = None
    #: What the policy makes of the identity; None until somebody asked it.
    role: Role | None = None
    is_service_account: bool = False
    #: Where MLflow's routers send the request; None until AccessLayer has asked them.
    route: Route | None = None
    #: The whole body, once it was read (:mod:`gatehouse.pipeline.body`); None while it comes as a stream.
    body: bytes | None = None
    #: The memory that is held for the body.
    memory: Reservation | None = None
    #: What ends with the request.
    exits: ExitStack = field(default_factory=ExitStack)
    #: Why Gatehouse refused, if it did.
    refusal: str | None = None
    #: The things that the request names, by their names in the audit line.
    objects: dict[str, str] = field(default_factory=dict)
    #: What a client claimed to be, where that isn't what is recorded.
    claimed: str | None = None
    #: Leaves the audit line of a write that can happen from now on; AuditLayer sets it.
    begin: Callable[[], None] = lambda: None

    @cached_property
    def request_id(self) -> str:
        """What ties the audit line, the answer's header and a refusal's text together."""
        return secrets.token_hex(8)

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """The path, decoded once."""
        return str(self.scope["path"])

    @property
    def who(self) -> Identity:
        """The verified identity; for layers behind IdentityLayer."""
        if self.identity is None:
            raise RuntimeError("this layer stands in front of IdentityLayer")
        return self.identity

    @property
    def key(self) -> str:
        """Whom this request counts for where requests share something; nobody in particular before it is verified."""
        return self.identity.email if self.identity else ""

    @property
    def operation(self) -> str | None:
        """MLflow's name of the operation, or None if none runs or nobody asked yet."""
        return self.route.operation if self.route else None

    @property
    def is_write(self) -> bool:
        """Whether it is more than a read; before its route is known, whether its method is a read's."""
        return self.route.access > Access.READ if self.route else self.method not in SAFE_METHODS

    def header(self, name: bytes) -> bytes:
        """Return the first header of a name (in small letters), or nothing; Starlette takes the first as well."""
        return next((value for found, value in self.scope["headers"] if found == name), b"")

    def add_objects(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Note the things that the request names; the first mention of each counts."""
        for key, value in pairs:
            if len(key) > _MAX_FIELD:
                continue
            name = _OBJECTS.get(key) or _OBJECTS.get(_CAMEL.sub(lambda found: "_" + found[1].lower(), key))
            if name and name not in self.objects and (text := _name(value)):
                self.objects[name] = text


#: What serves a request: a layer, or MLflow.
Handler: TypeAlias = Callable[[Context, "Send"], Awaitable[None]]


def _name(value: object) -> str:
    """Return the text of an identifier, or of a list of them, cut to size; empty if it is something else."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, int):
        # A longer one has no text (sys.set_int_max_str_digits), and names nothing.
        return str(value) if -(10**18) < value < 10**18 else ""
    if isinstance(value, list):
        texts = [text for item in value[:_MAX_LIST] if isinstance(item, str | int) and (text := _name(item))]
        more = f" and {len(value) - _MAX_LIST} more" if len(value) > _MAX_LIST else ""
        return (",".join(texts) + more)[: 2 * MAX_TEXT]
    return ""
