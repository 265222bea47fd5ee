"""The short way to Flask gives the very answers of the long one: status, headers and body, byte for byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.support import Gate

#: (method, path with query, headers, body). "{run}" is the id of a run with 300 metrics and an artifact.
REQUESTS: list[tuple[str, str, dict[str, str], object]] = [
    ("GET", "/version", {}, None),
    ("GET", "/health", {}, None),
    ("GET", "/", {}, None),
    ("HEAD", "/", {}, None),
    ("POST", "/", {}, None),
    ("GET", "/nowhere", {}, None),
    ("GET", "/static-files/manifest.json", {}, None),
    ("GET", "/static-files/static/js/", {}, None),
    ("GET", "/static-files/../secret", {}, None),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=5", {}, None),
    ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", {}, None),
    ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=404", {}, None),
    ("POST", "/api/2.0/mlflow/experiments/create", {}, {"name": "Default"}),
    ("POST", "/api/2.0/mlflow/experiments/create", {}, {"nonsense": True}),
    ("POST", "/api/2.0/mlflow/experiments/create", {}, "not json"),
    ("GET", "/api/2.0/mlflow/experiments/create", {}, None),
    ("GET", "/api/2.0//mlflow/experiments/search", {}, None),
    ("GET", "/api/2.0/mlflow/runs/get?run_id={run}", {}, None),
    ("POST", "/api/2.0/mlflow/runs/search", {}, {"experiment_ids": ["0"], "max_results": 50}),
    ("GET", "/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss", {}, None),
    ("GET", "/api/2.0/mlflow/artifacts/list?run_id={run}", {}, None),
    ("GET", "/get-artifact?run_id={run}&path=large.bin", {}, None),
    ("GET", "/get-artifact?run_id={run}&path=page.html", {}, None),
    ("GET", "/get-artifact?run_id={run}&path=none", {}, None),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=0", {}, None),
    ("GET", "/api/3.0/mlflow/server-info", {}, None),
    ("POST", "/graphql", {}, {"query": '{ test(inputString: "x") { output } }'}),
    ("GET", "/ajax-api/2.0/mlflow/users/current", {}, None),
    ("GET", "/api/2.0/mlflow/registered-models/search", {}, None),
    ("OPTIONS", "/api/2.0/mlflow/experiments/search", {}, None),
    ("OPTIONS", "/api/2.0/mlflow/runs/create", {"Origin": "https://h", "Access-Control-Request-Method": "POST"}, None),
    ("POST", "/ajax-api/2.0/mlflow/runs/search", {"Origin": "https://h"}, {"experiment_ids": ["0"]}),
    ("POST", "/ajax-api/2.0/mlflow/runs/search", {"Origin": "https://evil.test"}, {"experiment_ids": ["0"]}),
    ("GET", "/version", {"Host": "evil.test"}, None),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=1", {"Host": "evil.test"}, None),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=1", {"X-MLFLOW-WORKSPACE": "w"}, None),
    ("GET", "/%F0%9F%98%80", {}, None),
    ("PUT", "/api/2.0/mlflow/experiments/search", {}, {}),
    ("DELETE", "/version", {}, None),
]

SCRIPT = """
import asyncio, json, os, sys, warnings
warnings.simplefilter("ignore")
os.environ.update(json.loads(sys.argv[1]))
from functools import partial
from mlflow.server.fastapi_app import app as fastapi_app, create_fastapi_app
from mlflow.server import app as flask_app, handlers
from mlflow.entities import Metric
from gatehouse.dispatch.dispatcher import Dispatcher
from gatehouse.pipeline.security import SecurityLayer
from gatehouse.pipeline.stack import Pipeline, stack
from gatehouse.upstream.security import take_off

store = handlers._get_tracking_store()
run = store.create_run("0", "user", 1, [], "run").info.run_id
store.log_batch(run, [Metric("loss", i / 7, 1, i) for i in range(300)], [], [])
folder = os.path.join(os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"], "0", run, "artifacts")
os.makedirs(folder)
open(os.path.join(folder, "large.bin"), "wb").write(bytes(range(256)) * 4096)
open(os.path.join(folder, "page.html"), "w").write("<script>alert(1)</script>")

async def call(app, method, target, headers, body):
    from urllib.parse import unquote
    data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    path, _, query = target.replace("{run}", run).partition("?")
    pairs = {"host": "h", "content-length": str(len(data)), **{k.lower(): v for k, v in headers.items()}}
    if body is not None:
        pairs["content-type"] = "application/json"
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
             "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
             "headers": [(k.encode(), v.encode()) for k, v in pairs.items()], "client": None, "server": ("h", 80), "state": {}}
    sent = iter([{"type": "http.request", "body": data[:3], "more_body": True}, {"type": "http.request", "body": data[3:], "more_body": False}])
    events = []
    async def receive():
        return next(sent, {"type": "http.disconnect"})
    async def send(message):
        events.append(message)
    await app(scope, receive, send)
    start, *chunks = events
    return [start["status"], [(k.decode(), v.decode()) for k, v in start["headers"]], b"".join(c.get("body", b"") for c in chunks).hex(), len(chunks)]

