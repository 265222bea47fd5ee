"""Whoever a client claims to be, it is recorded as itself or refused."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.access.conftest import Client, line_of
from tests.browser import chromium
from tests.support import Gate

WHOAMI = "/gatehouse/whoami"
#: Every header by which some product or other lets a proxy say who somebody is.
IDENTITY_HEADERS = (
    "Forwarded",
    "Remote-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Groups",
    "X-Auth-Request-User",
    "X-Authenticated-User",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-User",
    "X-Goog-Authenticated-User-Email",
    "X-Goog-IAP-JWT-Assertion",
    "X-Remote-User",
    "X-WebAuth-User",
)


def socket_folder(gate: Gate) -> Path:
    """Return the private folder of a running gate."""
    pid = gate.children()["server"]
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return Path(arguments[arguments.index("--run-directory") + 1])


def straight(gate: Gate, *headers: tuple[str, str], path: str = WHOAMI, method: str = "GET") -> tuple[int, Any]:
    """Send a request to MLflow's socket, past the proxy; return the status and the JSON."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(socket_folder(gate) / "mlflow.sock"))
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"localhost:{gate.port}")
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if answer.headers.get_content_subtype() == "json" else body


def proof(gate: Gate, user: str = "alice@example.com") -> tuple[str, str]:
    """Return the header by which the proxy proves itself."""
    environment = Path(f"/proc/{gate.children()['proxy']}/environ").read_bytes().split(b"\0")
    secret = next(entry for entry in environment if entry.startswith(b"OAUTH2_PROXY_BASIC_AUTH_PASSWORD=")).partition(
        b"="
    )[2]
    return "Authorization", "Basic " + base64.b64encode(user.encode() + b":" + secret).decode()


ALICE = ("X-Forwarded-Email", "alice@example.com")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (ALICE,),
        (ALICE, ("Authorization", "Basic " + base64.b64encode(b"alice@example.com:guess").decode())),
        (ALICE, ("Authorization", "Basic " + base64.b64encode(b"alice@example.com:").decode())),
        (ALICE, ("Authorization", "Basic %%%")),
        (ALICE, ("Authorization", "Bearer x")),
    ],
)
def test_a_request_past_the_proxy_is_refused(gate: Gate, headers: tuple[tuple[str, str], ...]) -> None:
    for method, path in (("GET", WHOAMI), ("GET", "/"), ("GET", "/version"), ("POST", "/api/2.0/mlflow/runs/create")):
        status, answer = straight(gate, *headers, path=path, method=method)
        assert status == 401
        assert answer["error_code"] == "UNAUTHENTICATED"
        assert "sign-in proxy" in answer["message"]


def test_with_the_proof_a_request_is_let_in_so_the_refusals_above_mean_something(gate: Gate) -> None:
    status, answer = straight(gate, proof(gate), ALICE)
    assert (status, answer["email"], answer["role"]) == (200, "alice@example.com", "admin")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), "e-mail address in the identity is missing"),
        ((ALICE, ALICE), "came twice"),
        ((ALICE, ("x-forwarded-email", "bob@example.com")), "came twice"),
        ((("X-Forwarded-Email", ""),), "missing"),
        ((("X-Forwarded-Email", "alice@example.com,bob@example.com"),), "comma"),
        ((("X-Forwarded-Email", "alice @example.com"),), "space"),
        ((("X-Forwarded-Email", "1234567890"),), "no e-mail address"),
        ((("X-Forwarded-Email", "@example.com"),), "no e-mail address"),
        ((("X-Forwarded-Email", "alice@"),), "no e-mail address"),
        ((("X-Forwarded-Email", "a" * 300 + "@example.com"),), "too long"),
        ((("X-Forwarded-Email", "al\xc2\x85ice@example.com"),), "control"),
        ((("X-Forwarded-Email", "al\xffice@example.com"),), "not UTF-8"),
        ((("X_Forwarded_Email", "alice@example.com"),), "missing"),
        ((ALICE, ("X-Forwarded-User", "somebody else")), "contradict"),
    ],
)
def test_an_identity_that_is_missing_or_ambiguous_is_refused_with_the_reason(
    gate: Gate, headers: tuple[tuple[str, str], ...], reason: str
) -> None:
    status, answer = straight(gate, proof(gate), *headers)
    assert status == 401
    assert reason in answer["message"]


