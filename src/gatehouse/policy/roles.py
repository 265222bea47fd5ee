"""Who has which role: what each role may do, and the rules of one environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
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


#: MLflow's name of the workspace that is always there; without workspaces it is the only one.
DEFAULT_WORKSPACE = "default"


#: What MLflow takes as the name of a workspace (``WorkspaceNameValidator``); tests/teams/test_policy.py compares.
_WORKSPACE = re.compile(r"[a-z0-9][-a-z0-9]{0,61}[a-z0-9]")
#: MLflow's own words, which can't name one.
RESERVED_WORKSPACES = frozenset({"workspaces", "api", "ajax-api", "static-files"})


#: How a member ``kubernetes:NAMESPACE/NAME`` is kept: as an issuer's subject.
_KUBERNETES = "kubernetes#system:serviceaccount:"


def is_workspace_name(name: str) -> bool:
    """Return whether MLflow takes this as the name of a workspace."""
    return bool(_WORKSPACE.fullmatch(name)) and name not in RESERVED_WORKSPACES


@dataclass(frozen=True)
class Reason:
    """Why somebody has a role: the rule as the policy writes it, and its line in the file where that is known."""

    role: Role
    rule: str
    line: int | None = None


def capped(role: Role, identity: Identity) -> Role:
    """Return a role, or a lower one where a key came that may less than its owner."""
    return role if identity.key_role is None else min(role, Role(identity.key_role))


@dataclass(frozen=True)
class Rules:
    """Who has which role in one place: the server with its workspace ``default``, or another workspace.

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
    #: (issuer's name, subject) → role.
    machines: Mapping[tuple[str, str], Role] = field(default_factory=dict)
    #: (issuer's name, beginning of the subject) → role; the longest one decides.
    machine_patterns: Mapping[tuple[str, str], Role] = field(default_factory=dict)
    #: (kind, name) of a member, or ("default", ""), → the line of the policy file.
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)

    def role_for(self, identity: Identity, is_service_account: bool) -> Role:
        """Return the role of a verified identity, by these rules alone; of a key, at most the key's."""
        return capped(self._by_rules(identity, is_service_account), identity)

    def _by_rules(self, identity: Identity, is_service_account: bool) -> Role:
        if identity.issuer is not None:
            return self._role_of_machine(identity.issuer, identity)
        named = self.accounts.get(identity.email)
        if named is not None:
            return named
        default = self.default_service_account if is_service_account else self.default
        role = self.domains.get(identity.domain, default)
        return max([role, *(self.groups[group] for group in identity.groups if group in self.groups)])

    def _role_of_machine(self, issuer: str, identity: Identity) -> Role:
        """Return the role of a machine, which has none by an address, a domain or the default."""
        named = self.machines.get((issuer, identity.subject))
        if named is not None:
            return named
        role = self.machine_patterns[found] if (found := self._pattern_for(issuer, identity)) else Role.NONE
        return max([role, *(self.groups[group] for group in identity.groups if group in self.groups)])

    def _pattern_for(self, issuer: str, identity: Identity) -> tuple[str, str] | None:
        """Return the longest pattern that fits a machine's subject."""
        fitting = [
            (name, prefix)
            for name, prefix in self.machine_patterns
            if name == issuer and identity.subject.startswith(prefix)
        ]
        return max(fitting, key=lambda found: len(found[1]), default=None)

    def reason_for(self, identity: Identity, is_service_account: bool) -> Reason:
        """Return the role with the rule that decided it."""
        role = self.role_for(identity, is_service_account)
        if identity.issuer is not None:
            if (identity.issuer, identity.subject) in self.machines:
                return self._reason("machine", f"{identity.issuer}#{identity.subject}", role)
            found = Reason(Role.NONE, "no rule")
            if pattern := self._pattern_for(identity.issuer, identity):
                found = self._reason("machine", f"{pattern[0]}#{pattern[1]}*", self.machine_patterns[pattern])
        elif identity.email in self.accounts:
            return self._reason(self._kind_of_account(identity.email), identity.email, role)
        elif identity.domain in self.domains:
            found = self._reason("domain", identity.domain, self.domains[identity.domain])
        elif is_service_account:
            found = Reason(self.default_service_account, "a service account that no rule names")
        else:
            found = self._reason("default", "", self.default)
        for group in identity.groups:
            if role > found.role and role is self.groups.get(group):
                found = self._reason("group", group, role)
        return found

    def listed(self) -> list[Reason]:
        """Return every rule with its role, the highest role first, and the default last."""
        found = [self._reason(self._kind_of_account(name), name, role) for name, role in self.accounts.items()]
        found += [self._reason("domain", name, role) for name, role in self.domains.items()]
        found += [self._reason("group", name, role) for name, role in self.groups.items()]
        found += [self._reason("machine", f"{i}#{subject}", role) for (i, subject), role in self.machines.items()]
        found += [self._reason("machine", f"{i}#{text}*", role) for (i, text), role in self.machine_patterns.items()]
        found.sort(key=lambda each: (-each.role, each.line or 0, each.rule))
        return [*found, self._reason("default", "", self.default)]

    def _kind_of_account(self, name: str) -> str:
        return "serviceAccount" if ("serviceAccount", name) in self.lines else "user"

    def _reason(self, kind: str, name: str, role: Role) -> Reason:
        """Return a rule as the policy writes it, with its line."""
        rule = f"default: {role}" if kind == "default" else f"{kind}:{name}"
        if kind == "machine" and name.startswith(_KUBERNETES):
            rule = "kubernetes:" + name.removeprefix(_KUBERNETES).replace(":", "/", 1)
        return Reason(role, rule, self.lines.get((kind, name)))

    @property
    def gives_admin(self) -> bool:
        """Whether any rule makes somebody an administrator."""
        people = (*self.accounts.values(), *self.domains.values(), *self.groups.values(), self.default)
        return Role.ADMIN in (*people, *self.machines.values(), *self.machine_patterns.values())


