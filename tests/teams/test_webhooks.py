"""A webhook is told of its own workspace's models, whoever's models were the first that somebody waited for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread

import pytest

from tests.support import Gate, wait_for
from tests.teams.conftest import Member

EVENTS = [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]


@pytest.fixture
def received() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that webhooks lead to: its address, and (path, model's name) of what came."""
    came: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            came.append((self.path, body["data"]["name"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    server.server_close()


def test_a_team_hears_of_its_own_models_alone(teams: Gate, received: tuple[str, list[tuple[str, str]]]) -> None:
    url, came = received
    admins = {"fraud": Member(teams, "fiona", "fraud"), "vision": Member(teams, "vince", "vision")}
    hooks = {}
    for name, admin in admins.items():
        made = admin.make("webhooks", name="on-model", url=f"{url}/{name}", events=EVENTS)
        hooks[name] = made["webhook"]["webhook_id"]
    numbers = count()

    def both_are_told() -> bool:
        # MLflow remembers for a while that nobody waited for the models of tests before.
        number = next(numbers)
        for name, admin in admins.items():
            admin.make("registered-models/create", name=f"heard-by-{name}-{number}")
        return {path for path, _ in came} == {"/fraud", "/vision"} and len(came) >= 4

    wait_for(both_are_told, "the webhooks", logs=teams.log)
    assert [(path, model) for path, model in came if not model.startswith(f"heard-by-{path[1:]}-")] == []
    for name, other in (("fraud", "vision"), ("vision", "fraud")):
        listed = admins[name].get("webhooks").json()["webhooks"]
        ids = {hook["webhook_id"] for hook in listed}  # others may be left by tests before
        assert hooks[name] in ids
        assert hooks[other] not in ids
        assert admins[name].get(f"webhooks/{hooks[other]}").status_code == 404
