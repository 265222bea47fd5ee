"""A bearer token that isn't right gets 401 or 403 JSON, and not one byte of MLflow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from local.run import CLIENT_ID
from tests.support import Gate

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"


def encode(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def claims_of(gate: Gate, **changed: object) -> dict[str, object]:
    now = int(time.time())
    return {
        "iss": gate.provider.issuer, "aud": CLIENT_ID, "sub": "alice@example.com", "email": "alice@example.com",
        "email_verified": True, "iat": now, "exp": now + 600, **changed,
    }  # fmt: skip


def signed_by_a_stranger(gate: Gate) -> str:
    return jwt.encode({"alg": "RS256"}, claims_of(gate), RSAKey.generate_key(2048))


def unsigned(gate: Gate) -> str:
    return f"{encode({'alg': 'none', 'typ': 'JWT'})}.{encode(claims_of(gate))}."


def keyed_with_the_public_key(gate: Gate) -> str:
    jwks = requests.get(f"{gate.provider.issuer}/jwks", timeout=10).text
    return jwt.encode({"alg": "HS256"}, claims_of(gate), OctKey.import_key(jwks.encode()))


def tampered(gate: Gate) -> str:
    head, body, signature = gate.provider.token("carol").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return f"{head}.{encode({**claims, 'email': 'alice@example.com', 'sub': 'alice@example.com'})}.{signature}"


def with_claims(subject: str, **claims: object) -> Callable[[Gate], str]:
    def make(gate: Gate) -> str:
        gate.provider.claims(subject, **claims)
        return gate.provider.token_of(subject)

    return make


BAD_TOKENS: dict[str, Callable[[Gate], str]] = {
    "expired": with_claims("expired", email="expired@example.com", exp=int(time.time()) - 60),
    "wrong audience": lambda gate: gate.provider.token(audience="another-service"),
    "wrong issuer": with_claims("foreign", email="foreign@example.com", iss="https://accounts.example.org"),
    "bad signature": signed_by_a_stranger,
    "tampered": tampered,
    "alg none": unsigned,
    "alg HS256 with the public key": keyed_with_the_public_key,
    "unverified e-mail": with_claims("unverified", email="unverified@example.com", email_verified=False),
    "not allowed": lambda gate: gate.provider.token("mallory@elsewhere.test"),
    "look-alike domain": lambda gate: gate.provider.token("mallory@notexample.com"),
    "subdomain": lambda gate: gate.provider.token("mallory@example.com.evil.test"),
    "no e-mail": with_claims("12345"),
    "e-mail null": with_claims("12346", email=None),
    "e-mail empty": with_claims("12347", email=""),
    "two e-mails": with_claims("12348", email="mallory@evil.test,alice@example.com", email_verified=True),
    "a line break in the e-mail": with_claims("12349", email="alice@example.com\r\nX-A: b", email_verified=True),
    "a control character in the e-mail": with_claims("12350", email="alice\x01@example.com", email_verified=True),
    "a line break in the subject": with_claims("sub\r\nX-A: b", email="dora@example.com", email_verified=True),
    "empty": lambda _: "",
    "garbage": lambda _: "abc.def.ghi",
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_a_bad_token_is_refused(gate: Gate, kind: str) -> None:
    token = BAD_TOKENS[kind](gate)
    for path in (SEARCH, "/version", "/graphql"):
        answer = requests.get(
            gate.url + path, headers={"Authorization": f"Bearer {token}"}, allow_redirects=False, timeout=10
        )
        assert answer.status_code in {401, 403}, f"{kind}: {answer.status_code} {answer.text}"
        assert set(answer.json()) <= {"error_code", "message"}


def test_a_good_token_next_to_it_still_works(gate: Gate) -> None:
    with gate.session("carol") as session:
        assert session.get(gate.url + SEARCH, timeout=10).status_code == 200


@pytest.mark.parametrize("char", ["\r\n", "\0", "\x7f", "\x1b", "\t", "\xa0"])
@pytest.mark.parametrize("claim", ["preferred_username", "groups", "name"])
def test_a_claim_that_no_header_can_carry_keeps_nobody_out(gate: Gate, claim: str, char: str) -> None:
    """oauth2-proxy's own build answers 502."""
    text = f"Dora{char}X-Forwarded-Email: alice@example.com"
    value = [text, "ml"] if claim == "groups" else text
    token = with_claims("dora", email="dora@example.com", email_verified=True, **{claim: value})(gate)
    answer = requests.get(f"{gate.url}/gatehouse/whoami", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 200, answer.text
    assert answer.json()["email"] == "dora@example.com"


def test_the_refusal_says_why(gate: Gate) -> None:
    token = gate.provider.token("mallory@elsewhere.test")
    answer = requests.get(gate.url + SEARCH, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    assert "isn't on the list" in answer.json()["message"]


def test_a_person_who_is_not_allowed_gets_a_page(gate: Gate) -> None:
    token = gate.provider.token("mallory@elsewhere.test")
    answer = requests.get(gate.url + "/", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 403
    assert "text/html" in answer.headers["content-type"]
    assert "sign in with another account" in answer.text
