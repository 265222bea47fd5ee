"""The access page in HTML: what :mod:`gatehouse.ui.access` tells, as tables and one form, without a script.

Whatever comes from outside (names of accounts, groups, operations, reasons) goes through :func:`_said`: escaped, and
apart from the text around it, so that no name turns the direction of what follows it.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import TYPE_CHECKING, Any

from gatehouse.request.responses import response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from starlette.types import Message

_STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:5vh auto;max-width:60rem;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:1rem 0}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{text-align:left;vertical-align:top;padding:.25rem 1rem .25rem 0;border-bottom:1px solid;overflow-wrap:anywhere}
label{display:block;margin-top:.5rem}input{font:inherit;width:100%;max-width:30rem;box-sizing:border-box}
thead th,strong,td a{white-space:nowrap}
button{display:block;font:inherit;margin-top:.5rem;padding:.25rem 1rem}a{margin-right:1rem}td a,th a{margin:0}
:target{outline:2px solid}"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: One style, known by its hash; a form that goes nowhere else; nothing more.
CSP = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
).encode()
_HEADERS = (
    (b"content-security-policy", CSP),
    # The address may have somebody's name in it.
    (b"referrer-policy", b"no-referrer"),
)
#: Role → what it may, in words.
_MAY: Mapping[str, str] = {
    "none": "nothing",
    "viewer": "see everything here",
    "editor": "see and change everything here, and delete what can be restored",
    "admin": "all of it: delete for good, webhooks, gateway, jobs",
}


def page(
    status: int, report: Mapping[str, Any], asked: Mapping[str, str], problem: str | None = None
) -> tuple[Message, Message]:
    """Return the page.

    Args:
        status: the answer's.
        report: what is told, as in JSON.
        asked: what stands in the form's fields: ``user`` and ``groups``.
        problem: what is wrong with the question; None if nothing is.
    """
    lines = _lines_shown(report)
    sections = [("you", "Your roles", _you(report, lines))]
    if "places" in report:
        sections += [
            ("question", "What could somebody do?", _question(report, asked, problem, lines)),
            ("places", "Who has which role, by which rule", _places(report)),
            ("refusals", "Recent refusals", _refusals(report)),
        ]
    elif problem:
        sections.insert(0, ("problem", "This can't be answered", _alert(problem)))
    sections.append(("limits", "What this page can't tell", _paragraphs(report["limits"])))
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    parts = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{text}</section>'
        for name, title, text in sections
    )
    title = "Access: this can't be answered" if problem else "Access"
    body = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{title}</title><style>{_STYLE}</style></head><body>'
        f"<main><h1>Access</h1><p>Signed in as {_said(report['you']['email'])}. This page shows, and changes nothing. "
        '<a href="?format=json">The same in JSON</a></p>'
        f'<nav aria-label="On this page"><ul>{links}</ul></nav>{parts}</main>'
        '<footer><p><a href="/">MLflow</a><a href="/gatehouse/whoami">Who am I</a>'
        '<a href="/oauth2/sign_out?rd=%2F">Sign out</a></p></footer></body></html>\n'
    )
    return response(status, "text/html; charset=utf-8", body.encode("utf-8", "replace"), _HEADERS)


def _said(text: str) -> str:
    """Return somebody else's words, as text and nothing but text."""
    return f"<bdi>{html.escape(text)}</bdi>"


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _alert(problem: str) -> str:
    return f'<p role="alert" id="problem-text">{_said(problem)}</p>'