def test_two_proofs_are_one_too_many(gate: Gate) -> None:
    assert straight(gate, proof(gate), proof(gate, "bob@example.com"), ALICE)[0] == 401


def test_letters_outside_ascii_never_fold_onto_another_address(gate: Gate) -> None:
    kelvin = "bob@example.com".replace("b", "B", 1)
    assert straight(gate, proof(gate), ("X-Forwarded-Email", kelvin))[1]["role"] == "editor"
    for other in ("ALİCE@example.com", "alıce@example.com", "ａlice@example.com"):
        header = ("X-Forwarded-Email", other.encode().decode("latin-1"))
        assert straight(gate, proof(gate, "x"), header)[1]["role"] == "none"


def test_liveness_needs_no_identity_and_says_nothing(gate: Gate) -> None:
    assert straight(gate, path="/health") == (200, b"OK")
    for path in ("/health/", "//health", "/HEALTH", "/health/x", "/health%20"):
        assert straight(gate, path=path)[0] == 401


def test_a_websocket_finds_nothing(gate: Gate) -> None:
    headers = (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", base64.b64encode(b"0" * 16).decode()),
    )
    assert straight(gate, *headers)[0] == 401
    with gate.session("carol") as session:
        answer = session.get(gate.url + WHOAMI, headers=dict(headers), timeout=20)
    # The proxy passes an upgrade on, and nobody behind it takes it: an ordinary answer for who carol is.
    assert (answer.status_code, answer.json()["role"]) == (200, "viewer"), answer.text


@pytest.mark.parametrize("name", IDENTITY_HEADERS)
def test_a_forged_identity_header_changes_nothing(carol: Client, name: str) -> None:
    before = carol.call("GET", WHOAMI).json()
    underscored = name.replace("-", "_")
    for spelled in (name, name.lower(), name.upper(), underscored, underscored.upper(), name.replace("-", "_", 1)):
        forged = {spelled: "alice@example.com"}
        assert carol.call("GET", WHOAMI, headers=forged).json() == before
        answer = carol.call("POST", "/api/2.0/mlflow/experiments/create", json={"name": "forged"}, headers=forged)
        assert answer.status_code == 403
        assert line_of(carol.gate, answer)["audit"]["identity"] == "carol@example.com"


