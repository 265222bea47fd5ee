"""One gate with workspaces on PostgreSQL, and the people of two teams who use the same names for everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.access.conftest import QUIET, Client
from tests.support import Gate, Postgres, Provider, running

DATABASE = "teams"
POLICY = """
contact: platform@example.com
default: none
roles:
  admin: [user:alice@example.com]
  viewer: [user:bob@example.com]
workspaces:
  fraud:
    admin: [user:fiona@example.com]
    editor: [user:fred@example.com, "group:fraud@example.com"]
    viewer: [user:fay@example.com]
  vision:
    admin: [user:vince@example.com]
    editor: [user:victor@example.com]
    viewer: [user:vera@example.com]
"""
HEADER = "X-MLFLOW-WORKSPACE"


class Member(Client):
    """One person at the gate, in one workspace."""

    def __init__(self, gate: Gate, name: str, workspace: str | None, *groups: str) -> None:
        email = f"{name}@example.com"
        gate.provider.claims(email, email=email, email_verified=True, groups=list(groups))
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {gate.provider.token_of(email)}"
        if workspace is not None:
            session.headers[HEADER] = workspace
        super().__init__(gate, session)
        self.email = email

    def get(self, path: str, **parameters: Any) -> requests.Response:
        """Ask a path below MLflow's API."""
        return self.call("GET", f"/api/2.0/mlflow/{path}", params=parameters)


@pytest.fixture(scope="session")
def teams(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with two teams' workspaces."""
    folder = tmp_path_factory.mktemp("teams")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    environment = {
        "BACKEND_STORE_URI": postgres.create(DATABASE),
        "ACCESS_POLICY": str(policy),
        "WORKERS": "1",
        # For a test's own receiver of webhooks.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "2",
        **QUIET,
    }
    with running(Gate(folder, provider, **environment)) as part:
        yield part
