"""A browser's redirect, the Python SDK and curl come in.

Strangers get 401 JSON on every path but the page of the UI.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from local.proxy_binary import ROOT
from tests.support import Gate, run_sdk

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"

ROUTES_SCRIPT = """
import json, re, warnings
warnings.simplefilter("ignore")
from mlflow.server.fastapi_app import app
from mlflow.server import app as flask_app
fill = lambda path: re.sub(r"<[^>]*>|{[^}]*}", "1", path)
routes = {(method, fill(rule.rule)) for rule in flask_app.url_map.iter_rules() for method in rule.methods}
for route in app.routes:
    for method in getattr(route, "methods", None) or ():
        routes.add((method, fill(route.path)))
print(json.dumps(sorted(routes)))
"""


@pytest.fixture(scope="module")
def mlflow_routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every method and path that the installed MLflow registers, with 1 for each parameter."""
    environment = {
        "_MLFLOW_SERVER_FILE_STORE": "sqlite:////nonexistent.db",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "PATH": "/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", ROUTES_SCRIPT], capture_output=True, text=True, check=True,
        env=environment, cwd=tmp_path_factory.mktemp("routes"),
    )  # fmt: skip
    return [tuple(route) for route in json.loads(done.stdout.splitlines()[-1])]


def curl(*arguments: str) -> str:
    """Run curl; return what it prints."""
    return subprocess.run(
        ["curl", "-sS", "--max-time", "20", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_curl_with_a_token_gets_json(gate: Gate) -> None:
    answer = curl("-H", f"Authorization: Bearer {gate.provider.token()}", gate.url + SEARCH)
    assert [e["name"] for e in json.loads(answer)["experiments"]][-1:] == ["Default"]


def test_curl_without_a_token_gets_401_json(gate: Gate) -> None:
    head, _, body = curl("-i", gate.url + SEARCH).partition("\n\n")
    assert head.startswith("HTTP/1.1 401")
    assert "content-type: application/json" in head.lower()
    assert json.loads(body)["error_code"] == "UNAUTHENTICATED"


def test_the_sdk_runs_the_example(gate: Gate, tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": gate.url,
        "MLFLOW_TRACKING_TOKEN": gate.provider.token("bob"),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train.py")], env=environment, cwd=tmp_path,
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + gate.log()
    assert "predicted through the gate" in done.stdout
    with gate.session() as session:
        model = session.get(
            f"{gate.url}/api/2.0/mlflow/registered-models/alias?name=digits&alias=champion", timeout=20
        ).json()
    assert model["model_version"]["name"] == "digits"


def test_the_sdk_without_a_token_fails_loudly(gate: Gate, tmp_path: Path) -> None:
    script = "import mlflow; mlflow.set_experiment('never')"
    done = run_sdk(gate, script, tmp_path, token=None, variables={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, check=False)
    assert done.returncode != 0
    # docs/troubleshooting.md says what to do.
    message = "This needs a sign-in"
    assert message in done.stderr
    assert message in (ROOT / "docs" / "troubleshooting.md").read_text()


def test_a_browser_is_sent_to_the_provider_from_the_page_of_the_ui(gate: Gate) -> None:
    for path in ("/", "/?o=1"):
        answer = requests.get(gate.url + path, allow_redirects=False, timeout=10)
        assert answer.status_code == 302
        assert answer.headers["location"].startswith(f"{gate.provider.issuer}/oauth2/authorize?")
        assert "code_challenge_method=S256" in answer.headers["location"]


def test_without_a_token_every_route_of_mlflow_answers_401_json(
    gate: Gate, mlflow_routes: list[tuple[str, str]]
) -> None:
    assert len(mlflow_routes) > 250
    wrong = []
    with requests.Session() as session:
        for method, path in mlflow_routes:
            if path == "/":
                continue
            answer = session.request(method, gate.url + path, allow_redirects=False, timeout=10)
            is_json = method == "HEAD" or answer.json()["error_code"] == "UNAUTHENTICATED"
            if answer.status_code != 401 or not is_json:
                wrong.append((method, path, answer.status_code))
    assert not wrong


@pytest.mark.parametrize(
    "path",
    [
        "//",
        "/./",
        "/%2e/",
        "//api/2.0/mlflow/experiments/search",
        "/API/2.0/",
        "/index.html",
        "/;x",
        "/static-files/../",
        "/oauth2x",
        "/%00",
        "/a\\b",
    ],
)
def test_odd_spellings_of_paths_never_get_past_the_gate(gate: Gate, path: str) -> None:
    request = requests.Request("GET", gate.url).prepare()
    request.url = gate.url + path
    with requests.Session() as session:
        answer = session.send(request, allow_redirects=False, timeout=10)
    assert answer.status_code in {301, 302, 307, 308, 400, 401}
    assert "mlflow" not in answer.text.lower()


def test_the_liveness_path_is_open_and_says_nothing(gate: Gate) -> None:
    answer = requests.get(f"{gate.url}/ping", timeout=10)
    assert (answer.status_code, answer.text) == (200, "OK")


def test_where_the_provider_is_asked_for_first_the_page_of_the_proxy_says_so(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(
        OAUTH2_PROXY_SKIP_PROVIDER_BUTTON="false", OAUTH2_PROXY_PROVIDER_DISPLAY_NAME="the company"
    ).start()
    gate.wait_ready()
    page = requests.get(gate.url, timeout=10)
    assert page.status_code == 403
    assert "Sign in with the company" in page.text
    assert "Disallow: /" in requests.get(f"{gate.url}/robots.txt", timeout=10).text
    assert "Could not load file" not in gate.log()


def test_the_assistant_is_closed_even_to_people_who_are_signed_in(gate: Gate) -> None:
    with gate.session() as session:
        config = session.get(f"{gate.url}/ajax-api/3.0/mlflow/assistant/config", timeout=10)
        message = session.post(
            f"{gate.url}/ajax-api/3.0/mlflow/assistant/message", json={"message": "hello"}, timeout=10
        )
    assert config.json() == {"providers": {}, "projects": {}, "remote_access_allowed": False}
    assert message.status_code == 403
    assert message.json()["error_code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("headers", [{"Host": "evil.example.com"}, {"Origin": "https://evil.example.com"}])
def test_another_host_or_origin_is_refused(gate: Gate, headers: dict[str, str]) -> None:
    with gate.session() as session:
        answer = session.post(
            f"{gate.url}/api/2.0/mlflow/experiments/create",
            json={"name": "evil"},
            headers=headers,
            timeout=10,
        )
    assert answer.status_code == 403


def test_the_gates_own_origin_may_write(gate: Gate) -> None:
    with gate.session() as session:
        answer = session.post(
            f"{gate.url}/ajax-api/2.0/mlflow/experiments/create",
            json={"name": "from-the-ui"},
            headers={"Origin": gate.url},
            timeout=10,
        )
    assert answer.status_code == 200, answer.text


def test_traces_graphql_and_the_registry_answer_too(gate: Gate) -> None:
    with gate.session() as session:
        graphql = session.post(
            f"{gate.url}/graphql", json={"query": '{ test(inputString: "x") { output } }'}, timeout=10
        )
        registry = session.get(f"{gate.url}/api/2.0/mlflow/registered-models/search", timeout=10)
        otlp = session.post(
            f"{gate.url}/v1/traces", data=b"", headers={"Content-Type": "application/x-protobuf"}, timeout=10
        )
        jobs = session.get(f"{gate.url}/ajax-api/3.0/jobs/1", timeout=10)
    assert graphql.json()["data"]["test"]["output"], graphql.text
    assert registry.status_code == 200, registry.text
    assert otlp.status_code == 422, otlp.text
    assert "application/json" in otlp.headers["content-type"]
    assert jobs.status_code == 404, jobs.text
