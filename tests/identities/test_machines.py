"""Machines come in by the tokens that their own platforms make: no e-mail address, no secret, and under their own names."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from tests.access.conftest import line_of
from tests.identities.conftest import Issuer, ask
from tests.support import Gate, free_port, wait_for

WHOAMI = "/gatehouse/whoami"
CREATE = "/api/2.0/mlflow/runs/create"


def test_a_job_of_github_actions_writes_under_its_own_name(gate: Gate, github: Issuer) -> None:
    token = github.github("acme/train", "ref:refs/heads/main")
    whoami = ask(gate, token, WHOAMI)
    assert whoami.status_code == 200, whoami.text + gate.log()[-2000:]
    assert whoami.json()["email"] == "github:acme/train:heads/main"
    assert (whoami.json()["kind"], whoami.json()["role"]) == ("machine", "editor")
    made = ask(gate, token, CREATE, json={"experiment_id": "0", "user_id": "ceo"})
    assert made.status_code == 200, made.text
    assert made.json()["run"]["info"]["user_id"] == "github:acme/train:heads/main"
    audit = line_of(gate, made)["audit"]
    assert (audit["identity"], audit["kind"], audit["subject"]) == (
        "github:acme/train:heads/main", "machine", "repo:acme/train:ref:refs/heads/main",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("repository", "rest", "role"),
    [
        ("acme/train", "ref:refs/heads/dev", "viewer"),
        ("acme/other", "environment:prod", "viewer"),
        ("acme/train", "pull_request", "viewer"),
        ("acme-evil/train", "ref:refs/heads/main", "none"),
        ("acme/train", "ref:refs/heads/main2", "viewer"),
        ("evil/acme", "ref:refs/heads/main", "none"),
    ],
)
def test_only_what_the_policy_names_has_a_role(
    gate: Gate, github: Issuer, repository: str, rest: str, role: str
) -> None:
    answer = ask(gate, github.github(repository, rest), WHOAMI)
    assert answer.json()["role"] == role
    refused = ask(gate, github.github(repository, rest), CREATE, json={"experiment_id": "0"})
    assert refused.status_code == 403
    assert line_of(gate, refused)["audit"]["result"] == "refused"


@pytest.mark.parametrize(
    ("namespace", "name", "role"),
    [
        ("fraud", "trainer", "editor"),
        ("default", "reader", "viewer"),
        ("fraud2", "trainer", "none"),
        ("default", "x", "none"),
    ],
)
def test_a_pod_comes_in_as_its_service_account(
    gate: Gate, cluster: Issuer, namespace: str, name: str, role: str
) -> None:
    answer = ask(gate, cluster.kubernetes(namespace, name), WHOAMI)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["email"], answer.json()["role"]) == (f"kubernetes:{namespace}/{name}", role)


def test_a_client_of_the_peoples_own_provider_is_a_machine_and_a_person_stays_one(gate: Gate) -> None:
    subject = "8f2b0d9e-6a0d-4a3b-9d0e-2f5a9b6f1c11"
    gate.provider.claims(subject, preferred_username="service-account-trainer")
    answer = ask(gate, gate.provider.token_of(subject, "gatehouse-machines"), WHOAMI)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["email"], answer.json()["kind"], answer.json()["role"]) == (
        f"keycloak:{subject}", "machine", "editor",
    )  # fmt: skip
    with gate.session("alice") as alice:
        assert alice.get(gate.url + WHOAMI, timeout=20).json()["kind"] == "person"
    # A person's token for the machines' audience is no person's.
    person = ask(gate, gate.provider.token("alice", "gatehouse-machines"), WHOAMI).json()
    assert (person["email"], person["role"]) == ("keycloak:alice%40example.com", "none")


def test_a_keycloak_client_with_an_address_is_no_person(gate: Gate) -> None:
    gate.provider.claims("client", email="trainer@example.com", preferred_username="service-account-trainer")
    token = gate.provider.token_of("client")
    nothing: dict[str, str] = {}
    for hidden in (nothing, {"Connection": "X-Forwarded-Preferred-Username"}):
        answer = ask(gate, token, WHOAMI, headers=hidden)
        assert (answer.json()["kind"], answer.json()["role"]) == ("service account", "none"), answer.text


def test_an_application_is_told_by_its_client_id(gate: Gate, apps: Issuer) -> None:
    claims: dict[str, Any] = {
        "aud": "api://mlflow",
        "azp": "11111111-2222-3333-4444-555555555555",
        "roles": ["trainer"],
        "tid": "t",
    }
    answer = ask(gate, apps.token("an-object-id", **claims), WHOAMI)
    assert (answer.json()["role"], answer.json()["groups"]) == ("editor", ["trainer"])
    # The same client's id stands in the token of a person who has signed in with it.
    for mark in ("scp", "sid", "auth_time", "nonce"):
        refused = ask(gate, apps.token("somebody", **{**claims, mark: "x"}), WHOAMI)
        assert refused.status_code == 401
        assert "signed in" in refused.json()["message"]


def test_the_token_can_come_as_a_password(gate: Gate, github: Issuer) -> None:
    token = github.github("acme/train", "ref:refs/heads/main")
    for pair in (f"anybody:{token}", f"{token}:", f"{token}:x-oauth-basic"):
        basic = base64.b64encode(pair.encode()).decode()
        answer = requests.get(gate.url + WHOAMI, headers={"Authorization": f"Basic {basic}"}, timeout=20)
        assert answer.json()["email"] == "github:acme/train:heads/main"


def test_keys_rotate_without_a_restart(gate: Gate, cluster: Issuer) -> None:
    old, old_kid = cluster.key, cluster.kid
    token = cluster.kubernetes("fraud", "trainer")
    assert ask(gate, token, WHOAMI).status_code == 200
    cluster.key, cluster.kid = ec.generate_private_key(ec.SECP256R1()), "new"
    try:
        cluster.published = [cluster.public(), cluster.public(old, old_kid)]
        claims = cluster.claims("system:serviceaccount:fraud:trainer", aud=["mlflow"])
        fresh = jwt.encode(claims, cluster.key, "ES256", {"kid": "new"})
        # The keys are asked for anew at most every ten seconds.
        wait_for(lambda: ask(gate, fresh, WHOAMI).status_code == 200, "the new key", 30, gate.log)
        assert ask(gate, token, WHOAMI).status_code == 200
    finally:
        cluster.key, cluster.kid, cluster.published = old, old_kid, None


def test_the_doctor_looks_at_each_issuer(gate: Gate, cluster: Issuer, apps: Issuer) -> None:
    apps.broken = True
    try:
        command = [sys.executable, "-m", "gatehouse", "doctor"]
        # The gate itself has its own port.
        environment = {**gate.environment, "OAUTH2_PROXY_HTTP_ADDRESS": f"127.0.0.1:{free_port()}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    finally:
        apps.broken = False
    said = done.stdout + done.stderr
    assert f"the machines' issuer kubernetes: {cluster.url} publishes 1 keys" in said
    assert f"the machines' issuer apps: {apps.url}/.well-known/openid-configuration answers 503" in said
    assert done.returncode == 69, said
