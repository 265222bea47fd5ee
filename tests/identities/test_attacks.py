"""Tokens that somebody forged, bent or borrowed: each is refused in JSON that says which rule, and has an audit line."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import RSAAlgorithm

from tests.access.conftest import line_of
from tests.identities.conftest import AUDIENCE, GITHUB, SEARCH, Issuer, ask, raw
from tests.support import Gate

OWNER = "repo:acme/train:ref:refs/heads/main"
STRANGER = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the attack
CURVE = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
NOW = int(time.time())


def part(document: Any) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def public_pem(issuer: Issuer) -> bytes:
    return bytes(
        issuer.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def hmac_of(issuer: Issuer, key: bytes, algorithm: str = "HS256", **header: Any) -> str:
    """Sign with a secret, as PyJWT itself wouldn't where the secret is a public key."""
    head = part({"alg": algorithm, "typ": "JWT", "kid": issuer.kid, **header})
    signed = f"{head}.{part(issuer.claims(OWNER))}"
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    return f"{signed}.{base64.urlsafe_b64encode(hmac.new(key, signed.encode(), digest).digest()).rstrip(b'=').decode()}"


def signed_by(key: Any, algorithm: str = "RS256", **header: Any) -> Callable[[Issuer], str]:
    return lambda i: jwt.encode(i.claims(OWNER), key, algorithm, {"kid": i.kid, **header})


def headed(**header: Any) -> Callable[[Issuer], str]:
    """A token that the issuer's own key has signed, with a header that asks for something."""
    return lambda i: jwt.encode(i.claims(OWNER), i.key, "RS256", {"kid": i.kid, **header})


def claiming(**claims: Any) -> Callable[[Issuer], str]:
    return lambda i: i.token(claims.get("sub", OWNER), **{k: v for k, v in claims.items() if k != "sub"})


def raw_header(document: Any) -> Callable[[Issuer], str]:
    """A token whose header is any text; the signature is the issuer's, over what was sent."""

    def make(issuer: Issuer) -> str:
        signed = f"{part(document)}.{part(issuer.claims(OWNER))}"
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed.encode(), issuer.key)
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    return make


def raw_claims(text: str) -> Callable[[Issuer], str]:
    def make(issuer: Issuer) -> str:
        signed = f"{part({'alg': 'RS256', 'kid': issuer.kid})}.{part(text)}"
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed.encode(), issuer.key)
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    return make


def spliced(issuer: Issuer) -> str:
    head, _, signature = issuer.token("repo:acme/other:environment:x").split(".")
    return f"{head}.{part(issuer.claims(OWNER))}.{signature}"


