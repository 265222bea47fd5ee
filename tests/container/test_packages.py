"""What the image leaves out, no route needs; what MLflow never installs by itself, is named where it is missed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

from gatehouse.operations.classes import Access
from gatehouse.operations.table import OPERATIONS
from local.proxy_binary import ROOT
from tests.access.test_roles import ASKS_THE_INTERNET
from tests.access.test_routes import REGISTERED, fill
from tests.container.parts import Engine, Site, inside

TIMEOUT_S = 60
GATEWAY = "/api/3.0/mlflow/gateway"

#: Package → where MLflow's server imports it, and why that can't fail a request.
KNOWN: dict[str, list[str]] = {
    # Only the assistant starts containers, and it is closed to everybody.
    "docker": ["mlflow.server.assistant.session.terminate_session_container"],
    # For the client's log_figure.
    "matplotlib": [
        "mlflow.models.utils.plot_lines",
        "mlflow.tracking.client",
        "mlflow.tracking.client.log_figure._is_matplotlib_figure",
        "mlflow.tracking.fluent",
    ],
    # Hadoop's file system, which ARTIFACTS_DESTINATION doesn't take.
    "pyarrow": ["mlflow.store.artifact.hdfs_artifact_repo"],
    # Asked for only if it is there, or where a model's signature is inferred: at the client.
    "scipy": [
        "mlflow.models.utils",
        "mlflow.types.type_hints.type_hints_no_signature_inference",
        "mlflow.types.utils._get_tensor_shape",
        "mlflow.types.utils._infer_schema",
        "mlflow.utils.proto_json_utils.dump_input_data",
    ],
    # Metrics of mlflow.evaluate, which runs at the client.
    "sklearn": [
        f"mlflow.metrics.metric_definitions.{name}"
        for name in (
            "_accuracy_eval_fn",
            "_f1_score_eval_fn",
            "_mae_eval_fn",
            "_mape_eval_fn",
            "_max_error_eval_fn",
            "_mse_eval_fn",
            "_ndcg_at_k_eval_fn._fn",
            "_precision_eval_fn",
            "_r2_score_eval_fn",
            "_recall_eval_fn",
            "_root_mean_squared_error",
        )
    ],
    "skops": [],
}


@pytest.fixture(scope="module")
def policed(shared_engine: Engine) -> Site:
    """A hardened gate where alice administers."""
    environment = {
        "BACKEND_STORE_URI": "sqlite:////tmp/mlflow.db",
        "ARTIFACTS_DESTINATION": "/tmp/artifacts",
        "ACCESS_POLICY": "/policy.yaml",
    }
    volumes = {str(ROOT / "local" / "access.yaml"): {"bind": "/policy.yaml", "mode": "ro"}}
    return Site(shared_engine, environment=environment, volumes=volumes)


@pytest.fixture(scope="module")
def alice(policed: Site) -> requests.Session:
    return policed.session("alice")


def call(session: requests.Session, method: str, url: str, **arguments: Any) -> requests.Response:
    return session.request(method, url, timeout=TIMEOUT_S, **arguments)


def make(alice: requests.Session, site: Site, path: str, **document: Any) -> dict[str, Any]:
    """Make a thing of the gateway's."""
    answer = call(alice, "POST", f"{site.url}{GATEWAY}/{path}/create", json=document)
    assert answer.status_code == 200, answer.text
    return dict(next(iter(answer.json().values())))


def endpoint(alice: requests.Session, site: Site, provider: str, secret: dict[str, str], **config: str) -> str:
    """Make an endpoint for a provider's model; return its address."""
    secret_id = make(alice, site, "secrets", secret_name=provider, secret_value=secret, provider=provider, auth_config=config)["secret_id"]  # fmt: skip
    model = make(alice, site, "model-definitions", name=provider, secret_id=secret_id, provider=provider, model_name="m")  # fmt: skip
    configs = [{"model_definition_id": model["model_definition_id"], "linkage_type": "PRIMARY", "weight": 1}]
    make(alice, site, "endpoints", name=provider, model_configs=configs)
    return f"{site.url}/gateway/{provider}/mlflow/invocations"