def raw(gate: Gate, *lines: str) -> bytes:
    """Send a request by hand through the proxy; return the whole answer."""
    with socket.create_connection(("localhost", gate.port), timeout=20) as connection:
        head = "\r\n".join([f"GET {WHOAMI} HTTP/1.1", f"Host: localhost:{gate.port}", "Connection: close", *lines])
        connection.sendall(head.encode("latin-1") + b"\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def bearer(gate: Gate, person: str) -> str:
    return f"Authorization: Bearer {gate.provider.token(person)}"


def test_duplicated_identity_headers_change_nothing(gate: Gate) -> None:
    forged = ["X-Forwarded-Email: alice@example.com", "X-Forwarded-Email: alice@example.com", "x-forwarded-user: alice"]
    answer = raw(gate, bearer(gate, "carol"), *forged)
    assert b'"email": "carol@example.com"' in answer
    assert b'"role": "viewer"' in answer


@pytest.mark.parametrize(
    "hidden",
    [
        "X-Forwarded-Email",
        "x-forwarded-email, X-Forwarded-User",
        "Authorization",
        "X-Forwarded-User, X-Forwarded-Groups, X-Forwarded-For",
        "authorization, x-forwarded-email, x-forwarded-user, x-forwarded-groups, cookie",
    ],
)
def test_a_client_cannot_make_the_proxys_headers_vanish(gate: Gate, hidden: str) -> None:
    answer = raw(gate, bearer(gate, "carol"), f"Connection: {hidden}", "X_Forwarded_Email: alice@example.com")
    assert b'"email": "carol@example.com"' in answer
    assert b'"subject": "carol@example.com"' in answer
    assert b'"role": "viewer"' in answer


def test_a_token_for_another_service_is_refused(gate: Gate) -> None:
    token = gate.provider.token("alice", audience="https://another-service.example.com")
    answer = requests.get(gate.url + WHOAMI, headers={"Authorization": f"Bearer {token}"}, timeout=20)
    assert answer.status_code == 401, answer.text


def test_a_session_cookie_that_was_tampered_with_is_refused(gate: Gate) -> None:
    with chromium(gate) as browser:
        browser.sign_in("carol")
        browser.wait_text("Experiments")
        cookies = {cookie["name"]: cookie["value"] for cookie in browser.driver.get_cookies()}
    value = cookies["_gatehouse"]
    assert requests.get(gate.url + WHOAMI, cookies={"_gatehouse": value}, timeout=20).json()["role"] == "viewer"
    body, moment, signature = value.split("|")
    changed = ("A" if signature[0] != "A" else "B") + signature[1:]
    flipped = body[:20] + ("A" if body[20] != "A" else "B") + body[21:]
    for tampered in (
        f"{flipped}|{moment}|{signature}",
        f"{body}|{int(moment) + 1}|{signature}",
        f"{body}|{moment}|{changed}",
        f"{body}|{moment}|",
        body,
    ):
        answer = requests.get(gate.url + WHOAMI, cookies={"_gatehouse": tampered}, timeout=20)
        assert answer.status_code == 401, tampered


def test_whoami_tells_when_the_session_ends(gate: Gate) -> None:
    with chromium(gate) as browser:
        browser.sign_in("carol")
        browser.wait_text("Experiments")
        cookies = {cookie["name"]: cookie["value"] for cookie in browser.driver.get_cookies()}
    answer = requests.get(gate.url + WHOAMI, cookies=cookies, timeout=20).json()
    started = int(cookies["_gatehouse"].split("|")[1])
    import datetime

    ends = datetime.datetime.fromisoformat(answer["expires"]).timestamp()
    assert ends == started + 12 * 3600


@pytest.mark.parametrize(
    "override", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x_http_method_override"]
)
def test_a_method_override_header_turns_no_read_into_a_write(carol: Client, override: str) -> None:
    answer = carol.call("GET", "/api/2.0/mlflow/runs/delete", json={"run_id": "x"}, headers={override: "POST"})
    assert answer.status_code == 405, answer.text
    answer = carol.call("POST", "/api/2.0/mlflow/runs/delete", json={"run_id": "x"}, headers={override: "GET"})
    assert answer.status_code == 403


def test_mlflow_sees_neither_credentials_nor_the_proof(tmp_path: Path) -> None:
    script = """
import asyncio, json, sys
from gatehouse.request.context import Context
from gatehouse.pipeline.authentication import AuthenticationLayer
import base64
async def echo(context, send):
    print(json.dumps([[n.decode(), v.decode()] for n, v in context.scope["headers"]]))
layer = AuthenticationLayer(echo, b"p" * 32, ["__Host-gatehouse"])
headers = [(b"authorization", b"Basic " + base64.b64encode(b"u:" + b"p" * 32)),
           (b"x-forwarded-email", b"a@example.com"),
           (b"cookie", b"theme=dark; __Host-gatehouse=secret; __Host-gatehouse_1=secret; lang=en,__Host-gatehouse=secret"),
           (b"x-forwarded-access-token", b"secret"), (b"x-serverless-authorization", b"Bearer secret"),
           (b"proxy-authorization", b"Basic secret"), (b"x_secret", b"secret"), (b"accept", b"*/*")]
scope = {"type": "http", "path": "/", "method": "GET", "headers": headers}
asyncio.run(layer(Context(scope, None), None))
"""
    import sys

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == [["cookie", "theme=dark"], ["accept", "*/*"]]
