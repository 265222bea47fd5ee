"""Keys for programs that can't renew a token: made, used in each of their ways, ended; and what no key may do."""

from __future__ import annotations

import base64
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.access.conftest import audit_lines, line_of
from tests.identities.conftest import SEARCH, ask, raw
from tests.support import Gate, Postgres, Provider, running, wait_for

KEYS = "/gatehouse/keys"
WHOAMI = "/gatehouse/whoami"
CREATE = "/api/2.0/mlflow/runs/create"
POLICY = """
default: none
roles:
  admin: ["user:alice@example.com"]
  editor: ["user:bob@example.com"]
  viewer: ["user:carol@example.com"]
"""


@pytest.fixture(scope="module")
def gate(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with keys, and two workers: what one is told, the other must learn."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "policy.yaml").write_text(POLICY)
    environment = {
        "BACKEND_STORE_URI": postgres.create("keys"), "ACCESS_POLICY": str(folder / "policy.yaml"), "API_KEYS": "true",
        "WORKERS": "2",
    }  # fmt: skip
    with running(Gate(folder, provider, **environment)) as part:
        yield part


@pytest.fixture(scope="module")
def make(gate: Gate) -> Callable[..., dict[str, Any]]:
    """Make a key as a person, with a name of its own."""
    count = iter(range(1000))

    def key(person: str = "bob", role: str = "editor", days: int = 30, **more: Any) -> dict[str, Any]:
        with gate.session(person) as session:
            document = {"name": f"key-{next(count)}", "role": role, "days": days, **more}
            answer = session.post(gate.url + KEYS, json=document, timeout=30)
        assert answer.status_code == 200, answer.text + gate.log()[-3000:]
        return dict(answer.json())

    return key


def command(gate: Gate, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gatehouse", "keys", *arguments], env=gate.environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_a_key_works_as_its_maker(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    made = make()
    answer = ask(gate, made["key"], CREATE, json={"experiment_id": "0", "user_id": "ceo"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["run"]["info"]["user_id"] == "bob@example.com"
    line = line_of(gate, answer)
    assert line["message"].startswith(f"key {made['name']} of bob@example.com create_run")
    assert (line["audit"]["identity"], line["audit"]["key"], line["audit"]["role"]) == (
        "bob@example.com", made["name"], "editor",
    )  # fmt: skip
    assert made["key"] not in gate.log()


@pytest.mark.parametrize("pair", ["bob@example.com:{}", "x:{}", "{}:", ":{}"])
def test_a_key_can_be_a_password(gate: Gate, make: Callable[..., dict[str, Any]], pair: str) -> None:
    basic = base64.b64encode(pair.format(make()["key"]).encode()).decode()
    answer = requests.get(gate.url + WHOAMI, headers={"Authorization": f"Basic {basic}"}, timeout=20)
    assert (answer.status_code, answer.json()["email"]) == (200, "bob@example.com")


def test_curl_the_sdk_and_opentelemetry_come_in_with_it(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    key = make()["key"]
    curl = ["curl", "-sS", "-f", "-u", f"anybody:{key}", gate.url + SEARCH]
    assert "experiments" in subprocess.run(curl, capture_output=True, text=True, timeout=30, check=True).stdout
    script = """
import os, mlflow
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
with mlflow.start_run(experiment_id="0") as run:
    mlflow.log_metric("m", 1)
exporter, results = OTLPSpanExporter(), []
export = exporter.export
exporter.export = lambda spans: results.append(export(spans)) or results[-1]
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("t").start_span("s").end()
assert results == [SpanExportResult.SUCCESS], results
print("run", run.info.run_id, run.info.user_id)
"""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(gate.folder), "MLFLOW_TRACKING_URI": gate.url,
        "MLFLOW_TRACKING_USERNAME": "anybody", "MLFLOW_TRACKING_PASSWORD": key, "MLFLOW_DISABLE_TELEMETRY": "true",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{gate.url}/v1/traces",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{key},x-mlflow-experiment-id=0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + gate.log()[-2000:]
    assert "bob@example.com" in done.stdout


def test_a_key_has_at_most_its_makers_role(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    with gate.session("bob") as bob:
        refused = bob.post(gate.url + KEYS, json={"name": "up", "role": "admin", "days": 1}, timeout=20)
    assert refused.status_code == 403
    assert "at most its maker's role" in refused.json()["message"]
    viewer = make("alice", "viewer")["key"]
    assert ask(gate, viewer, WHOAMI).json()["role"] == "viewer"
    assert ask(gate, viewer, CREATE, json={"experiment_id": "0"}).status_code == 403
    # What its owner loses, it loses: carol is a viewer, whatever her key may.
    done = command(gate, "create", "--name", "high", "--role", "admin", "--days", "1", "--for", "carol@example.com")
    assert done.returncode == 0, done.stderr
    assert ask(gate, done.stdout.strip(), WHOAMI).json()["role"] == "viewer"
    done = command(gate, "create", "--name", "x", "--role", "admin", "--days", "1", "--for", "mallory@example.com")
    assert ask(gate, done.stdout.strip(), SEARCH).status_code == 403


def test_a_key_makes_no_keys(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    made = make()
    for method, path in (("GET", KEYS), ("POST", KEYS), ("DELETE", f"{KEYS}/{made['id']}")):
        answer = requests.request(
            method, gate.url + path, json={"name": "more", "role": "viewer", "days": 1},
            headers={"Authorization": f"Bearer {made['key']}"}, timeout=20,
        )  # fmt: skip
        assert answer.status_code == 403, answer.text


def test_a_revoked_key_ends_everywhere(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    made = make()
    # Both workers have looked it up.
    for _ in range(20):
        assert ask(gate, made["key"], WHOAMI).status_code == 200
    with gate.session("carol") as carol:
        assert carol.delete(f"{gate.url}{KEYS}/{made['id']}", timeout=20).status_code == 400, "it is bob's"
        assert made["id"] not in carol.get(gate.url + KEYS, timeout=20).text
    with gate.session("alice") as alice:
        listed = {key["id"]: key for key in alice.get(gate.url + KEYS, timeout=20).json()["keys"]}
        assert listed[made["id"]]["last_used"]
        assert "key" not in listed[made["id"]]
        answer = alice.delete(f"{gate.url}{KEYS}/{made['id']}", timeout=20)
    assert line_of(gate, answer)["audit"]["action"] == "revoke_key"
    began = time.monotonic()
    # Twenty answers in a row come from both workers.
    wait_for(lambda: all(ask(gate, made["key"], WHOAMI).status_code == 401 for _ in range(20)), "its end", 20, gate.log)
    assert time.monotonic() - began < 15
    assert "is revoked" in ask(gate, made["key"], WHOAMI).json()["message"]


def test_an_expired_key_is_over(gate: Gate, make: Callable[..., dict[str, Any]], postgres: Postgres) -> None:
    made = make()
    postgres.sql(f"UPDATE gatehouse_keys SET expires = 1 WHERE id = '{made['id']}'", "keys")
    answer = ask(gate, made["key"], WHOAMI)
    assert answer.status_code == 401
    assert "is expired" in answer.json()["message"]


def test_the_command_lists_and_revokes(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    made = make()
    assert made["id"] in command(gate, "list", "--for", "bob@example.com").stdout
    assert command(gate, "revoke", made["id"]).returncode == 0
    assert command(gate, "revoke", made["id"]).returncode == 64
    assert "revoked" in command(gate, "list").stdout
    assert made["key"] not in command(gate, "list").stdout


@pytest.mark.parametrize(
    "document",
    [
        {}, {"name": "a"}, {"name": "a", "role": "editor"}, {"name": "a", "role": "editor", "days": 0},
        {"name": "a", "role": "editor", "days": 366}, {"name": "a", "role": "editor", "days": True},
        {"name": "a", "role": "editor", "days": "30"}, {"name": "a", "role": "none", "days": 1},
        {"name": "A b", "role": "viewer", "days": 1}, {"name": "a" * 65, "role": "viewer", "days": 1},
        {"name": "\u0430", "role": "viewer", "days": 1}, {"name": ["a"], "role": "viewer", "days": 1},
        {"name": "a", "role": "viewer", "days": 1, "owner": "alice@example.com"}, [], "a",
    ],
)  # fmt: skip
def test_a_bad_wish_makes_nothing(gate: Gate, document: Any) -> None:
    with gate.session("bob") as bob:
        answer = bob.post(gate.url + KEYS, json=document, timeout=20)
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"]


def test_a_name_is_there_once(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    name = make()["name"]
    with gate.session("bob") as bob:
        answer = bob.post(gate.url + KEYS, json={"name": name, "role": "viewer", "days": 1}, timeout=20)
    assert answer.status_code == 400
    assert name in answer.json()["message"]


def changed(key: str) -> str:
    return key[:-1] + ("a" if key[-1] != "a" else "b")


#: What somebody might send in place of a key; from the real one.
WRONG: dict[str, Callable[[str], str]] = {
    "a letter changed": changed,
    "cut": lambda key: key[:-1],
    "longer": lambda key: key + "a",
    "the prefix alone": lambda _: "gatehouse_",
    "capitals": lambda key: "gatehouse_" + key[10:].swapcase(),
    "a line break after it": lambda key: key + "%0a",
    "SQL": lambda _: "gatehouse_' OR 1=1 --",
    "its hash": lambda key: "gatehouse_" + __import__("hashlib").sha256(key.encode()).hexdigest()[:38],
    "twice": lambda key: f"{key} {key}",
    "a star": lambda key: key[:-1] + "*",
    "10 kB": lambda key: key + "a" * 10_000,
    "not ASCII": lambda key: key[:-1] + "\u00e9",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_key_is_refused(gate: Gate, make: Callable[..., dict[str, Any]], kind: str) -> None:
    text = WRONG[kind](make()["key"])
    answer = raw(gate, f"Authorization: Bearer {text}")
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert b'"message"' in answer


def test_a_key_in_an_address_is_refused_with_advice(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    key = make()["key"]
    with gate.session("bob") as bob:
        for query in (f"key={key}", f"a=b&token={key}", f"x={key.replace('_', '%5F')}", f"{key}"):
            for session in (bob, requests):
                answer = session.get(f"{gate.url}/?{query}", timeout=20, allow_redirects=False)
                assert answer.status_code == 401, answer.text
                assert "revoke it" in answer.json()["message"]


def test_a_key_and_a_session_at_once_are_refused(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    with gate.sign_in("alice") as alice:
        answer = alice.get(gate.url + WHOAMI, headers={"Authorization": f"Bearer {make()['key']}"}, timeout=20)
    assert answer.status_code == 401
    assert "Two credentials" in answer.json()["message"]


def test_guessing_is_slowed_down_and_who_came_in_stays_in(gate: Gate, make: Callable[..., dict[str, Any]]) -> None:
    from gatehouse.identities import keys

    good = make()["key"]
    # Both workers know it.
    for _ in range(20):
        assert ask(gate, good, WHOAMI).status_code == 200
    said = [ask(gate, keys.make(), WHOAMI).json()["message"] for _ in range(80)]
    assert any("Too many wrong keys" in text for text in said), set(said)
    assert all("no such key" in text or "Too many" in text for text in said)
    assert ask(gate, good, WHOAMI).status_code == 200
    assert any("Too many wrong keys" in line["audit"].get("reason", "") for line in audit_lines(gate))


def test_without_the_setting_a_key_is_nothing(make_gate: Callable[..., Gate]) -> None:
    from gatehouse.identities import keys

    with running(make_gate()) as part:
        answer = ask(part, keys.make())
        assert answer.status_code == 401
        with part.session("alice") as alice:
            assert alice.get(part.url + KEYS, timeout=20).status_code == 404
        with contextlib.closing(sqlite3.connect(part.folder / "mlflow.db")) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert "experiments" in tables
        assert not any(name.startswith("gatehouse_") for name in tables)
