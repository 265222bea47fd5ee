"""What is known of one request: made once, when it comes in, and filled by the layers that it passes.

The layers pass it on, and the way to answer beside it; MLflow's own applications get ``context.scope`` and
``context.receive`` in the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import parse_qsl

from gatehouse.operations.classes import Access
from gatehouse.operations.table import SAFE_METHODS
from gatehouse.request.objects import named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

    from gatehouse.operations.router import Route
    from gatehouse.policy.identity import Identity
    from gatehouse.policy.roles import Role


class Crowded(Exception):
    """Too many requests of one identity wait already."""


class Held(Protocol):
    """Memory that is held for a request (:class:`gatehouse.bodies.budget.Reservation`)."""

    #: Bytes.
    held: int

    async def take(self, amount: int) -> None:
        """Hold so many bytes more."""


async def _at_once() -> None:
    pass


@dataclass(eq=False)
class Context:
    """One request: what came, who sent it, what it asks for, and what its audit line will say.

    A layer that changes the request for those behind it replaces :attr:`scope` or :attr:`receive`.
    """

    scope: Scope
    receive: Receive
    #: Whom the proxy vouches for, and by which way; None until AuthenticationLayer has verified it.
    identity: Identity | None = None
    #: The address of the client, as far as the trusted hops vouch for it.
    client_address: str | None = None
    #: When the browser's session ends, in seconds since the epoch; looked at for ``whoami`` alone.
    session_ends: float | None = None
    #: What the policy makes of the identity; None until somebody asked it.
    role: Role | None = None
    #: What sort of account it is, in words, as the policy sees it.
    kind: str | None = None
    #: The workspace that the request is for; None where workspaces are off. What the request itself named, if it did.
    workspace: str | None = None
    named_workspace: str | None = None
    #: Where MLflow's routers send the request; None until AccessLayer has asked them.
    route: Route | None = None
    #: The whole body, once it was read (:mod:`gatehouse.bodies`); None while it comes as a stream.
    body: bytes | None = None
    #: The memory that is held for the body.
    memory: Held | None = None
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
    #: Waits for the identity's share of the event loop, once; ShareLayer sets it. To be called when the body has come.
    enter: Callable[[], Awaitable[None]] = _at_once
    #: Gives that share back before the answer starts; ShareLayer sets it.
    leave: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        #: The request as it came, whatever layers make of it.
        self.arrived = self.scope

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
        """The verified identity; for layers behind AuthenticationLayer."""
        if self.identity is None:
            raise RuntimeError("this layer stands in front of AuthenticationLayer")
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
        for name, text in named(pairs):
            self.objects.setdefault(name, text)

    def query_parameters(self) -> list[tuple[str, str]]:
        """Return the parameters of the query, for :meth:`add_objects` to choose from."""
        query = self.scope.get("query_string", b"")
        return parse_qsl(query[:8192].decode("latin-1"), max_num_fields=None) if query else []


#: What serves a request: a layer, or MLflow.
Handler: TypeAlias = Callable[[Context, "Send"], Awaitable[None]]