def test_what_the_image_leaves_out_is_imported_nowhere_that_a_request_comes_to(policed: Site) -> None:
    names = re.findall(r"^([\w-]+) ;", (ROOT / "requirements" / "not-in-server.txt").read_text(), re.MULTILINE)
    packages = {{"scikit-learn": "sklearn"}.get(name, name) for name in names}
    assert packages == set(KNOWN)
    found = json.loads(policed.box.run("python", "-c", inside("left_out"), *packages).splitlines()[-1])
    assert found == KNOWN, "look at what these functions do, and whether a route leads there"


def test_every_route_answers_an_administrator_without_missing_a_package(policed: Site, alice: requests.Session) -> None:
    wrong = []
    # One path of each operation; the others lead to the same function.
    for operation, (method, template) in {operation: (method, path) for method, path, operation in REGISTERED}.items():
        if OPERATIONS.get(operation) is Access.CLOSED or operation == ASKS_THE_INTERNET:
            continue
        answer = call(
            alice, method, policed.url + fill(template), json={"experiment_id": "0", "name": "x", "run_id": "x"}
        )
        if answer.status_code in {500, 502} and "application/json" not in answer.headers["content-type"]:
            wrong.append((method, template, answer.status_code, answer.text[:200]))
    assert wrong == []
    assert re.findall(r".*(?:ModuleNotFound|Import)Error.*", policed.log()) == []


@pytest.mark.parametrize(
    ("provider", "secret", "config", "package"),
    [
        ("cohere", {"api_key": "k"}, {}, "litellm"),
        (
            "bedrock",
            {"aws_access_key_id": "k", "aws_secret_access_key": "s"},
            {"auth_mode": "access_keys", "aws_region_name": "us-east-1"},
            "boto3",
        ),
    ],
)
def test_a_provider_that_needs_more_is_answered_with_what_to_install(
    policed: Site, alice: requests.Session, provider: str, secret: dict[str, str], config: dict[str, str], package: str
) -> None:
    url = endpoint(alice, policed, provider, secret, **config)
    answer = call(alice, "POST", url, json={"messages": [{"role": "user", "content": "Hello?"}]})
    assert answer.status_code in {500, 501}
    assert f"pip install {package}" in answer.json().get("message", "") + answer.json().get("detail", {}).get(
        "message", ""
    )


def test_a_compressed_call_of_the_gateway_is_refused_with_what_to_send(policed: Site, alice: requests.Session) -> None:
    headers = {"Content-Encoding": "zstd", "Content-Type": "application/json"}
    answer = call(alice, "POST", f"{policed.url}/gateway/openai/v1/chat/completions", data=b"x", headers=headers)
    assert answer.status_code == 415
    assert "Send it as it is" in answer.json()["message"]


def test_the_demo_and_a_run_of_the_prompt_lab_are_made_without_them(policed: Site, alice: requests.Session) -> None:
    base = f"{policed.url}/ajax-api"
    demo = call(alice, "POST", f"{base}/3.0/mlflow/demo/generate", json={})
    assert (demo.status_code, demo.json().get("status")) == (200, "created"), demo.text
    document = {
        "experiment_id": "0",
        "prompt_template": "Hello {{name}}",
        "prompt_parameters": [{"key": "name", "value": "you"}],
        "model_route": "small",
        "model_parameters": [{"key": "temperature", "value": "0.1"}],
        "model_input": "Hello you",
        "model_output": "Hello!",
        "model_output_parameters": [{"key": "latency", "value": "1"}],
        "mlflow_version": "3.17.2",
        "start_time": 1,
    }
    run = call(alice, "POST", f"{base}/2.0/mlflow/runs/create-promptlab-run", json=document)
    assert run.status_code == 200, run.text
    run_id = run.json()["run"]["info"]["run_id"]
    listed = call(alice, "GET", f"{base}/2.0/mlflow/artifacts/list", params={"run_id": run_id}).json()
    assert {one["path"] for one in listed["files"]} == {"eval_results_table.json", "model"}
