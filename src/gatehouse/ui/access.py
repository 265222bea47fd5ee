"""``GET /gatehouse/access``: who may do what here, and by which line of the policy; what was refused lately.

Read-only, in JSON, or as a page for a browser (``?format=json`` or ``html`` says which). An admin of the server is told
everything, an admin of a workspace what is that workspace's, and everybody else their own roles. What somebody else
could do (``?user=``, with ``&groups=``) is answered for the places that the asker administers.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gatehouse.audit.refusals import EACH, MOST
from gatehouse.policy.identity import Identity
from gatehouse.policy.roles import DEFAULT_WORKSPACE, Role
from gatehouse.request.responses import error_response, json_response, send_all, wants_page
from gatehouse.ui import access_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Message, Send

    from gatehouse.audit.refusals import Refusal, Refusals
    from gatehouse.policy.roles import Policy, Reason, Rules
    from gatehouse.policy.source import PolicySource
    from gatehouse.request.context import Context, Handler

PATH = "/gatehouse/access"
#: Characters of an account, and of a group; groups in one question.
_LONGEST, _MOST_GROUPS = 320, 100
_EMAIL = re.compile(r"[^\s@,:]+@[^\s@,:]+")
_KUBERNETES = re.compile(r"kubernetes:([a-z0-9-]+)/([a-z0-9.-]+)")
_MACHINE = re.compile(r"machine:([a-z][a-z0-9-]*)#(\S.*)")

#: What this page can't know.
LIMITS = (
    "Members of groups can't be listed: the identity provider states a person's groups when that person comes in, and "
    "tells nobody who else is in them.",
    "Who may come in at all is decided before any role: OAUTH2_PROXY_EMAIL_DOMAINS, and whom the identity provider "
    "knows.",
)


class BadQuestion(ValueError):
    """The question can't be answered; the text says why, and what to write."""


@dataclass(frozen=True)
class Question:
    """What could this account do, if the provider stated these groups?"""

    text: str
    identity: Identity