@dataclass(frozen=True)
class Policy(Rules):
    """The rules of one environment.

    What it inherits from :class:`Rules` are those of the server, which are those of the workspace ``default`` too. An
    admin by them is an admin in every workspace; no other role reaches beyond ``default``.
    """

    #: The rules of each further workspace, by its name.
    workspaces: Mapping[str, Rules] = field(default_factory=dict)
    #: Whether the policy has a section for workspaces, which switches them on.
    has_workspaces: bool = False
    #: Accounts that the policy names as service accounts, beside those of Google.
    service_accounts: frozenset[str] = frozenset()
    contact: str | None = None
    #: What a refusal adds, for instance how to name an administrator.
    hint: str | None = None

    def role_of(self, identity: Identity) -> Role:
        """Return the role of a verified identity on the server, and in its workspace ``default``."""
        return self.role_for(identity, self.is_service_account(identity))

    def role_in(self, identity: Identity, workspace: str) -> Role:
        """Return the role of a verified identity in a workspace, whether or not there is one of that name."""
        is_service_account = self.is_service_account(identity)
        servers = self._by_rules(identity, is_service_account)
        if workspace == DEFAULT_WORKSPACE or servers is Role.ADMIN:
            return capped(servers, identity)
        rules = self.workspaces.get(workspace)
        return rules.role_for(identity, is_service_account) if rules else Role.NONE

    def reason_in(self, identity: Identity, workspace: str) -> Reason:
        """Return the role in a workspace with the rule that decided it; of a key, at most the key's."""
        owner = replace(identity, key=None, key_role=None)
        found = self._reason_in(owner, workspace)
        return replace(found, role=capped(found.role, identity))

    def _reason_in(self, identity: Identity, workspace: str) -> Reason:
        is_service_account = self.is_service_account(identity)
        servers = self.reason_for(identity, is_service_account)
        if workspace == DEFAULT_WORKSPACE or servers.role is Role.ADMIN:
            return servers
        rules = self.workspaces.get(workspace)
        return rules.reason_for(identity, is_service_account) if rules else Reason(Role.NONE, "no rule")

    def roles_of(self, identity: Identity) -> dict[str, Role]:
        """Return the workspaces in which the policy gives somebody a role, with it; ``default`` comes first."""
        roles = {name: self.role_in(identity, name) for name in (DEFAULT_WORKSPACE, *sorted(self.workspaces))}
        return {name: role for name, role in roles.items() if role is not Role.NONE}

    def best_role_of(self, identity: Identity) -> Role:
        """Return the highest role that somebody has in any workspace."""
        return max(self.roles_of(identity).values(), default=Role.NONE)

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
