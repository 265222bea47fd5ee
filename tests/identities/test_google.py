"""Google is believed as it says itself: an address of the company's isn't enough, the account must be the company's (hd)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.identities.conftest import Issuer, ask
from tests.support import Gate, Provider, running

GOOGLE = "https://accounts.google.com"
GCLOUD = "32555940559.apps.googleusercontent.com"
SERVICE_ACCOUNT = "ci@acme.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def google() -> Iterator[Issuer]:
    part = Issuer(GOOGLE)
    yield part
    part.stop()


@pytest.fixture(scope="module")
def gate(provider: Provider, google: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate whose provider is Google, but for the address of its keys."""
    environment = {
        "OAUTH2_PROXY_PROVIDER": "google", "OAUTH2_PROXY_OIDC_ISSUER_URL": "",
        "OAUTH2_PROXY_OIDC_JWKS_URL": f"{google.address}/keys",
        "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com,acme.iam.gserviceaccount.com",
    }  # fmt: skip
    with running(Gate(tmp_path_factory.mktemp("google"), provider, **environment)) as part:
        yield part


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"email": "bob@example.com", "hd": "example.com"}, 200),
        ({"email": "Bob@Example.com", "hd": "EXAMPLE.com"}, 200),
        ({"email": SERVICE_ACCOUNT}, 200),
        ({"email": "bob@example.com"}, 403),
        ({"email": "bob@example.com", "hd": ""}, 403),
        ({"email": "bob@example.com", "hd": "evil.test"}, 403),
        ({"email": "bob@example.com", "hd": "notexample.com"}, 403),
        ({"email": "bob@example.com", "hd": ["example.com"]}, 403),
        ({"email": "bob@example.com", "hd": True}, 403),
        ({"email": "bob@evil.test", "hd": "example.com"}, 403),
        ({"email": "bob@gmail.com"}, 403),
    ],
)
def test_an_account_must_be_the_companys(gate: Gate, google: Issuer, claims: dict[str, Any], status: int) -> None:
    for audience in (GCLOUD, gate.url):
        answer = ask(gate, google.token("1057", aud=audience, email_verified=True, **claims), "/gatehouse/whoami")
        assert answer.status_code == status, answer.text + gate.log()[-1500:]
        if status == 403:
            assert answer.json()["error_code"] == "PERMISSION_DENIED"


def test_the_refusal_says_which_rule(gate: Gate, google: Issuer) -> None:
    token = google.token("1057", aud=GCLOUD, email_verified=True, email="bob@example.com")
    assert "isn't the company's" in ask(gate, token).json()["message"]


def test_signing_out_of_google_leads_to_a_page_that_says_what_stays(gate: Gate) -> None:
    out = requests.get(f"{gate.url}/oauth2/sign_out?rd=%2F", allow_redirects=False, timeout=20)
    assert out.headers["location"] == "/gatehouse/signed-out"


def test_gclouds_shared_audience_can_be_refused(provider: Provider, google: Issuer, gate: Gate, tmp_path: Path) -> None:
    environment = {**gate.environment, "GCLOUD_TOKENS": "false"}
    for name in (
        "PORT",
        "PUBLIC_URL",
        "HOME",
        "PATH",
        "BACKEND_STORE_URI",
        "ARTIFACTS_DESTINATION",
        "OAUTH2_PROXY_HTTP_ADDRESS",
    ):
        del environment[name]
    claims: dict[str, Any] = {"email": "bob@example.com", "hd": "example.com", "email_verified": True}
    with running(Gate(tmp_path, provider, **{"OAUTH2_PROXY_OIDC_ISSUER_URL": "", **environment})) as strict:
        refused = ask(strict, google.token("1057", aud=GCLOUD, **claims), "/gatehouse/whoami")
        assert refused.status_code == 401
        assert "another audience" in refused.json()["message"]
        assert ask(strict, google.token("1057", aud=strict.url, **claims), "/gatehouse/whoami").status_code == 200
