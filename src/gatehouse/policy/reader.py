"""Reads an access policy, a YAML file: checked whole, every problem told with its line and the fix.

The members are written as in Google's IAM (``user:``, ``serviceAccount:``, ``domain:``, ``group:``), and machines by
who vouches for them (``machine:ISSUER#SUBJECT``, ``kubernetes:NAMESPACE/NAME``). See
docs/access.md for the format, and docs/decisions/ for why a rule may be lifted by a group but never lowered
by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import yaml

from gatehouse.policy.identity import OPEN_DOMAINS
from gatehouse.policy.roles import DEFAULT_WORKSPACE, RESERVED_WORKSPACES, Policy, Role, Rules, is_workspace_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROLES = {str(role): role for role in Role}
_KINDS = ("user", "serviceAccount", "domain", "group", "machine", "kubernetes")
#: The roles that have members.
_MEMBERS = ("viewer", "editor", "admin")
_ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,31}")
_EMAIL = re.compile(r"[^\s@,:]+@[^\s@,:]+")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z0-9]")
_MAX_BYTES = 1024 * 1024
#: The one APP_ENV that needs no section of its own: the default.
UNNAMED_ENVIRONMENT = "development"


@dataclass(frozen=True)
class PolicyProblem:
    """One thing that is wrong with a policy: the file with the line, what, and the fix."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    fix: {self.fix}"


class Vouching(Protocol):
    """Who vouches for machines (:class:`gatehouse.identities.issuers.Issuer`)."""

    @property
    def name(self) -> str:
        """What the policy calls it."""

    @property
    def url(self) -> str:
        """The ``iss`` of its tokens."""

    def pattern(self, text: str) -> str | None:
        """Return the beginning that a subject with a ``*`` at its end stands for; None where that isn't safe."""


