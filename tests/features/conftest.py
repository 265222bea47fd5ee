"""MLflow's own clients at a gate with everything in between: start.sh, oauth2-proxy, two workers, PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from local.proxy_binary import ROOT
from tests.support import Gate, Postgres, Provider, running

TIMEOUT_S = 30
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gate(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate that all tests here share; alice administers, bob works."""
    environment = {
        "BACKEND_STORE_URI": postgres.create("features"),
        "ACCESS_POLICY": str(ROOT / "local" / "access.yaml"),
        "WORKERS": "2",
        # The listener of the webhook tests is on loopback; by default MLflow delivers to public addresses only.
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        # As for the listener: the gateway's provider of the failure tests is on loopback.
        "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http",
        # Each worker remembers for a minute which webhooks there are.
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    }
    with running(Gate(tmp_path_factory.mktemp("features"), provider, **environment)) as part:
        yield part


@pytest.fixture(scope="session")
def bob(gate: Gate) -> requests.Session:
    """An HTTP session of bob, who may read and write."""
    return gate.session("bob")


@pytest.fixture(scope="session")
def alice(gate: Gate) -> requests.Session:
    """An HTTP session of alice, who administers."""
    return gate.session("alice")


@pytest.fixture(scope="module")
def sdk(gate: Gate) -> Iterator[Any]:
    """The module ``mlflow``, set up as a training script of bob's has it."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_TOKEN", gate.provider.token("bob"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        # MLflow puts what the next two lines say into the environment, too, for processes that it starts.
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.setenv(name, gate.url)
        mlflow.set_tracking_uri(gate.url)
        mlflow.set_registry_uri(gate.url)
        yield mlflow
        mlflow.flush_trace_async_logging()
        mlflow.tracing.reset()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture(scope="module")
def client(sdk: Any) -> Any:
    """MLflow's low-level client."""
    return sdk.MlflowClient()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for the test's own things."""
    return f"{request.node.name}-{next(_numbers)}"


@pytest.fixture
def experiment(sdk: Any, client: Any, name: str) -> Iterator[str]:
    """The id of an experiment of the test's own, which is the active one."""
    made = str(client.create_experiment(name))
    sdk.set_experiment(experiment_id=made)
    yield made
    sdk.tracking.fluent._active_experiment_id = None


def answer_of(answer: requests.Response) -> Any:
    """Return the JSON of an answer that must be 200."""
    assert answer.status_code == 200, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
    return answer.json()
