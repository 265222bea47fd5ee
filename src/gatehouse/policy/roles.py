"""Who has which role: what each role may do, and the rules of one environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from gatehouse.operations.classes import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatehouse.policy.identity import Identity


class Role(IntEnum):
    """What somebody may do; each role includes the ones before it."""

    NONE = 0
    VIEWER = 1
    EDITOR = 2
    ADMIN = 3

    def __str__(self) -> str:
        return self.name.lower()

    def may(self, access: Access) -> bool:
        """Return whether the role suffices; for what is closed, none does."""
        return access is not Access.CLOSED and self >= access


#: The role that each class of operations needs.
NEEDED: Mapping[Access, Role] = {
    Access.READ: Role.VIEWER,
    Access.WRITE: Role.EDITOR,
    Access.ADMIN: Role.ADMIN,
}


@dataclass(frozen=True)
class Policy:
    """The rules of one environment.

    The most specific rule decides: an account by name; else its domain; else the default. A group can lift
    the result and never lower it, because a client can make its groups vanish from a request (see
    :mod:`gatehouse.pipeline.authentication`).
    """

    accounts: Mapping[str, Role] = field(default_factory=dict)
    domains: Mapping[str, Role] = field(default_factory=dict)
    groups: Mapping[str, Role] = field(default_factory=dict)
    default: Role = Role.NONE
    #: For service accounts that no rule names: one of any project could be among them.
    default_service_account: Role = Role.NONE
    #: Accounts that the policy names as service accounts, beside those of Google.
    service_accounts: frozenset[str] = frozenset()
    #: (issuer's name, subject) → role.
    machines: Mapping[tuple[str, str], Role] = field(default_factory=dict)
    #: (issuer's name, beginning of the subject) → role; the longest one decides.
    machine_patterns: Mapping[tuple[str, str], Role] = field(default_factory=dict)
    contact: str | None = None
    #: What a refusal adds, for instance how to name an administrator.
    hint: str | None = None

    def role_of(self, identity: Identity) -> Role:
        """Return the role of a verified identity."""
        if identity.issuer is not None:
            return self._role_of_machine(identity.issuer, identity)
        named = self.accounts.get(identity.email)
        if named is not None:
            return named
        default = self.default_service_account if self.is_service_account(identity) else self.default
        role = self.domains.get(identity.domain, default)
        return max([role, *(self.groups[group] for group in identity.groups if group in self.groups)])

    def _role_of_machine(self, issuer: str, identity: Identity) -> Role:
        """Return the role of a machine, which has none by an address, a domain or the default."""
        named = self.machines.get((issuer, identity.subject))
        if named is not None:
            return named
        fitting = [
            (len(prefix), role)
            for (name, prefix), role in self.machine_patterns.items()
            if name == issuer and identity.subject.startswith(prefix)
        ]
        role = max(fitting)[1] if fitting else Role.NONE
        return max([role, *(self.groups[group] for group in identity.groups if group in self.groups)])

    def kind_of(self, identity: Identity) -> str:
        """Return what sort of account it is, in words."""
        if identity.issuer is not None:
            return "machine"
        return "service account" if self.is_service_account(identity) else "person"

    def is_service_account(self, identity: Identity) -> bool:
        """Return whether the identity is a service account's."""
        return identity.is_service_account or identity.email in self.service_accounts


#: Without a policy, whoever the proxy lets in works, and nobody administers.
OPEN_TO_EDITORS = Policy(
    default=Role.EDITOR,
    default_service_account=Role.EDITOR,
    hint="There is no access policy, so nobody is an admin: name one in a file and set ACCESS_POLICY to it.",
)