class AccessPageLayer:
    """Layer: answers who may do what, and passes everything else on.

    Args:
        app: the next layer.
        policy: who has which role.
        refusals: the latest ones.
        workspaces: returns the names of those that there are, and blocks; None where workspaces are off.
    """

    def __init__(
        self,
        app: Handler,
        policy: PolicySource,
        refusals: Refusals,
        workspaces: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._app = app
        self._policy = policy
        self._refusals = refusals
        self._workspaces = workspaces

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.path != PATH or context.method not in {"GET", "HEAD"}:
            await self._app(context, send)
            return
        policy = await self._policy.current()
        context.role = policy.role_in(context.who, context.workspace or DEFAULT_WORKSPACE)
        context.kind = policy.kind_of(context.who)
        administered = self._administered(policy, context.who)
        given = context.query_parameters()
        as_page = wants_page(context) if (form := dict(given).get("format")) is None else form == "html"
        question = problem = None
        try:
            question = _read(given)
        except BadQuestion as error:
            problem = str(error)
        if question and not administered:
            context.refusal = f"{context.who.email} is no admin here; what others could do is for admins."
            await send_all(send, error_response(403, "PERMISSION_DENIED", context.refusal))
            return
        if problem and not as_page:
            await send_all(send, error_response(400, "INVALID_PARAMETER_VALUE", problem))
            return
        refusals = await self._refusals.recent() if administered else []

        def answer() -> tuple[Message, Message]:
            report = self._report(context.who, policy, administered, question, refusals)
            if not as_page:
                return json_response(200, report)
            asked = {name: dict(given).get(name, "")[:_LONGEST] for name in ("user", "groups")}
            return access_page.page(400 if problem else 200, report, asked, problem)

        # A policy may have ten thousands of rules, and the database is asked.
        start, body = await asyncio.to_thread(answer)
        await send(start)
        await send({**body, "body": b""} if context.method == "HEAD" else body)

    def _administered(self, policy: Policy, who: Identity) -> list[str]:
        """Return the places that somebody administers; ``default`` stands for the server."""
        if policy.role_of(who) is Role.ADMIN:
            return [DEFAULT_WORKSPACE, *(sorted(policy.workspaces) if self._workspaces else ())]
        if self._workspaces is None:
            return []
        return [name for name in sorted(policy.workspaces) if policy.role_in(who, name) is Role.ADMIN]

    def _report(
        self,
        who: Identity,
        policy: Policy,
        administered: Sequence[str],
        question: Question | None,
        refusals: Sequence[Refusal],
    ) -> dict[str, Any]:
        """Return all that somebody is told."""
        is_servers = DEFAULT_WORKSPACE in administered
        own = [DEFAULT_WORKSPACE]
        if self._workspaces:
            own += [name for name in policy.roles_of(who) if name != DEFAULT_WORKSPACE]
        report: dict[str, Any] = {
            "you": {
                "email": who.email,
                "kind": policy.kind_of(who),
                "key": who.key,
                "key_role": None if who.key_role is None else str(Role(who.key_role)),
                "groups": list(who.groups),
                "roles": [self._row(policy, who, name) for name in own],
            },
            "workspaces_on": self._workspaces is not None,
            "contact": policy.contact,
            "hint": policy.hint,
            "limits": list(LIMITS),
        }
        if not administered:
            return report
        there = self._there()
        report["administers"] = "server" if is_servers else "workspaces"
        if is_servers:
            report["policy"] = {
                "file": str(self._policy.path) if self._policy.path else None,
                "looked_at_s_ago": None if self._policy.age is None else round(self._policy.age),
                "problem": self._policy.problem or None,
            }
        report["places"] = [self._place(policy, name, there) for name in administered]
        if is_servers and there:
            others = sorted(set(there) - set(policy.workspaces) - {DEFAULT_WORKSPACE})
            report["places"] += [{"workspace": name, "there": True, "declared": False, "rules": []} for name in others]
        if question:
            report["question"] = {
                "user": question.text,
                "groups": list(question.identity.groups),
                "roles": [
                    {
                        **self._row(policy, question.identity, name, tells_server=is_servers),
                        "lifted_by": self._lifting(policy, question.identity, name),
                    }
                    for name in administered
                ],
            }
        shown = [each for each in refusals if is_servers or (each.within and each.workspace in administered)]
        report["refusals"] = {
            "since": _moment(self._refusals.since),
            "covers": (
                "This instance alone, since it started; other instances have their own. At most "
                f"{MOST} entries, {EACH} of them of one identity, older ones make way; other workers' come up to a "
                "second late. Every refusal is in the audit log."
            ),
            "entries": [_told(each) for each in shown],
        }
        return report

    def _there(self) -> set[str] | None:
        """Return which workspaces there are; None if nobody knows, or there are none."""
        if self._workspaces is None:
            return None
        try:
            return set(self._workspaces())
        except Exception:  # whatever MLflow's store raises: the rest of the page is as good without it
            return None

    def _place(self, policy: Policy, name: str, there: set[str] | None) -> dict[str, Any]:
        rules: Rules = policy if name == DEFAULT_WORKSPACE else policy.workspaces[name]
        return {
            "workspace": name if self._workspaces else None,
            "there": name in there if there is not None and name != DEFAULT_WORKSPACE else None,
            "declared": True,
            "rules": [_reason(each) for each in rules.listed()],
        }

    def _row(self, policy: Policy, identity: Identity, name: str, *, tells_server: bool = True) -> dict[str, Any]:
        """Return somebody's role in one place, with the rule.

        Args:
            tells_server: whether a rule of the server is told; to a workspace's admin it is nothing.
        """
        through_server = name != DEFAULT_WORKSPACE and _is_servers_admin(policy, identity)
        told = _reason(policy.reason_in(identity, name))
        if through_server and not tells_server:
            told.update(rule=None, line=None)
        return {"workspace": name if self._workspaces else None, **told, "through_server": through_server}

    def _lifting(self, policy: Policy, identity: Identity, name: str) -> list[dict[str, Any]]:
        """Return the rules on groups that would give an account more, if the provider stated such a group."""
        rules: Rules = policy if name == DEFAULT_WORKSPACE else policy.workspaces[name]
        if identity.email in rules.accounts or (identity.issuer, identity.subject) in rules.machines:
            return []
        role = policy.role_in(identity, name)
        return [_reason(each) for each in rules.listed() if each.rule.startswith("group:") and each.role > role]


def _is_servers_admin(policy: Policy, identity: Identity) -> bool:
    """Return whether the rules of the server make somebody its admin, whatever a key of theirs may."""
    return policy.role_of(replace(identity, key=None, key_role=None)) is Role.ADMIN


def _read(parameters: Sequence[tuple[str, str]]) -> Question | None:
    """Return the question that a query asks, if it does.

    Raises:
        BadQuestion: if it can't be read.
    """
    given: dict[str, str] = {}
    for name, value in parameters:
        if name in given:
            raise BadQuestion(f"The parameter {name[:40]!r} is there twice.")
        given[name] = value.strip()
    if given.get("format") not in {None, "json", "html"}:
        raise BadQuestion("format is json or html.")
    groups = tuple(text.strip() for text in given.get("groups", "").split(",") if text.strip())
    if len(groups) > _MOST_GROUPS or any(len(text) > _LONGEST for text in groups):
        raise BadQuestion(f"groups are at most {_MOST_GROUPS}, of {_LONGEST} characters each, with commas in between.")
    return Question(text, _somebody(text, groups)) if (text := given.get("user", "")) else None


def _somebody(text: str, groups: tuple[str, ...]) -> Identity:
    """Return the identity that somebody would have.

    Raises:
        BadQuestion: if it is nobody's name.
    """
    if len(text) <= _LONGEST:
        if found := _KUBERNETES.fullmatch(text):
            subject = f"system:serviceaccount:{found[1]}:{found[2]}"
            return Identity(text, subject, groups, issuer="kubernetes")
        if found := _MACHINE.fullmatch(text):
            return Identity(text, found[2], groups, issuer=found[1])
        if _EMAIL.fullmatch(text):
            # As AuthenticationLayer: ASCII letters only, so that no other letter folds onto another address.
            return Identity(text.encode().lower().decode(), "", groups)
    raise BadQuestion(
        f"user is an e-mail address, machine:ISSUER#SUBJECT or kubernetes:NAMESPACE/NAME, of at most {_LONGEST} "
        "characters."
    )


def _reason(found: Reason) -> dict[str, Any]:
    return {"role": str(found.role), "rule": found.rule, "line": found.line}


def _told(refusal: Refusal) -> dict[str, Any]:
    return {
        "last": _moment(refusal.last),
        "first": _moment(refusal.first),
        "count": refusal.count,
        "identity": refusal.identity,
        "key": refusal.key,
        "workspace": refusal.workspace,
        "what": refusal.what,
        "status": refusal.status,
        "reason": refusal.reason,
        "request_id": refusal.request_id,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
