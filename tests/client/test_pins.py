"""No server gets a token that is good at another one: not by naming its client, and not by naming its scope."""

from __future__ import annotations

import os
import pty
import re

import pytest

from mlflow_gatehouse.errors import ConfigurationError
from mlflow_gatehouse.server import Server, require_private
from tests.client.conftest import PATIENCE, Machine, login
from tests.client.googleapis import GCLOUD_AUDIENCE
from tests.client.impostor import Impostor, standing_in
from tests.client.openid import HOURLY_CLIENT_ID, LOGIN_CLIENT_ID, OpenIdProvider


def test_another_server_that_names_a_known_ones_client_gets_no_sign_in(
    machine: Machine, openid: OpenIdProvider
) -> None:
    """With a session at the provider it would take no password, and the token would be good at the honest server."""
    login(machine)
    machine.gatehouse("logout")  # what is known outlives it
    before = openid.granted("authorization_code")
    hostile = Impostor(200)
    hostile.describe(version=1, issuer=openid.issuer, client_id=LOGIN_CLIENT_ID, audiences=[LOGIN_CLIENT_ID])
    with standing_in(hostile):
        shown = machine.gatehouse("login", hostile.url, "--browser", expect=78).stderr
    assert f"with which this machine signs in to {machine.url}" in shown
    assert f"--client-id {LOGIN_CLIENT_ID}" in shown
    assert re.search(r"^  http", shown, re.M) is None, "no address at which to sign in was shown"
    assert openid.granted("authorization_code") == before


def test_a_server_that_changes_its_client_is_looked_at(machine: Machine) -> None:
    login(machine, "--client-id", HOURLY_CLIENT_ID)
    shown = machine.gatehouse("login", "--browser", expect=78).stderr
    assert f"as its client {HOURLY_CLIENT_ID}; now it names {LOGIN_CLIENT_ID}" in shown
    login(machine, "--client-id", LOGIN_CLIENT_ID)  # a person's own word
    login(machine)  # and from now on it is the known one


def test_the_same_client_again_asks_nothing(machine: Machine) -> None:
    login(machine)
    assert "Look twice" not in login(machine)


@pytest.mark.parametrize("answer", ["n", ""])
def test_a_person_is_asked_and_can_decline(machine: Machine, answer: str) -> None:
    login(machine, "--client-id", HOURLY_CLIENT_ID)
    keyboard, terminal = pty.openpty()
    try:
        command = [machine.python, "-m", "mlflow_gatehouse", "login", "--browser"]
        process = machine.start(*command, stdin=terminal)
        os.write(keyboard, f"{answer}\n".encode())
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert process.returncode == 78
    assert "Sign in? [y/N]" in said
    assert "not signed in" in said


def test_googles_own_clients_are_refused(machine: Machine) -> None:
    hostile = Impostor(200)
    hostile.describe(version=1, issuer="https://accounts.google.com", client_id=GCLOUD_AUDIENCE)
    with standing_in(hostile):
        shown = machine.gatehouse("login", hostile.url, expect=78).stderr
    assert "a client of Google's own" in shown


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        ("openid email audience:server:client_id:other", "openid email"),
        ("openid other-gates-audience", "openid"),
        ("audience:server:client_id:other", "openid email profile offline_access"),
        ("openid email profile groups offline_access", "openid email profile groups offline_access"),
        ("", "openid email profile offline_access"),
    ],
)
def test_a_server_cannot_choose_an_audience_by_a_scope(named: str, asked: str) -> None:
    assert Server("https://mlflow.example.com", {"scope": named}).scope == asked


def test_no_token_goes_where_nobody_looks_at_the_certificate(machine: Machine, openid: OpenIdProvider) -> None:
    """MLflow's own setting; its requests then go to whoever answers."""
    anybody = Impostor(200, "{}", Content_Type="application/json")
    environment = {"MLFLOW_TRACKING_TOKEN": openid.token(), "MLFLOW_TRACKING_INSECURE_TLS": "true"}
    environment |= {"MLFLOW_TRACKING_URI": anybody.url}
    with standing_in(anybody):
        script = machine.script("import mlflow; mlflow.MlflowClient().get_run('x')", expect=1, env=environment)
        commands = [machine.gatehouse(name, expect=78, env=environment) for name in ("token", "whoami", "login")]
    for shown in (script, *commands):
        assert "MLFLOW_TRACKING_INSECURE_TLS is set" in shown.stderr
    assert anybody.seen == []


@pytest.mark.parametrize("value", ["true", "1", "TRUE", " True "])
def test_the_setting_is_read_as_mlflow_reads_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", value)
    with pytest.raises(ConfigurationError):
        require_private("https://mlflow.example.com")
