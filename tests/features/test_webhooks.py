"""Webhooks: what an administrator sets up is delivered, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from tests.features.conftest import TIMEOUT_S, answer_of
from tests.support import Gate, wait_for

SECRET = "shared with the listener"


class Listener(ThreadingHTTPServer):
    """Takes deliveries, and remembers their headers and bodies."""

    daemon_threads = True

    def __init__(self) -> None:
        self.deliveries: list[tuple[dict[str, str], bytes]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.deliveries.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def signed(self) -> list[dict[str, Any]]:
        """Return the bodies of the deliveries whose signature is right; a wrong one is an error."""
        bodies = []
        for headers, body in self.deliveries:
            said = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.".encode() + body
            digest = base64.b64encode(hmac.new(SECRET.encode(), said, hashlib.sha256).digest()).decode()
            assert headers["x-mlflow-signature"] == f"v1,{digest}"
            bodies.append(json.loads(body))
        return bodies


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def webhook(gate: Gate, alice: requests.Session, listener: Listener, name: str) -> Iterator[str]:
    """The address of a webhook for new model versions and aliases."""
    base = f"{gate.url}/api/2.0/mlflow/webhooks"
    events = [
        {"entity": "MODEL_VERSION", "action": "CREATED"},
        {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"},
    ]
    document = {"name": name[:60], "url": listener.url, "events": events, "secret": SECRET}
    made = answer_of(alice.post(base, json=document, timeout=TIMEOUT_S))
    assert SECRET not in json.dumps(made)
    url = f"{base}/{made['webhook']['webhook_id']}"
    yield url
    assert alice.delete(url, timeout=TIMEOUT_S).status_code == 200


@pytest.mark.usefixtures("webhook")
def test_each_new_version_and_alias_is_delivered_once_and_signed(
    listener: Listener, client: Any, experiment: str, name: str
) -> None:
    client.create_registered_model(name)
    run_id = client.create_run(experiment).info.run_id
    for _ in range(8):
        client.create_model_version(name, f"runs:/{run_id}/model", run_id)
    client.set_registered_model_alias(name, "champion", "8")
    wait_for(lambda: len(listener.deliveries) == 9, "nine deliveries", logs=lambda: str(listener.deliveries))
    bodies = listener.signed()
    versions = [body["data"] for body in bodies if body["entity"] == "model_version"]
    assert sorted(int(one["version"]) for one in versions) == list(range(1, 9))
    assert {one["name"] for one in versions} == {name}
    (alias,) = (body["data"] for body in bodies if body["entity"] == "model_version_alias")
    assert (alias["alias"], alias["version"]) == ("champion", "8")


def test_an_administrator_tests_a_webhook(alice: requests.Session, webhook: str, listener: Listener) -> None:
    result = answer_of(alice.post(f"{webhook}/test", json={}, timeout=TIMEOUT_S))["result"]
    assert (result["success"], result["response_status"]) == (True, 204)
    assert len(listener.signed()) == 1


def test_who_only_works_here_neither_makes_nor_sees_a_webhook(
    gate: Gate, bob: requests.Session, webhook: str, listener: Listener
) -> None:
    document = {"name": "mine", "url": listener.url, "events": [{"entity": "RUN", "action": "CREATED"}]}
    for answer in (
        bob.post(f"{gate.url}/api/2.0/mlflow/webhooks", json=document, timeout=TIMEOUT_S),
        bob.get(f"{gate.url}/api/2.0/mlflow/webhooks", timeout=TIMEOUT_S),
        bob.get(webhook, timeout=TIMEOUT_S),
        bob.post(f"{webhook}/test", json={}, timeout=TIMEOUT_S),
    ):
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert listener.deliveries == []