def _table(caption: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table, whose first column names the row.

    Args:
        caption: text.
        columns: the heads, as text.
        rows: the id of each, or nothing, and its cells as HTML.
    """
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    lines = [
        f'<tr{name and f" id={name!r}"}><th scope="row">{cells[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells[1:])
        + "</tr>"
        for name, cells in rows
    ]
    body = "".join(lines)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _lines_shown(report: Mapping[str, Any]) -> set[int]:
    """Return the policy's lines that have a row on this page."""
    return {each["line"] for place in report.get("places", ()) for each in place["rules"] if each["line"]}


def _line(number: int | None, shown: set[int]) -> str:
    if number is None:
        return ""
    return f'<a href="#line-{number}">line {number}</a>' if number in shown else f"line {number}"


def _place(name: str | None) -> str:
    if name is None:
        return "The server"
    return "The server and its workspace <bdi>default</bdi>" if name == "default" else f"Workspace {_said(name)}"


def _roles(caption: str, rows: Sequence[Mapping[str, Any]], shown: set[int]) -> str:
    """Return the table of somebody's roles."""
    found = []
    for each in rows:
        rule = "an admin of the server" if each["rule"] is None else _said(each["rule"])
        if each["through_server"] and each["rule"] is not None:
            rule += ", as an admin of the server"
        if lifting := each.get("lifted_by"):
            rules = "; ".join(f"{_said(one['rule'])} ({one['role']}, {_line(one['line'], shown)})" for one in lifting)
            rule += f"<br>More with a group: {rules}"
        role = f"<strong>{each['role']}</strong>"
        found.append(
            ("", [_place(each["workspace"]), role, _MAY[each["role"]], rule, _line(each["line"], shown)]),
        )
    return _table(caption, ["Where", "Role", "May", "By the rule", "Policy"], found)


def _you(report: Mapping[str, Any], shown: set[int]) -> str:
    you = report["you"]
    groups = ", ".join(_said(group) for group in you["groups"]) or "none"
    text = f"<p>You came in as a {you['kind']}. Groups that your provider stated: {groups}.</p>"
    if you["key"] is not None:
        text += f"<p>The key {_said(you['key'])} came in your place, and may at most what a {you['key_role']} may.</p>"
    text += _roles("Your roles", you["roles"], shown)
    if report["contact"]:
        text += f"<p>Ask for more: {_said(report['contact'])}</p>"
    if report["hint"]:
        text += f"<p>{html.escape(report['hint'])}</p>"
    return text


def _question(report: Mapping[str, Any], asked: Mapping[str, str], problem: str | None, shown: set[int]) -> str:
    described = ' aria-invalid="true" aria-describedby="problem-text"' if problem else ""
    user, groups = html.escape(asked["user"], quote=True), html.escape(asked["groups"], quote=True)
    text = _alert(problem) if problem else ""
    text += (
        '<form method="get" action="/gatehouse/access">'
        '<label for="user">Account: an e-mail address, machine:ISSUER#SUBJECT or kubernetes:NAMESPACE/NAME</label>'
        f'<input id="user" name="user" required autocomplete="off" spellcheck="false" value="{user}"{described}>'
        '<label for="groups">Groups that the provider would state, with commas in between (may be empty)</label>'
        f'<input id="groups" name="groups" autocomplete="off" spellcheck="false" value="{groups}">'
        '<button type="submit">Show</button></form>'
    )
    if answer := report.get("question"):
        with_groups = ", ".join(_said(group) for group in answer["groups"]) or "no group"
        caption = f"What {_said(answer['user'])} could do, with {with_groups}"
        text += f'<div role="status">{_roles(caption, answer["roles"], shown)}</div>'
    return text


def _places(report: Mapping[str, Any]) -> str:
    text = ""
    if policy := report.get("policy"):
        if policy["file"]:
            text += f"<p>The policy: {_said(policy['file'])}, looked at {policy['looked_at_s_ago']} s ago.</p>"
        if policy["problem"]:
            text += f'<p role="alert">The changed file isn\'t in force: {_said(policy["problem"])}</p>'
    seen: set[int] = set()
    for place in report["places"]:
        name = _place(place["workspace"])
        text += f"<h3>{name}</h3>"
        if not place["declared"]:
            text += "<p>The policy doesn't name this workspace: it is the admins' of the server alone.</p>"
            continue
        if place["there"] is False:
            text += (
                '<p role="alert">The policy declares this workspace, and it isn\'t there: requests for it are answered '
                "with 404. Make it with <code>gatehouse workspaces apply</code>, or restart the server.</p>"
            )
        if place["workspace"] not in {None, "default"}:
            if place["there"] is None:
                text += "<p>Whether it is there can't be told now: the database doesn't answer.</p>"
            text += "<p>Admins of the server are admins here too.</p>"
        rows = []
        for each in place["rules"]:
            line = each["line"]
            row_id = "" if line is None or line in seen else f"line-{line}"
            seen.update({line} if line else ())
            # The line itself, not a link to the row that it is in.
            rows.append((row_id, [_said(each["rule"]), each["role"], _line(line, set())]))
        text += _table(f"Rules: {name}", ["Who", "Role", "Policy"], rows)
    return text


def _refusals(report: Mapping[str, Any]) -> str:
    found = report["refusals"]
    since = html.escape(found["since"])
    text = f'<p>Since <time datetime="{since}">{since}</time>. {html.escape(found["covers"])}</p>'
    if not found["entries"]:
        return text + "<p>None.</p>"
    rows = [
        (
            "",
            [
                f'<time datetime="{each["last"]}">{each["last"]}</time>',
                _said(each["identity"] or "somebody unverified")
                + (f" by the key {_said(each['key'])}" if each["key"] else ""),
                _said(each["workspace"] or "the server"),
                _said(each["what"]),
                f"{each['status']}",
                f"{each['count']}",
                _said(each["reason"]),
            ],
        )
        for each in found["entries"]
    ]
    columns = ["Last", "Who", "Where", "What", "Answer", "Times", "Why"]
    return text + _table("The latest first", columns, rows)
