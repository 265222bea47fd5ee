"""With a session store, signing out ends the session:

its cookie is worth nothing afterwards, whoever has a copy of it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import requests

from local.run import CLIENT_ID
from tests.support import Gate, free_port, missing, wait_for

PASSWORD = "of-the-store"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis server that asks for a password; its port."""
    program = shutil.which("redis-server")
    if program is None:
        missing("Redis", "apt-get install redis-server")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", ""]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, "Redis", 20, lambda: (folder / "log").read_text())
    yield port
    process.terminate()
    process.wait(10)


def test_a_signed_out_session_is_over_everywhere(make_gate: Callable[..., Gate], redis: int, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    gate = make_gate(
        OAUTH2_PROXY_SESSION_STORE_TYPE="redis",
        OAUTH2_PROXY_REDIS_CONNECTION_URL=f"redis://127.0.0.1:{redis}",
        OAUTH2_PROXY_REDIS_USERNAME="default",
        OAUTH2_PROXY_REDIS_PASSWORD_FILE=str(tmp_path / "password"),
        OAUTH2_PROXY_REDIS_CONNECTION_IDLE_TIMEOUT="30",
        OAUTH2_PROXY_SESSION_COOKIE_MINIMAL="true",
    )
    gate.start().wait_ready()
    session, other = gate.sign_in("bob"), gate.sign_in("bob")
    copied: dict[str, Any] = dict(session.headers)

    def whoami(headers: dict[str, Any]) -> int:
        return requests.get(f"{gate.url}/gatehouse/whoami", headers=headers, timeout=20).status_code

    assert whoami(copied) == 200
    out = session.get(f"{gate.url}/oauth2/sign_out?rd=%2F", allow_redirects=False, timeout=20)
    assert out.status_code == 302
    assert whoami(copied) == 401
    # Somebody's other browser stays signed in.
    assert whoami({**other.headers}) == 200


def test_without_a_session_signing_out_leads_to_a_page_that_signs_nobody_in(gate: Gate) -> None:
    out = requests.get(f"{gate.url}/oauth2/sign_out?rd=%2F", allow_redirects=False, timeout=20)
    assert (out.status_code, out.headers["location"]) == (302, "/gatehouse/signed-out")
    page = requests.get(gate.url + out.headers["location"], allow_redirects=False, timeout=20)
    assert page.status_code == 200
    assert "signed out" in page.text
    assert "set-cookie" not in page.headers
    # An address of the caller's own choice stays.
    other = requests.get(f"{gate.url}/oauth2/sign_out?rd=%2Foauth2%2Fstart", allow_redirects=False, timeout=20)
    assert other.headers["location"] == "/oauth2/start"


def test_the_provider_ends_its_own_session_too(gate: Gate) -> None:
    """OpenID Connect RP-Initiated Logout 1.0: without it, the next page would sign the same person in again."""
    with gate.sign_in("bob") as session:
        out = session.get(f"{gate.url}/oauth2/sign_out?rd=%2F", allow_redirects=False, timeout=20)
    place, _, query = out.headers["location"].partition("?")
    hint = dict(parse_qsl(query))
    assert place == f"{gate.provider.issuer}/oauth2/end_session"
    assert (hint["client_id"], hint["id_token_hint"].count(".")) == (CLIENT_ID, 2)
