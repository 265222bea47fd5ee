"""gcloud's own sign-in: asked once, so that several gclouds at a time don't fight for its credential database."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import Tool

OWNER = "owner@example.com"


def test_a_locked_credential_database_stops_nothing(deployed: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real gcloud with a person signed in; once the tool has its token, somebody else's gcloud holds both databases."""
    cloud, home = deployed.cloud, Path(deployed.environment()["CLOUDSDK_CONFIG"])
    deployed.extra["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"] = ""
    deployed.extra |= {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "CLOUDSDK_CORE_ACCOUNT": OWNER}
    cloud.federation.refresh_tokens["1//refresh"] = f"user:{OWNER}"

    def gcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(deployed.gcloud / "gcloud"), *arguments]
        return subprocess.run(
            command, env=deployed.environment(), capture_output=True, text=True, timeout=120, check=False
        )

    signed_in = gcloud("auth", "activate-refresh-token", OWNER, "1//refresh")
    assert signed_in.returncode == 0, signed_in.stderr
    held: list[sqlite3.Connection] = []
    answer = cloud.answer

    def hold_once_asked(host: str, *request: Any) -> Any:
        if not held and host not in {"oauth2.googleapis.com", "sts.googleapis.com"}:
            for name in ("credentials.db", "access_tokens.db"):
                held.append(sqlite3.connect(home / name, isolation_level=None, check_same_thread=False))
                held[-1].execute("BEGIN EXCLUSIVE")
        return answer(host, *request)

    monkeypatch.setattr(cloud, "answer", hold_once_asked)
    deployed.here_good("backup")
    assert len(held) == 2
    assert len(cloud.sql.instances["mlflow-dev"].backups) == 1
    # The lock bites: without the tool's token a gcloud gets nowhere.
    alone = gcloud("sql", "instances", "list", "--project=demo-project")
    assert alone.returncode != 0
    assert "locked" in alone.stderr
    for connection in held:
        connection.close()
