"""Layers that stand alone: failures are answers, pages of other programs write nothing, and a slow policy holds up
nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gatehouse.audit.entry import entry
from gatehouse.pipeline.authentication import WHOAMI_PATH
from gatehouse.pipeline.failures import FailureLayer
from gatehouse.pipeline.redirects import NoRedirectLayer
from gatehouse.pipeline.security import SecurityLayer
from gatehouse.policy.file import PolicyFile
from gatehouse.policy.identity import Identity
from gatehouse.policy.roles import Role
from gatehouse.policy.source import PolicySource
from gatehouse.request.context import Context
from gatehouse.request.responses import json_response, send_all
from gatehouse.ui.account import AccountLayer


def ask(layer: Any, method: str = "GET", path: str = "/api/x", *headers: tuple[bytes, bytes]) -> tuple[int, Any]:
    """Send a request to a layer; return the status and the answer's JSON."""
    events: list[Any] = []

    async def send(message: Any) -> None:
        events.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}
    asyncio.run(layer(Context(scope, receive=None), send))  # type: ignore[arg-type]
    return events[0]["status"], json.loads(events[1]["body"] or b"null")


async def echo(context: Context, send: Any) -> None:
    await send_all(
        send, json_response(200, {name.decode(): value.decode() for name, value in context.scope["headers"]})
    )


def test_a_failure_of_a_layer_is_an_answer_in_mlflows_shape() -> None:
    async def fail(*_: Any) -> None:
        raise TypeError("secret")

    status, document = ask(FailureLayer(fail))
    assert status == 500
    assert document["error_code"] == "INTERNAL_ERROR"
    assert "secret" not in document["message"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_refusal_that_says_where(status: int) -> None:
    async def redirect(_context: Context, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"Location", b"/api/y")]})
        await send({"type": "http.response.body", "body": b"moved"})

    found, document = ask(NoRedirectLayer(redirect))
    assert found == 404
    assert document["message"].endswith("/api/y")


LOCAL_ORIGINS = [
    "http://localhost:1",
    "http://localhost",
    "http://127.0.0.1:8000",
    "http://[::1]:5",
    "https://LOCALHOST:3",
]


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
def test_a_page_of_the_persons_own_machine_writes_and_reads_nothing_in_production(origin: str) -> None:
    layer = SecurityLayer(echo, [], "https://mlflow.example.com", ["https://mlflow.example.com"])
    assert ask(layer, "POST", "/api/x", (b"origin", origin.encode()))[0] == 403
    assert ask(layer, "GET", "/api/x", (b"origin", origin.encode())) == (200, {})


def test_an_origin_that_an_operator_lists_and_one_on_a_local_server_are_mlflows_to_judge() -> None:
    listed = SecurityLayer(echo, [], "https://mlflow.example.com", ["http://localhost:3000"])
    assert ask(listed, "POST", "/api/x", (b"origin", b"http://localhost:3000"))[0] == 200
    local = SecurityLayer(echo, [], "http://localhost:4180", [])
    assert ask(local, "POST", "/api/x", (b"origin", b"http://localhost:1"))[0] == 200


@pytest.mark.parametrize(
    ("public", "host", "seen"),
    [
        ("https://m.example.com", "M.Example.com:443", "m.example.com"),
        ("https://m.example.com", "m.example.com.", "m.example.com"),
        ("https://m.example.com", "m.example.com.:443", "m.example.com"),
        ("https://m.example.com", "m.example.com:80", "m.example.com:80"),
        ("https://m.example.com", "m.example.com.evil", "m.example.com.evil"),
        ("http://m.example.com:8080", "M.example.com:8080", "m.example.com:8080"),
        ("http://m.example.com:8080", "m.example.com", "m.example.com"),
        ("http://[::1]:8080", "[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_host_is_put_right_where_it_means_the_public_one(public: str, host: str, seen: str) -> None:
    assert ask(SecurityLayer(echo, [], public, []), "GET", "/", (b"host", host.encode()))[1] == {"host": seen}


POLICY = "default: {}\nroles: {{}}\n"
SOMEBODY = Identity("a@example.com", "a")


def whoami(source: PolicySource) -> Any:
    """Return what somebody hears who asks who they are."""
    events: list[Any] = []

    async def send(message: Any) -> None:
        events.append(message)

    scope = {"type": "http", "method": "GET", "path": WHOAMI_PATH, "query_string": b"", "headers": []}
    asyncio.run(AccountLayer(echo, source)(Context(scope, receive=None, identity=SOMEBODY), send))  # type: ignore[arg-type]
    return json.loads(events[1]["body"])


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-cloud-trace-context", "105445aa7843bc8bf206b12000100000/1;o=1"),
        ("traceparent", "00-105445aa7843bc8bf206b12000100000-0000000000000001-01"),
    ],
)
def test_the_audit_lines_trace_is_a_link_where_the_project_is_known(header: str, value: str) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(header.encode(), value.encode())],
    }
    context = Context(scope, receive=None)  # type: ignore[arg-type]
    traces = [
        entry(context, scope, 200, 0.1, project)["logging.googleapis.com/trace"] for project in ("acme-prod", None)
    ]
    assert traces == [
        "projects/acme-prod/traces/105445aa7843bc8bf206b12000100000",
        "105445aa7843bc8bf206b12000100000",
    ]


def test_a_policy_that_cant_be_read_any_more_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe that nobody writes to hangs whoever opens it, as a mount does whose server is gone."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format("viewer"))
    source = PolicySource(PolicyFile.read(file, "development"))
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(PolicySource, "INTERVAL", 0.0)
    monkeypatch.setattr(PolicySource, "OVERDUE", 0.0)

    async def many() -> None:
        for _ in range(200):
            assert (await source.current()).role_of(SOMEBODY) is Role.VIEWER

    asyncio.run(many())
    assert capsys.readouterr().err.count("hasn't ended") == 1
    # Whoever asks is told how old the policy is that holds.
    assert isinstance(whoami(source)["policy_age"], int)
    # Its server is back.
    with file.open("w") as pipe:
        pipe.write(POLICY.format("editor"))

    async def changed() -> bool:
        return (await source.current()).role_of(SOMEBODY) is Role.EDITOR

    monkeypatch.setattr(PolicySource, "OVERDUE", 30.0)

    deadline = time.monotonic() + 20
    while not asyncio.run(changed()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "can be read again" in capsys.readouterr().err
    assert "policy_age" not in whoami(source)


def test_who_comes_after_a_long_silence_is_judged_by_what_the_file_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format("editor"))
    source = PolicySource(PolicyFile.read(file, "development"))
    file.write_text(POLICY.format("none"))
    monkeypatch.setattr(PolicySource, "INTERVAL", 0.0)
    monkeypatch.setattr(PolicySource, "RECENT", 0.0)
    monkeypatch.setattr(PolicySource, "PATIENCE", 20.0)
    assert asyncio.run(source.current()).role_of(SOMEBODY) is Role.NONE