ATTACKS: dict[str, Callable[[Issuer], str]] = {
    # --- signature and algorithm
    "alg none": lambda i: f"{part({'alg': 'none'})}.{part(i.claims(OWNER))}.x",
    "alg None, capitals": lambda i: f"{part({'alg': 'NoNe', 'kid': i.kid})}.{part(i.claims(OWNER))}.x",
    "alg missing": lambda i: f"{part({'typ': 'JWT', 'kid': i.kid})}.{part(i.claims(OWNER))}.x",
    "alg is a list": lambda i: f"{part({'alg': ['RS256'], 'kid': i.kid})}.{part(i.claims(OWNER))}.x",
    "alg is a number": lambda i: f"{part({'alg': 256, 'kid': i.kid})}.{part(i.claims(OWNER))}.x",
    "HS256 with the public key as PEM": lambda i: hmac_of(i, public_pem(i)),
    "HS256 with the public key as JWK": lambda i: hmac_of(i, json.dumps(i.public()).encode()),
    "HS512 with nothing": lambda i: hmac_of(i, b"", "HS512"),
    "HS256 with the modulus": lambda i: hmac_of(i, i.public()["n"].encode()),
    "signed by a stranger": signed_by(STRANGER),
    "signed by a weak key": signed_by(WEAK),
    "ES256 for an RSA key": signed_by(CURVE, "ES256"),
    "EdDSA for an RSA key": signed_by(EDWARDS, "EdDSA"),
    "ES256 of zeros (CVE-2022-21449)": lambda i: f"{part({'alg': 'ES256', 'kid': i.kid})}.{part(i.claims(OWNER))}.{'A' * 86}",
    "spliced": spliced,
    "claims changed": lambda i: i.token("repo:evil/x:pull_request").replace(
        part(i.claims("repo:evil/x:pull_request")), part(i.claims(OWNER))
    )[:-4] + "AAAA",
    "signature cut": lambda i: i.token(OWNER)[:-20],
    "signature empty": lambda i: i.token(OWNER).rpartition(".")[0] + ".",
    # --- what the header asks for
    "jku": headed(jku="http://127.0.0.1:9/keys"),
    "x5u": headed(x5u="http://127.0.0.1:9/certificate"),
    "jwk of a stranger": signed_by(STRANGER, jwk=RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True)),
    "jwk, although well signed": headed(jwk={"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
    "x5c": headed(x5c=["MIIB"]),
    "crit": headed(crit=["exp"]),
    "b64 false": raw_header({"alg": "RS256", "kid": "x", "b64": False, "crit": ["b64"]}),
    "zip": headed(zip="DEF"),
    "cty JWT": headed(cty="JWT"),
    "typ of another protocol": headed(typ="logout+jwt"),
    "typ is a list": raw_header({"alg": "RS256", "typ": ["JWT"]}),
    "kid unknown": lambda i: jwt.encode(i.claims(OWNER), i.key, "RS256", {"kid": "unknown"}),
    "kid is a path": lambda i: hmac_of(i, b"", kid="../../../../dev/null"),
    "kid is SQL": lambda i: jwt.encode(i.claims(OWNER), STRANGER, "RS256", {"kid": "x' UNION SELECT 'k"}),
    "kid is a number": raw_header({"alg": "RS256", "kid": 7}),
    "kid is a list": raw_header({"alg": "RS256", "kid": ["a"]}),
    "kid of 10 kB": lambda i: jwt.encode(i.claims(OWNER), STRANGER, "RS256", {"kid": "k" * 10_000}),
    "kid empty": raw_header({"alg": "RS256", "kid": ""}),
    # --- form
    "header isn't JSON": lambda i: f"{part('{alg')}.{part(i.claims(OWNER))}.x",
    "header is a list": lambda i: f"{part(['RS256'])}.{part(i.claims(OWNER))}.x",
    "header of 12 levels and more": lambda i: f"{part('[' * 4000)}.{part(i.claims(OWNER))}.x",
    "nested": lambda i: jwt.encode(i.claims(OWNER, nested=i.token(OWNER)), STRANGER, "RS256", {"kid": i.kid}),
    "a token in a token": lambda i: f"{part({'alg': 'RS256', 'cty': 'JWT', 'kid': i.kid})}.{part(i.claims(i.token(OWNER)))}.x",
    "four parts": lambda i: i.token(OWNER) + ".x",
    "five parts (encrypted)": lambda i: ".".join([part({"alg": "dir", "enc": "A256GCM"}), part(i.claims(OWNER)), "a", "b", "c"]),
    "40 kB": claiming(filler="x" * 40_000),
    "claims are a list": raw_claims(json.dumps([{"iss": GITHUB}])),
    "duplicate issuer": raw_claims(f'{{"iss":"{GITHUB}","sub":"{OWNER}","aud":"{AUDIENCE}","exp":{NOW + 600},"iss":"https://evil.test"}}'),
    # --- whom it is for, and from
    "another audience": claiming(aud="https://another.example.com"),
    "no audience": claiming(aud=None),
    "audience is a number": claiming(aud=7),
    "audience is an object": claiming(aud={AUDIENCE: True}),
    "audience a list without ours": claiming(aud=["a", "b"]),
    "audience a list in a list": claiming(aud=[[AUDIENCE]]),
    "audience with a slash more": claiming(aud=AUDIENCE + "/"),
    "audience in capitals": claiming(aud=AUDIENCE.upper()),
    "audience of another issuer here": claiming(aud="mlflow"),
    "audience empty": claiming(aud=""),
    "issuer with a slash more": claiming(iss=GITHUB + "/"),
    "issuer in capitals": claiming(iss=GITHUB.upper()),
    "issuer is a list": raw_claims(json.dumps({"iss": [GITHUB], "sub": OWNER, "aud": AUDIENCE, "exp": NOW + 600})),
    "issuer missing": claiming(iss=None),
    "issuer that looks alike": claiming(iss="https://token.actions.githubusercontent.com.evil.test"),
    # --- when
    "expired": claiming(exp=NOW - 120),
    "expires as text": claiming(exp=str(NOW + 600)),
    "expires never": claiming(exp=None),
    "expires true": claiming(exp=True),
    "expires in a list": claiming(exp=[NOW + 600]),
    "expires at infinity": raw_claims(f'{{"iss":"{GITHUB}","sub":"{OWNER}","aud":"{AUDIENCE}","exp":Infinity}}'),
    "expires NaN": raw_claims(f'{{"iss":"{GITHUB}","sub":"{OWNER}","aud":"{AUDIENCE}","exp":NaN}}'),
    "expires beyond numbers": raw_claims(f'{{"iss":"{GITHUB}","sub":"{OWNER}","aud":"{AUDIENCE}","exp":1e400}}'),
    "not yet": claiming(nbf=NOW + 900),
    "issued tomorrow": claiming(iat=NOW + 86400, nbf=None),
    "not before as text": claiming(nbf="0"),
    # --- who
    "no subject": claiming(sub=None),
    "subject is a list": raw_claims(json.dumps({"iss": GITHUB, "sub": [OWNER], "aud": AUDIENCE, "exp": NOW + 600})),
    "subject is a number": raw_claims(json.dumps({"iss": GITHUB, "sub": 7, "aud": AUDIENCE, "exp": NOW + 600})),
    "subject of 10 kB": claiming(sub="repo:acme/" + "x" * 10_000),
    "subject of 256": claiming(sub="repo:acme/" + "x" * 246),
    "subject looks alike": claiming(sub="repo:\u0430cme/train:ref:refs/heads/main"),
    "subject with a line break": claiming(sub=OWNER + "\n"),
    "subject with a zero": claiming(sub=OWNER + "\0"),
    "subject with a space after it": claiming(sub=OWNER + " "),
    "subject from right to left": claiming(sub="\u202e" + OWNER),
    "subject empty": claiming(sub=""),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*key is")
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_forged_token_is_refused(gate: Gate, github: Issuer, kind: str) -> None:
    token = ATTACKS[kind](github)
    answer = ask(gate, token)
    assert answer.status_code in {401, 403}, f"{kind}: {answer.status_code} {answer.text[:300]}"
    body = answer.json()
    assert body["error_code"] in {"UNAUTHENTICATED", "PERMISSION_DENIED"}, kind
    # It says a rule, and not one byte of what MLflow would have said.
    assert 20 < len(body["message"]) < 400, body
    assert "experiments" not in body
    assert answer.headers["content-type"] == "application/json"
    if "x-request-id" in answer.headers:
        audit = line_of(gate, answer)["audit"]
        assert (audit["result"], audit["identity"]) == ("refused", None)
        assert audit["reason"] == body["message"][:200]


def test_the_count_of_attacks_is_what_is_promised() -> None:
    assert len(ATTACKS) >= 80


def test_a_good_token_still_comes_in(gate: Gate, github: Issuer) -> None:
    assert ask(gate, github.github("acme/train", "ref:refs/heads/main")).status_code == 200


def test_another_issuers_key_with_the_same_id_signs_for_nobody_else(
    gate: Gate, github: Issuer, cluster: Issuer
) -> None:
    forged = jwt.encode(github.claims(OWNER), cluster.key, "RS256", {"kid": cluster.kid})
    assert ask(gate, forged).status_code == 401
    kid, cluster.kid = cluster.kid, github.kid
    try:
        forged = jwt.encode(github.claims(OWNER), cluster.key, "RS256", {"kid": github.kid})
        assert ask(gate, forged).status_code == 401
    finally:
        cluster.kid = kid


@pytest.mark.filterwarnings("ignore:.*key is")
def test_keys_that_are_no_signing_keys_sign_nothing(gate: Gate, apps: Issuer) -> None:
    claims: dict[str, Any] = {"aud": "api://mlflow", "azp": "11111111-2222-3333-4444-555555555555"}
    secret = b"0123456789abcdef0123456789abcdef"
    bad: list[tuple[dict[str, Any], str]] = [
        (  # a secret in a public key set
            {"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode(), "kid": "oct", "alg": "HS256"},
            jwt.encode(apps.claims("s", **claims), secret, "HS256", {"kid": "oct"}),
        ),
        (apps.public(WEAK, "weak"), jwt.encode(apps.claims("s", **claims), WEAK, "RS256", {"kid": "weak"})),
        (
            {**apps.public(STRANGER, "enc"), "use": "enc"},
            jwt.encode(apps.claims("s", **claims), STRANGER, "RS256", {"kid": "enc"}),
        ),
        (
            {**apps.public(STRANGER, "other"), "alg": "PS256"},
            jwt.encode(apps.claims("s", **claims), STRANGER, "RS256", {"kid": "other"}),
        ),
        ({"kty": "RSA", "n": "!", "e": [], "kid": "odd"}, jwt.encode(apps.claims("s", **claims), STRANGER, "RS256", {"kid": "odd"})),
    ]  # fmt: skip
    apps.published = [apps.public(), *(key for key, _ in bad)]
    try:
        for key, token in bad:
            answer = ask(gate, token)
            assert answer.status_code == 401, key
            assert "isn't" in answer.json()["message"]
    finally:
        apps.published = None
    assert ask(gate, apps.token("s", **claims)).status_code == 200


def test_two_credentials_at_once_are_refused(gate: Gate, github: Issuer) -> None:
    token = github.github("acme/train", "ref:refs/heads/main")
    cookie = {"Cookie": "_gatehouse=x|1|y"}
    for headers in (cookie, {"Cookie": "a=b; _gatehouse_0=x"}):
        answer = ask(gate, token, headers=headers)
        assert answer.status_code == 401
        assert "Two credentials" in answer.json()["message"]
    with gate.sign_in("alice") as alice:
        alice.headers["Authorization"] = f"Bearer {token}"
        assert alice.get(gate.url + SEARCH, timeout=20).status_code == 401
    second = f"Authorization: Bearer {gate.provider.token('alice')}"
    assert raw(gate, f"Authorization: Bearer {token}", second).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("name", ["X-Forwarded-Email", "X_Forwarded_Email", "X-Forwarded-User", "X-Forwarded-Groups"])
def test_no_header_makes_a_machine_somebody_else(gate: Gate, github: Issuer, name: str) -> None:
    token = github.github("acme/other", "pull_request")
    for extra in ({}, {"Connection": f"close, {name}, Authorization"}):
        answer = ask(gate, token, "/gatehouse/whoami", headers={name: "alice@example.com", **extra})
        assert (answer.json()["email"], answer.json()["role"]) == ("github:acme/other:pull_request", "viewer")


def test_an_issuer_that_cannot_be_reached_is_said(gate: Gate, apps: Issuer) -> None:
    apps.broken = True
    try:
        claims: dict[str, Any] = {"aud": "api://mlflow", "azp": "11111111-2222-3333-4444-555555555555"}
        # Keys that were fetched serve on; a key that nobody has seen signs nothing.
        assert ask(gate, apps.token("s", **claims)).status_code == 200
        token = jwt.encode(apps.claims("s", **claims), STRANGER, "RS256", {"kid": "never seen"})
        assert ask(gate, token).status_code == 401
    finally:
        apps.broken = False
