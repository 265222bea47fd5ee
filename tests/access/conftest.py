"""A gate with an access policy, its audit log, and its database as one comparable value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from local.proxy_binary import ROOT
from tests.support import Gate, Postgres, Provider, running, wait_for

DATABASE = "access"
POLICY = ROOT / "local" / "access.yaml"
QUIET = {f"OAUTH2_PROXY_{kind}_LOGGING": "false" for kind in ("REQUEST", "AUTH", "STANDARD")}
TIMEOUT_S = 30


def audit_lines(gate: Gate) -> list[dict[str, Any]]:
    """Return the lines of the audit log."""
    lines = [json.loads(line) for line in gate.log().splitlines() if line.startswith("{")]
    return [line for line in lines if "audit" in line]


def line_of(gate: Gate, answer: requests.Response) -> dict[str, Any]:
    """Return the audit line of an answer: the two share the request's id."""
    request_id = answer.headers["x-request-id"]
    found = [line for line in audit_lines(gate) if line["audit"]["request_id"] == request_id]
    assert len(found) == 1, f"{len(found)} lines for {request_id}: {answer.status_code} {answer.text}"
    return found[0]


class Client:
    """One person at the gate, with the calls that tests repeat."""

    def __init__(self, gate: Gate, session: requests.Session) -> None:
        self.gate = gate
        self.session = session

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Send a request to a path of the gate."""
        return self.session.request(method, self.gate.url + path, **{"timeout": TIMEOUT_S, **arguments})

    def post(self, path: str, **document: Any) -> requests.Response:
        """Send a JSON document to a path below MLflow's API."""
        return self.call("POST", f"/api/2.0/mlflow/{path}", json=document)

    def make(self, path: str, **document: Any) -> dict[str, Any]:
        """As ``post``, and it must succeed; return the answer."""
        answer = self.post(path, **document)
        assert answer.status_code == 200, f"{path}: {answer.text}\n{self.gate.log()[-3000:]}"
        return dict(answer.json())

    def run(self, **document: Any) -> str:
        """Create a run; return its id."""
        return str(self.make("runs/create", **{"experiment_id": "0", **document})["run"]["info"]["run_id"])

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run, with its user_id as ``user_id``."""
        run = self.call("GET", "/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
        return {tag["key"]: tag["value"] for tag in run["data"]["tags"]} | {"user_id": run["info"]["user_id"]}


@pytest.fixture(scope="session")
def gate(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate on PostgreSQL with the local policy: alice administers, bob works, carol looks."""
    folder = tmp_path_factory.mktemp("access")
    environment = {"BACKEND_STORE_URI": postgres.create(DATABASE), "ACCESS_POLICY": str(POLICY), **QUIET}
    with running(Gate(folder, provider, **environment)) as part:
        yield part


@pytest.fixture(scope="session")
def alice(gate: Gate) -> Client:
    return Client(gate, gate.session("alice"))


@pytest.fixture(scope="session")
def bob(gate: Gate) -> Client:
    return Client(gate, gate.session("bob"))


@pytest.fixture(scope="session")
def carol(gate: Gate) -> Client:
    return Client(gate, gate.session("carol"))


class Snapshot:
    """All rows of all tables, and all artifacts, as digests by name."""

    def __init__(self, postgres: Postgres, gate: Gate) -> None:
        self._postgres = postgres
        self._gate = gate

    def take(self) -> dict[str, str]:
        tables = self._postgres.sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", DATABASE
        ).splitlines()
        assert len(tables) > 40
        digests = " UNION ALL ".join(
            f"SELECT '{table}', md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM \"{table}\" t"
            for table in tables
        )
        rows = self._postgres.sql(digests, DATABASE).splitlines()
        state = dict(row.split("|", 1) for row in rows)
        for file in sorted((self._gate.folder / "artifacts").rglob("*")):
            if file.is_file():
                state[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
        return state


@pytest.fixture(scope="session")
def snapshot(postgres: Postgres, gate: Gate) -> Snapshot:
    return Snapshot(postgres, gate)


def wait_for_line(gate: Gate, wanted: Any, what: str) -> dict[str, Any]:
    """Wait for an audit line that ``wanted`` accepts."""
    return dict(wait_for(lambda: next(filter(wanted, reversed(audit_lines(gate))), None), what, logs=gate.log))
