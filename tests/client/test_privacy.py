"""A token shows up nowhere: not in a log at debug level, not in an error, not in a process list."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.client.conftest import PATIENCE, Machine, login
from tests.client.googleapis import Google, person
from tests.client.openid import OpenIdProvider
from tests.support import wait_for

#: Everything that logs does so at debug level, with all that its records hold; at the end an error and its traceback.
TALKATIVE = """
import logging, os
class Everything(logging.Formatter):
    def format(self, record):
        return super().format(record) + " " + repr(record.__dict__)
handler = logging.StreamHandler()
handler.setFormatter(Everything())
logging.basicConfig(level=logging.DEBUG, handlers=[handler], force=True)
import mlflow
logging.getLogger("mlflow").setLevel(logging.DEBUG)
logging.getLogger("google").setLevel(logging.DEBUG)  # which is how google-auth is made to talk
mlflow.search_experiments()
from mlflow_gatehouse.keeper import keeper_of
token = keeper_of(os.environ["MLFLOW_TRACKING_URI"]).current()
print(repr(token), vars(keeper_of(os.environ["MLFLOW_TRACKING_URI"])))
mlflow.MlflowClient().get_run("0" * 32)
"""


def secrets_of(token: str) -> list[str]:
    """The token and the part of it without which the rest is worth nothing."""
    return [token, token.rpartition(".")[2]]


@pytest.mark.parametrize("source", ["impersonation", "metadata", "login", "environment"])
def test_no_log_and_no_error_holds_the_token(
    machine: Machine, google: Google, openid: OpenIdProvider, source: str
) -> None:
    minted: list[str] = []

    def mint(**claims: object) -> str:
        minted.append(openid.sign(**claims))  # type: ignore[arg-type]
        return minted[-1]

    google.mint = mint
    environment = {}
    if source == "impersonation":
        path = machine.home / "gcloud" / "application_default_credentials.json"
        path.parent.mkdir()
        path.write_text(json.dumps(person()))
        account = "other@project.iam.gserviceaccount.com"
        environment = google.as_googleapis | {"GATEHOUSE_IMPERSONATE_SERVICE_ACCOUNT": account}
    elif source == "metadata":
        environment = {"NO_GCE_CHECK": "", **google.as_metadata}
    elif source == "environment":
        environment = {"MLFLOW_TRACKING_TOKEN": mint()}
    else:
        login(machine)
    done = machine.script(TALKATIVE, expect=1, env=environment)
    said = done.stdout + done.stderr
    assert "RESOURCE_DOES_NOT_EXIST" in said, "the error came at the end"
    assert "urllib3.connectionpool" in said, "the log was on"
    if source in {"impersonation", "metadata"}:
        assert "Making request..." in said, "google-auth's too"
    if source == "login":
        record = json.loads(next((machine.home / ".config" / "gatehouse").glob("*.json")).read_text())
        minted += [record["id_token"], record["refresh_token"]]
    assert minted
    for token in minted:
        for secret in secrets_of(token):
            assert secret not in said


def command_lines(group: int) -> str:
    """The command lines and nothing else of the processes of a group."""
    lines = []
    listed = subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True, check=False).stdout
    for pid in listed.split():
        try:
            lines.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return "\n".join(lines)


def test_no_process_list_holds_the_token(machine: Machine, google: Google, openid: OpenIdProvider) -> None:
    minted: list[str] = []

    def mint(**claims: object) -> str:
        minted.append(openid.sign(**claims))  # type: ignore[arg-type]
        return minted[-1]

    google.mint = mint
    text = """
import os, time
from mlflow_gatehouse.keeper import keeper_of
keeper_of(os.environ["MLFLOW_TRACKING_URI"]).current()
open("has one", "w").close()
while not os.path.exists("seen"):
    time.sleep(0.05)
"""
    process = machine.start(machine.python, "-c", text, NO_GCE_CHECK="", env=google.as_metadata)
    seen = ""
    deadline = time.monotonic() + PATIENCE
    while not (machine.home / "has one").exists() and time.monotonic() < deadline:
        seen += command_lines(process.pid)
    seen += wait_for(lambda: command_lines(process.pid), "the process list")
    (machine.home / "seen").touch()
    assert process.wait(PATIENCE) == 0
    assert minted
    assert "keeper_of" in seen
    assert minted[0] not in seen
