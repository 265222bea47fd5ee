"""MLflow's gateway to models: it passes a call on, and where it fails, it fails in JSON and alone."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import requests

from tests.features.conftest import TIMEOUT_S, answer_of
from tests.support import Gate, free_port

CHAT = {"messages": [{"role": "user", "content": "Hello?"}]}
SECRET = "sk-of-the-provider"


def endpoint(gate: Gate, alice: requests.Session, name: str, port: int) -> str:
    """Make an endpoint for a model of a provider on loopback, as an administrator; return its address."""
    base = f"{gate.url}/api/3.0/mlflow/gateway"
    secret = {
        "secret_name": name,
        "secret_value": {"api_key": SECRET},
        "provider": "openai",
        "auth_config": {"api_base": f"http://127.0.0.1:{port}/v1"},
    }
    made = answer_of(alice.post(f"{base}/secrets/create", json=secret, timeout=TIMEOUT_S))["secret"]
    assert SECRET not in json.dumps(made)
    model = {"name": name, "secret_id": made["secret_id"], "provider": "openai", "model_name": "small"}
    made = answer_of(alice.post(f"{base}/model-definitions/create", json=model, timeout=TIMEOUT_S))["model_definition"]
    configs = [{"model_definition_id": made["model_definition_id"], "linkage_type": "PRIMARY", "weight": 1}]
    answer_of(alice.post(f"{base}/endpoints/create", json={"name": name, "model_configs": configs}, timeout=TIMEOUT_S))
    return f"{gate.url}/gateway/{name}/mlflow/invocations"


@pytest.fixture
def endpoint_name(name: str) -> str:
    return name.replace("_", "-")[-50:]


def test_a_call_reaches_the_provider_with_its_key_and_without_the_callers_token(
    gate: Gate, alice: requests.Session, bob: requests.Session, endpoint_name: str
) -> None:
    received: list[dict[str, str]] = []

    class Model(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["Content-Length"]))
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "small"}
            body = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = endpoint(gate, alice, endpoint_name, server.server_port)
            answer = answer_of(bob.post(url, json=CHAT, timeout=TIMEOUT_S))
        finally:
            server.shutdown()
            thread.join()
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    (headers,) = received
    assert headers["authorization"] == f"Bearer {SECRET}"
    token = str(bob.headers["Authorization"]).removeprefix("Bearer ")
    assert not [name for name, value in headers.items() if token in value or name.startswith(("x-forwarded", "cookie"))]


def test_a_provider_that_is_down_is_an_error_in_json_and_harms_no_other_request(
    gate: Gate, alice: requests.Session, bob: requests.Session, endpoint_name: str
) -> None:
    url = endpoint(gate, alice, endpoint_name, free_port())
    for _ in range(20):
        failed = bob.post(url, json=CHAT, timeout=TIMEOUT_S)
        assert (failed.status_code, failed.json()["error_code"]) == (500, "INTERNAL_ERROR")
        assert SECRET not in failed.text
        # Its connection inside would be the next request's.
        search = f"{gate.url}/api/2.0/mlflow/experiments/search"
        assert bob.post(search, json={"max_results": 1}, timeout=TIMEOUT_S).status_code == 200


def test_graphql_without_a_query_is_refused_before_mlflow_fails_with_it(gate: Gate, bob: requests.Session) -> None:
    refused = bob.post(f"{gate.url}/graphql", json={"no": "query"}, timeout=TIMEOUT_S)
    assert (refused.status_code, refused.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
