"""Answers of Gatehouse's own, in the forms that MLflow's SDK, its UI and people in a browser understand."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Message, Send

    from gatehouse.request.context import Context


def response(
    status: int,
    content_type: str,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    caching: bytes = b"no-store",
) -> tuple[Message, Message]:
    """Return the two ASGI messages of a whole answer."""
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", caching),
            (b"x-content-type-options", b"nosniff"),
            *headers,
        ],
    }
    return start, {"type": "http.response.body", "body": body}


def json_response(status: int, content: Any) -> tuple[Message, Message]:
    """Return an answer in JSON."""
    return response(status, "application/json", json.dumps(content).encode())


def error_response(
    status: int, error_code: str, message: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> tuple[Message, Message]:
    """Return an error in MLflow's own shape, whose message its SDK and its UI show."""
    body = json.dumps({"error_code": error_code, "message": message}).encode()
    return response(status, "application/json", body, headers)


def page(status: int, title: str, rows: Iterable[tuple[str, str]], text: str = "") -> tuple[Message, Message]:
    """Return a small page for a browser, with a link to sign out."""
    table = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    body = _PAGE.format(title=html.escape(title), text=html.escape(text), table=table)
    return response(status, "text/html; charset=utf-8", body.encode(), [(b"content-security-policy", CSP)])


def wants_page(context: Context) -> bool:
    """Return whether the request is a browser's that opens a page."""
    if context.method not in {"GET", "HEAD"}:
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in context.scope["headers"])


async def send_all(send: Send, messages: Iterable[Message]) -> None:
    """Send the messages of an answer."""
    for message in messages:
        await send(message)


#: A page of ours has a style of its own, and nothing else.
CSP = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,
initial-scale=1"> <title>{title}</title> <style>body{{font:16px/1.5 system-ui,sans-serif;margin:10vh
auto;max-width:36rem;padding:0 1rem}}
th{{text-align:left;padding-right:1.5rem;font-weight:600}}td{{overflow-wrap:anywhere}}a{{margin-right:1.5rem}}</style>
</head><body><h1>{title}</h1><p>{text}</p><table>{table}</table> <p><a href="/">MLflow</a><a
href="/gatehouse/access">Access</a><a href="/oauth2/sign_out?rd=%2F">Sign out</a></p></body></html>
"""