class PolicyError(Exception):
    """The policy can't be used; ``problems`` lists all that is wrong with it."""

    def __init__(self, problems: list[PolicyProblem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class _Reader:
    """Reads one policy file and gathers every problem."""

    def __init__(self, name: str, issuers: Sequence[Vouching] | None = None) -> None:
        self.name = name
        self.issuers = issuers
        self.problems: list[PolicyProblem] = []
        self.kinds: dict[str, tuple[str, int]] = {}

    def wrong(self, node: yaml.Node | None, what: str, fix: str) -> None:
        where = f"{self.name}:{node.start_mark.line + 1}" if node is not None else self.name
        self.problems.append(PolicyProblem(where, what, fix))

    def mapping(
        self, node: yaml.Node, what: str, known: tuple[str, ...] | None
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the entries of a mapping by key: (node of the key, node of the value)."""
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"{what} isn't a mapping", f"write `name: value` lines{_of(known)}")
            return entries
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or (known is not None and name not in known):
                self.wrong(key, f"{what} has the unknown key {name!r}", f"use{_of(known, ' one of')}")
            elif name in entries:
                first = entries[name][0].start_mark.line + 1
                self.wrong(key, f"{name!r} is there twice (first in line {first})", "keep one of them")
            else:
                entries[name] = (key, value)
        return entries

    def text(self, node: yaml.Node, what: str, fix: str) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" and node.value:
            return str(node.value)
        self.wrong(node, f"{what} isn't a text", fix)
        return None

    def section(self, entries: dict[str, tuple[yaml.Node, yaml.Node]], node: yaml.Node, what: str) -> Policy:
        """Return the rules of one environment."""
        #: An address is a person's or a service account's wherever it stands in this section.
        self.kinds = {}
        default = self.default(entries, what)
        if "default" not in entries:
            self.wrong(
                node,
                f"{what} has no default role",
                "add `default: none`, or `default: viewer` if everybody may look",
            )
        roles = self.mapping(entries["roles"][1], "roles", _MEMBERS) if "roles" in entries else {}
        rules = self.rules(entries, roles, default)
        workspaces: dict[str, Rules] = {}
        if "workspaces" in entries:
            prefix = "workspaces" if what == "the policy" else f"{what}/workspaces"
            for name, (key, value) in self.mapping(entries["workspaces"][1], prefix, None).items():
                self.check_workspace(key, name)
                inner = self.mapping(value, f"{prefix}/{name}", ("default", *_MEMBERS))
                members = {role: inner[role] for role in _MEMBERS if role in inner}
                workspaces[name] = self.rules(inner, members, self.default(inner, f"{prefix}/{name}"))
        return Policy(
            **rules.__dict__,
            workspaces=workspaces,
            has_workspaces="workspaces" in entries,
            service_accounts=frozenset(name for name, (kind, _) in self.kinds.items() if kind == "serviceAccount"),
        )

    def default(self, entries: dict[str, tuple[yaml.Node, yaml.Node]], what: str) -> Role:
        """Return the role of people whom no rule names: none, if the entries don't say."""
        if "default" not in entries:
            return Role.NONE
        value = entries["default"][1]
        name = self.text(value, f"the default role of {what}", _fix_roles())
        if name is not None and name not in _ROLES:
            self.wrong(value, f"{name!r} isn't a role", _fix_roles())
        return _ROLES.get(name or "", Role.NONE)

    def check_workspace(self, node: yaml.Node, name: str) -> None:
        """Refuse a name that MLflow would refuse, or that has its rules elsewhere."""
        if name == DEFAULT_WORKSPACE:
            fix = "write them as `roles` and `default` above: those are the rules of this workspace"
            self.wrong(node, f"the workspace {name!r} has its rules in two places", fix)
        elif name in RESERVED_WORKSPACES:
            self.wrong(node, f"{name!r} is a word of MLflow's own, and can't name a workspace", "choose another name")
        elif not is_workspace_name(name):
            fix = "use 2 to 63 small letters, digits and hyphens, with no hyphen at either end"
            self.wrong(node, f"{name!r} can't name a workspace", fix)

    def rules(
        self,
        entries: dict[str, tuple[yaml.Node, yaml.Node]],
        roles: dict[str, tuple[yaml.Node, yaml.Node]],
        default: Role,
    ) -> Rules:
        """Return the rules of one place, from the members of each role."""
        rules: dict[str, dict[str, tuple[Role, yaml.Node]]] = {kind: {} for kind in _KINDS}
        for role_name, (_, members) in roles.items():
            if not isinstance(members, yaml.SequenceNode):
                self.wrong(members, f"the members of {role_name} aren't a list", "write one `- user:…` a line, or []")
                continue
            for member in members.value:
                self.member(rules, _ROLES[role_name], member)
        lines = {(kind, name): node.start_mark.line + 1 for kind in _KINDS for name, (_, node) in rules[kind].items()}
        if "default" in entries:
            lines["default", ""] = entries["default"][0].start_mark.line + 1
        found = Rules(
            accounts={name: role for kind in ("user", "serviceAccount") for name, (role, _) in rules[kind].items()},
            domains={name: role for name, (role, _) in rules["domain"].items()},
            groups={name: role for name, (role, _) in rules["group"].items()},
            default=default,
            lines=lines,
        )
        return self.machines(rules["machine"], found)

    def machines(self, rules: dict[str, tuple[Role, yaml.Node]], place: Rules) -> Rules:
        """Return the rules of one place with those on machines."""
        exact: dict[tuple[str, str], Role] = {}
        patterns: dict[tuple[str, str], Role] = {}
        # By the issuer's name, whichever way the member calls it.
        lines = {key: line for key, line in place.lines.items() if key[0] != "machine"}
        for name, (role, node) in rules.items():
            given, _, subject = name.partition("#")
            issuer = next((i for i in self.issuers or () if given in {i.name, i.url}), None)
            if issuer is None:
                if self.issuers is not None:
                    named = ", ".join(i.name for i in self.issuers) or "none"
                    fix = f"name it in MACHINE_ISSUERS, or correct the member (there are: {named})"
                    self.wrong(node, f"no issuer is called {given!r}", fix)
                continue
            found, text = exact, subject
            if subject.endswith("*"):
                prefix = issuer.pattern(subject)
                if prefix is None:
                    fix = "write the subject out; docs/machines.md lists what may end in *"
                    self.wrong(node, f"{name!r} could mean subjects that somebody else chooses", fix)
                    continue
                found, text = patterns, prefix
            if (issuer.name, text) in found:
                self.wrong(node, f"{name!r} is there twice, by another name of its issuer", "keep one of them")
            found[issuer.name, text] = role
            lines["machine", f"{issuer.name}#{subject}"] = node.start_mark.line + 1
        return replace(place, machines=exact, machine_patterns=patterns, lines=lines)

    def member(self, rules: dict[str, dict[str, tuple[Role, yaml.Node]]], role: Role, node: yaml.Node) -> None:
        """Add one member of a role to the rules."""
        fix = (
            "write user:ADDRESS, serviceAccount:ADDRESS, domain:DOMAIN or group:NAME, with no space in it, or "
            "machine:ISSUER#SUBJECT or kubernetes:NAMESPACE/NAME"
        )
        text = self.text(node, "the member", fix)
        if text is None:
            return
        kind, colon, name = text.partition(":")
        if kind not in _KINDS or not colon or not name or name != name.strip():
            self.wrong(node, f"{text!r} isn't a member", fix)
            return
        if kind == "kubernetes":
            namespace, slash, account = name.partition("/")
            if not slash or not re.fullmatch(r"[a-z0-9-]+", namespace) or not re.fullmatch(r"[a-z0-9.-]+|\*", account):
                self.wrong(node, f"{text!r} names no service account", "write kubernetes:NAMESPACE/NAME")
                return
            kind, name = "machine", f"kubernetes#system:serviceaccount:{namespace}:{account}"
        if kind == "machine":
            given, sign, subject = name.partition("#")
            if not given or not sign or not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", subject):
                self.wrong(node, f"{text!r} names no machine", "write machine:ISSUER#SUBJECT, in ASCII")
                return
        elif kind != "group":
            # As the identity: ASCII letters only, so that no other letter folds onto another address.
            name = name.encode().lower().decode()
        if kind in {"user", "serviceAccount"}:
            google = name.endswith(".gserviceaccount.com")
            if not _EMAIL.fullmatch(name):
                self.wrong(node, f"{name!r} isn't an e-mail address", f"write {kind}:NAME@DOMAIN")
                return
            if kind == "user" and google:
                self.wrong(node, f"{name} is a service account", f"write serviceAccount:{name}")
                return
        elif kind == "domain":
            if not _DOMAIN.fullmatch(name):
                self.wrong(
                    node,
                    f"{name!r} isn't a domain",
                    "write domain:example.com (without @, *, and a leading dot)",
                )
                return
            if name in OPEN_DOMAINS:
                fix = "name the accounts, or write domain:PROJECT.iam.gserviceaccount.com for a project's own"
                self.wrong(node, f"anybody can have an account at {name}", fix)
                return
        elif kind == "group" and "," in name:
            self.wrong(node, f"{name!r} has a comma, and the proxy joins groups with commas", "rename the group")
            return
        other = {"user": "serviceAccount", "serviceAccount": "user"}.get(kind, kind)
        first = rules[kind].get(name) or rules[other].get(name)
        if first:
            self.wrong(
                node,
                f"{text} is there twice (first in line {first[1].start_mark.line + 1})",
                "keep the one that you mean",
            )
            return
        rules[kind][name] = (role, node)
        if kind in {"user", "serviceAccount"}:
            known, line = self.kinds.setdefault(name, (kind, node.start_mark.line + 1))
            if known != kind:
                self.wrong(node, f"{name} is a {known} in line {line} and a {kind} here", "write the same kind in both")

    def read(self, content: bytes, environment: str) -> Policy:
        """Return the policy for an environment; raise PolicyError."""
        if len(content) > _MAX_BYTES:
            self.wrong(None, "is larger than 1 MiB", "give groups or domains instead of so many members")
            raise PolicyError(self.problems)
        try:
            text = content.decode("utf-8-sig")
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
                self.wrong(None, "has an alias (*name)", "write the list out")
                raise PolicyError(self.problems)
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError:
            self.wrong(None, "isn't UTF-8 text", "save it as UTF-8")
            raise PolicyError(self.problems) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            what = f"isn't YAML: {error.problem or error.context}"
            raise PolicyError([PolicyProblem(where, what, "correct the syntax in or above this line")]) from None
        except (yaml.YAMLError, RecursionError) as error:
            fix = "see docs/access.md for an example"
            raise PolicyError([PolicyProblem(self.name, f"isn't YAML: {error}", fix)]) from None
        if root is None:
            self.wrong(None, "is empty", "see docs/access.md for an example")
            raise PolicyError(self.problems)
        entries = self.mapping(root, "the policy", ("contact", "default", "roles", "workspaces", "environments"))
        base = self.section(entries, root, "the policy")
        contact = None
        if "contact" in entries:
            contact = self.text(
                entries["contact"][1], "contact", "write whom a refusal tells people to ask, in one line"
            )
        sections: dict[str, Policy] = {}
        if "environments" in entries:
            for name, (key, value) in self.mapping(entries["environments"][1], "environments", None).items():
                if not _ENVIRONMENT.fullmatch(name):
                    self.wrong(key, f"{name!r} can't be an APP_ENV", "use small letters, digits and hyphens")
                inner = self.mapping(value, f"environments/{name}", ("default", "roles", "workspaces"))
                sections[name] = self.section(inner, key, f"environments/{name}")
            if environment not in {*sections, UNNAMED_ENVIRONMENT}:
                # A misspelt name would otherwise fall back to the rules of the development environment.
                fix = f"add it, or correct APP_ENV (there are: {', '.join(sections) or 'none'})"
                self.wrong(entries["environments"][0], f"there is no section for APP_ENV={environment}", fix)
        if self.problems:
            raise PolicyError(self.problems)
        chosen = sections.get(environment, base)
        return Policy(**{**chosen.__dict__, "contact": contact})


def _of(names: tuple[str, ...] | None, lead: str = " of") -> str:
    return f"{lead} {', '.join(names)}" if names else ""


def _fix_roles() -> str:
    return f"use one of {', '.join(_ROLES)}"


def parse(content: bytes, environment: str, name: str = "policy", issuers: Sequence[Vouching] | None = None) -> Policy:
    """Return the policy that applies in an environment (``APP_ENV``).

    Args:
        name: how problems call the file.
        issuers: who vouches for machines; None if that isn't known here, and then no machine has a role.

    Raises:
        PolicyError: with every problem found, in any environment's section.
    """
    return _Reader(name, issuers).read(content, environment)
