"""A provider that is down when everything starts at once: the gate waits for it, within STARTUP_TIMEOUT, and says so."""

from __future__ import annotations

from collections.abc import Callable

from tests.identities.conftest import Issuer
from tests.support import Gate, free_port, wait_for


def test_the_gate_waits_for_its_provider(make_gate: Callable[..., Gate]) -> None:
    port = free_port()
    gate = make_gate(OAUTH2_PROXY_OIDC_ISSUER_URL=f"http://127.0.0.1:{port}").start()
    wait_for(lambda: "is the identity provider reachable?): trying again" in gate.log(), "a word", 60, gate.log)
    issuer = Issuer(port=port)
    try:
        gate.wait_ready()
    finally:
        issuer.stop()


def test_it_waits_for_no_longer_than_startup_timeout(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(OAUTH2_PROXY_OIDC_ISSUER_URL=f"http://127.0.0.1:{free_port()}", STARTUP_TIMEOUT="20").start()
    assert gate.wait_end() == 71
    assert "trying again" in gate.log()
    assert "OAuth2 Proxy ended (exit code 1)" in gate.log()