async def main():
    dispatcher = Dispatcher(fastapi_app, flask_app)
    short = 0
    flask = dispatcher.call_flask
    async def counted(*arguments):
        nonlocal short
        short += 1
        await flask(*arguments)
    dispatcher.call_flask = counted
    ours = Pipeline(stack([partial(SecurityLayer, middlewares=take_off(fastapi_app))], dispatcher), fastapi_app)
    theirs = create_fastapi_app()
    answers = []
    for request in json.loads(sys.argv[2]):
        before = short
        answer = await call(ours, *request)
        answers.append({"short": short > before, "ours": answer, "theirs": await call(theirs, *request)})
    print(json.dumps(answers))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[object]]]:
    """Both answers to each request, from one process with MLflow's real applications."""
    folder = tmp_path_factory.mktemp("dispatch")
    environment = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": "h",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://h",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(environment), json.dumps(REQUESTS)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, list[object]]] = json.loads(done.stdout.splitlines()[-1])
    return found


OUTSIDE = [["x-content-type-options", "nosniff"], ["x-frame-options", "SAMEORIGIN"], ["vary", "Origin"]]


def without_date(headers: object) -> list[list[str]]:
    assert isinstance(headers, list)
    return [header for header in headers if header[0] != "date"]


def without_times(body: object) -> bytes:
    """Return the body with the times of day, in milliseconds, taken out: an error message quotes one."""
    return re.sub(rb"\b1\d{12}\b", b"TIME", bytes.fromhex(str(body)))


@pytest.mark.parametrize(
    "number", range(len(REQUESTS)), ids=[f"{r[0]} {r[1][:50]} {' '.join(r[2].values())}" for r in REQUESTS]
)
def test_the_answer_is_the_same(answers: list[dict[str, list[object]]], number: int) -> None:
    ours, theirs = answers[number]["ours"], answers[number]["theirs"]
    assert ours[0] == theirs[0]
    # MLflow refuses a workspace before its other layers add their headers; ours stand in front of everything.
    added = OUTSIDE if "X-MLFLOW-WORKSPACE" in REQUESTS[number][2] else []
    assert without_date(ours[1]) == without_date(theirs[1]) + added
    assert without_times(ours[2]) == without_times(theirs[2])


def test_the_ordinary_calls_take_the_short_way_and_no_other_does(answers: list[dict[str, list[object]]]) -> None:
    short = {REQUESTS[i][1] for i, answer in enumerate(answers) if answer["short"] and not REQUESTS[i][2]}
    assert {
        "/version",
        "/api/2.0/mlflow/runs/get?run_id={run}",
        "/api/2.0/mlflow/runs/search",
        "/graphql",
        "/",
    } <= short
    assert "/api/3.0/mlflow/server-info" not in short
    assert not [
        REQUESTS[i] for i, answer in enumerate(answers) if answer["short"] and "X-MLFLOW-WORKSPACE" in REQUESTS[i][2]
    ]


def test_a_large_answer_is_sent_in_pieces(answers: list[dict[str, list[object]]]) -> None:
    number = next(i for i, request in enumerate(REQUESTS) if "large.bin" in request[1])
    assert answers[number]["short"]
    assert int(str(answers[number]["ours"][3])) > 4


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_that_mlflow_would_read_whole_has_a_limit(gate: Gate, announced: bool) -> None:
    """Whoever may only read, too, can send a body."""
    body = b'{"filter": "' + bytes(33) * (1 << 20) + b'"}'
    with gate.session("bob") as session:
        url = f"{gate.url}/api/2.0/mlflow/runs/search"
        answer = session.post(url, data=body if announced else iter([body]), timeout=60)
        assert (answer.status_code, answer.json()["error_code"]) == (413, "INVALID_PARAMETER_VALUE")
        assert session.post(url, json={"experiment_ids": ["0"]}, timeout=20).ok
