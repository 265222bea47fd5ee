"""Every place that a token can come from, with the real libraries: each serves, in the documented order."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import requests

from mlflow_gatehouse.identity_token import claims_of
from mlflow_gatehouse.sources import SOURCES
from tests.client.conftest import Machine
from tests.client.googleapis import (
    ACCOUNT,
    ADC_AUDIENCE,
    GCLOUD_AUDIENCE,
    PERSON,
    Google,
    person,
    service_account_key,
)
from tests.client.openid import OpenIdProvider
from tests.support import Gate, missing


def accepted(front: Gate, token: str) -> str:
    """Show a token to the gate; return whom it sees."""
    answer = requests.get(f"{front.url}/oauth2/userinfo", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["email"])


def write(path: Path, content: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def used(explained: str) -> str:
    """The source that ``mlflow-gatehouse token --explain`` marks."""
    match = re.search(r"^→ (\w+) +used$", explained, re.MULTILINE)
    assert match, explained
    return match[1]


def test_a_token_in_the_environment_serves_while_it_lives(machine: Machine, openid: OpenIdProvider) -> None:
    token = openid.token()
    assert machine.gatehouse("token", MLFLOW_TRACKING_TOKEN=token).stdout.strip() == token
    old = openid.sign(life=-60)
    shown = machine.gatehouse("token", expect=67, MLFLOW_TRACKING_TOKEN=old, GATEHOUSE_TOKEN_SOURCE="environment")
    assert "environment: its token isn't of use: it ended" in shown.stderr
    assert "unset MLFLOW_TRACKING_TOKEN" in shown.stderr


def test_a_token_file_serves_and_both_at_once_is_an_error(
    machine: Machine, front: Gate, openid: OpenIdProvider
) -> None:
    path = write(machine.home / "token", openid.token("bob") + "\n")
    token = machine.gatehouse("token", MLFLOW_TRACKING_TOKEN_FILE=path).stdout.strip()
    assert accepted(front, token) == "bob@example.com"
    both = machine.gatehouse("token", expect=78, MLFLOW_TRACKING_TOKEN_FILE=path, MLFLOW_TRACKING_TOKEN=token)
    assert "are both set" in both.stderr


def test_the_metadata_server_serves(machine: Machine, front: Gate, google: Google) -> None:
    token = machine.gatehouse("token", NO_GCE_CHECK="", env=google.as_metadata).stdout.strip()
    assert accepted(front, token) == ACCOUNT
    request = next(request for request in google.seen if request.path.endswith("/identity"))
    assert request.query == {"audience": front.url, "format": "full"}
    assert request.headers["metadata-flavor"] == "Google"


def test_a_service_accounts_key_serves(machine: Machine, front: Gate, google: Google) -> None:
    path = write(machine.home / "key.json", service_account_key(f"http://{google.address}/token"))
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": path, "NO_GCE_CHECK": "", **google.as_metadata}
    token = machine.gatehouse("token", env=environment).stdout.strip()
    assert accepted(front, token) == ACCOUNT
    assert claims_of(token)["aud"] == front.url
    assert google.count("/identity") == 0, "a key that was named goes before the machine's own identity"


def test_an_impersonated_account_serves(machine: Machine, front: Gate, google: Google) -> None:
    write(machine.home / "gcloud" / "application_default_credentials.json", person())
    other = "other@project.iam.gserviceaccount.com"
    environment = google.as_googleapis | {"GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT": other}
    assert accepted(front, machine.gatehouse("token", env=environment).stdout.strip()) == other
    minted = next(request for request in google.seen if request.path.endswith(":generateIdToken"))
    assert minted.host == "iamcredentials.googleapis.com"
    assert minted.body["includeEmail"] is True


def test_credentials_that_impersonate_by_themselves_serve(machine: Machine, front: Gate, google: Google) -> None:
    url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken"
    info = {
        "type": "impersonated_service_account",
        "service_account_impersonation_url": url,
        "source_credentials": person(),
        "delegates": [],
    }
    write(machine.home / "gcloud" / "application_default_credentials.json", info)
    token = machine.gatehouse("token", env=google.as_googleapis).stdout.strip()
    assert accepted(front, token) == ACCOUNT


def test_workload_identity_federation_serves(machine: Machine, front: Gate, google: Google) -> None:
    """As google-github-actions/auth sets it up."""
    subject = write(machine.home / "subject", "a token of the CI's own")
    url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken"
    pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/providers/github"
    info = {
        "type": "external_account",
        "audience": pool,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": subject},
        "service_account_impersonation_url": url,
    }
    path = write(machine.home / "federation.json", info)
    environment = google.as_googleapis | {"GOOGLE_APPLICATION_CREDENTIALS": path}
    explained = machine.gatehouse("token", "--explain", env=environment).stdout
    assert used(explained) == "federation"
    assert accepted(front, machine.gatehouse("token", env=environment).stdout.strip()) == ACCOUNT
    exchanged = next(request for request in google.seen if request.host == "sts.googleapis.com")
    assert exchanged.body["subject_token"] == "a token of the CI's own"


def test_a_persons_default_credentials_serve_where_the_server_takes_them(
    machine: Machine, front: Gate, google: Google
) -> None:
    write(machine.home / "gcloud" / "application_default_credentials.json", person())
    shown = machine.gatehouse("token", expect=67, env=google.as_googleapis)
    assert f"user: its token isn't of use: it is for the audience {ADC_AUDIENCE}" in shown.stderr
    assert front.url in shown.stderr, "which audiences the server takes"


def test_revoked_default_credentials_say_what_to_run(machine: Machine, google: Google) -> None:
    write(machine.home / "gcloud" / "application_default_credentials.json", person("revoked"))
    shown = machine.gatehouse("token", expect=67, env=google.as_googleapis)
    assert "invalid_grant" in shown.stderr
    assert "gcloud auth application-default login" in shown.stderr


@pytest.mark.parametrize("kind", ["person", "service account"])
def test_gcloud_serves(machine: Machine, front: Gate, google: Google, kind: str) -> None:
    program = shutil.which("gcloud")
    if program is None:
        missing("gcloud", "install the Google Cloud CLI")
    environment = google.as_googleapis | {
        "PATH": f"{machine.environment['PATH']}:{Path(str(program)).parent}",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": str(google.authority),
    }
    if kind == "person":
        machine.run("gcloud", "auth", "activate-refresh-token", PERSON, "good", env=environment)
    else:
        key = write(machine.home / "key.json", service_account_key(f"http://{google.address}/token"))
        machine.run("gcloud", "auth", "activate-service-account", f"--key-file={key}", env=environment)
    token = machine.gatehouse("token", env=environment).stdout.strip()
    assert accepted(front, token) == (PERSON if kind == "person" else ACCOUNT)
    assert claims_of(token)["aud"] == (GCLOUD_AUDIENCE if kind == "person" else front.url)


def test_what_is_set_by_hand_goes_first_and_the_rest_says_why_not(
    machine: Machine, google: Google, openid: OpenIdProvider
) -> None:
    """All at once: the order of the documentation, each source taken away in turn."""
    key = write(machine.home / "key.json", service_account_key(f"http://{google.address}/token"))
    environment = {"NO_GCE_CHECK": "", "MLFLOW_TRACKING_TOKEN": openid.token(), **google.as_metadata}
    first = machine.gatehouse("token", "--explain", env=environment).stdout
    assert used(first) == "environment"
    assert "metadata       not asked: environment came first" in first
    second = machine.gatehouse("token", "--explain", env=environment | {"MLFLOW_TRACKING_TOKEN": ""}).stdout
    assert used(second) == "metadata"
    assert "environment    not here: MLFLOW_TRACKING_TOKEN isn't set" in second
    environment |= {"MLFLOW_TRACKING_TOKEN": "", "GOOGLE_APPLICATION_CREDENTIALS": key}
    third = machine.gatehouse("token", "--explain", env=environment).stdout
    assert used(third) == "key"
    assert "metadata       not here: GOOGLE_APPLICATION_CREDENTIALS is set, and goes first" in third
    assert [line.split()[0] for line in re.findall(r"^[→ ] (\w+ .*)$", third, re.MULTILINE)] == [
        source.name for source in SOURCES
    ]


def test_no_source_at_all_lists_each_with_its_reason(machine: Machine) -> None:
    shown = machine.gatehouse("token", expect=67).stderr
    for source in SOURCES:
        assert f"    {source.name}: not here: " in shown
    assert f"Fix: sign in: mlflow-gatehouse login {machine.url}" in shown


def test_the_source_can_be_chosen(machine: Machine, google: Google, openid: OpenIdProvider) -> None:
    environment = {"NO_GCE_CHECK": "", "MLFLOW_TRACKING_TOKEN": openid.token(), **google.as_metadata}
    explained = machine.gatehouse("token", "--explain", GATEHOUSE_TOKEN_SOURCE="metadata", env=environment).stdout
    assert used(explained) == "metadata"
    wrong = machine.gatehouse("token", expect=78, GATEHOUSE_TOKEN_SOURCE="magic", env=environment)
    assert "there is no source magic" in wrong.stderr


def test_a_credentials_file_that_is_named_and_missing_is_an_error_not_a_fallback(
    machine: Machine, google: Google
) -> None:
    environment = {"NO_GCE_CHECK": "", "GOOGLE_APPLICATION_CREDENTIALS": "/no/such/key.json", **google.as_metadata}
    shown = machine.gatehouse("token", expect=78, env=environment)
    assert "names /no/such/key.json, which doesn't exist" in shown.stderr


@pytest.mark.parametrize("claim", ["aud", "email"])
def test_a_token_that_the_server_would_refuse_is_not_sent(
    machine: Machine, google: Google, openid: OpenIdProvider, claim: str
) -> None:
    other = {"aud": "https://elsewhere.example.com"} if claim == "aud" else {"email": None}
    google.mint = lambda **claims: openid.sign(**(claims | other))
    shown = machine.gatehouse("token", expect=67, NO_GCE_CHECK="", env=google.as_metadata).stderr
    reason = {"aud": "it is for the audience https://elsewhere.example.com", "email": "it has no e-mail claim"}[claim]
    assert f"metadata: its token isn't of use: {reason}" in shown


def test_the_server_cannot_choose_the_audience_that_is_asked_for(machine: Machine, google: Google, front: Gate) -> None:
    """A hostile server could play a token for somebody else's audience there."""
    machine.gatehouse("token", NO_GCE_CHECK="", env=google.as_metadata)
    machine.gatehouse(
        "token", expect=67, NO_GCE_CHECK="", GATEHOUSE_AUDIENCE="https://mine.example.com", env=google.as_metadata
    )
    asked = [request.query["audience"] for request in google.seen if request.path.endswith("/identity")]
    assert asked == [front.url, "https://mine.example.com"]
