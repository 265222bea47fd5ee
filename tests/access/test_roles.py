"""carol reads everything and can write nothing, bob works, alice administers; each refusal is in the audit log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gatehouse.operations.classes import Access
from gatehouse.operations.table import GRAPHQL, OPERATIONS
from tests.access.conftest import Client, Snapshot, line_of
from tests.access.test_routes import REGISTERED
from tests.support import Gate, run_sdk

#: Operations that answer somebody who only looks; all others that aren't GET must be refused.
NOT_GET = sorted({(method, path, name) for method, path, name in REGISTERED if method != "GET"})
WRITING_GET = sorted(
    {(method, path, name) for method, path, name in REGISTERED if method == "GET" and name != GRAPHQL
     and Access.READ < OPERATIONS[name] < Access.CLOSED}
)  # fmt: skip
#: Fetches a list of models from the internet, with many retries.
ASKS_THE_INTERNET = "list_supported_models"


@pytest.fixture(scope="module")
def things(bob: Client, alice: Client) -> dict[str, str]:
    """Something of each kind that the refused requests could harm, by the name that paths call it."""
    experiment = bob.make("experiments/create", name="precious")["experiment_id"]
    run = bob.run(experiment_id=experiment)
    bob.make("runs/log-batch", run_id=run, metrics=[{"key": "loss", "value": 0.5, "timestamp": 1, "step": 0}])
    bob.make("registered-models/create", name="precious")
    bob.make("model-versions/create", name="precious", source=f"runs:/{run}/model", run_id=run)
    model = bob.make("logged-models", experiment_id=experiment, name="precious")["model"]["info"]["model_id"]
    webhook = alice.make(
        "webhooks",
        name="precious",
        url="https://1.1.1.1/never-called",
        events=[{"entity": "MODEL_VERSION_ALIAS", "action": "DELETED"}],
    )["webhook"]["webhook_id"]
    dataset = bob.call(
        "POST", "/api/3.0/mlflow/datasets/create", json={"name": "precious", "experiment_ids": [experiment]}
    ).json()["dataset"]["dataset_id"]
    upload = bob.call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/precious.txt", data=b"precious")
    assert upload.status_code == 200, upload.text
    return {
        "experiment_id": experiment,
        "run_id": run,
        "model_id": model,
        "webhook_id": webhook,
        "dataset_id": dataset,
        "artifact_path": f"{experiment}/precious.txt",
        "name": "precious",
    }


def body_for(things: dict[str, str]) -> dict[str, Any]:
    """Return a body that names each thing, so that whichever operation gets it could act on it."""
    return {
        **things,
        "run_uuid": things["run_id"],
        "experiment_ids": [things["experiment_id"]],
        "version": "1",
        "key": "k",
        "value": "v",
        "new_name": "stolen",
        "alias": "champion",
        "tags": [{"key": "k", "value": "v"}],
        "max_timestamp_millis": 9999999999999,
    }


def fill(path: str, things: dict[str, str]) -> str:
    """Return a path template with the things in it."""

    def value(match: re.Match[str]) -> str:
        name = match[0].strip("<>{}").split(":")[-1] if match[0][0] == "<" else match[0].strip("{}").split(":")[0]
        return things.get(name, "x1")

    return re.sub(r"<[^>]*>|{[^}]*}", value, path)


def test_carol_can_write_by_none_of_mlflows_routes(carol: Client, things: dict[str, str], snapshot: Snapshot) -> None:
    assert len(NOT_GET) > 200
    before = snapshot.take()
    wrong: list[object] = []
    for method, template, operation in NOT_GET + WRITING_GET:
        path = fill(template, things)
        answer = carol.call(method, path, json=body_for(things), headers={"Origin": carol.gate.url})
        harmless = operation == GRAPHQL or OPERATIONS[operation] is Access.READ
        if harmless:
            if answer.status_code == 403:
                wrong.append((method, path, "a read was refused", answer.text))
            continue
        if answer.status_code != 403:
            wrong.append((method, path, answer.status_code, answer.text))
            continue
        message = answer.json()
        assert message["error_code"] == "PERMISSION_DENIED"
        line = line_of(carol.gate, answer)
        assert line["severity"] == "WARNING"
        assert line["audit"]["identity"] == "carol@example.com"
        assert line["audit"]["result"] == "refused"
        assert line["audit"]["action"] == operation
        assert line["httpRequest"]["requestMethod"] == method
        if OPERATIONS[operation] is not Access.CLOSED:
            assert "carol@example.com is a viewer here" in message["message"]
            assert "Ask alice@example.com" in message["message"]
            assert answer.headers["x-request-id"] in message["message"]
    assert not wrong
    assert snapshot.take() == before


@pytest.mark.parametrize("spell", ["slash", "double", "upper", "dot", "encoded", "space", "case"])
def test_no_other_spelling_lets_carol_write(
    carol: Client, things: dict[str, str], snapshot: Snapshot, spell: str
) -> None:
    spellings = {
        "slash": lambda path: path + "/",
        "double": lambda path: path.replace("/mlflow", "//mlflow", 1),
        "upper": lambda path: path.upper(),
        "dot": lambda path: path.replace("/mlflow", "/%2e/mlflow", 1),
        "encoded": lambda path: path.replace("mlflow", "%6dlflow", 1),
        "space": lambda path: path + "%20",
        "case": lambda path: path.replace("runs", "Runs").replace("experiments", "Experiments"),
    }
    before = snapshot.take()
    for method, template, operation in NOT_GET:
        if operation == GRAPHQL or OPERATIONS[operation] is Access.READ:
            continue
        path = spellings[spell](fill(template, things))
        answer = carol.call(method, path, json=body_for(things), allow_redirects=False)
        # What isn't found runs nothing; nothing leads to the proper spelling.
        assert answer.status_code in {403, 404, 405}, (method, path, answer.status_code, answer.text)
    assert snapshot.take() == before


def test_carol_reads_everything_that_lets_her_read(carol: Client, things: dict[str, str]) -> None:
    refused = []
    for method, template, operation in REGISTERED:
        if operation in {GRAPHQL, ASKS_THE_INTERNET} or OPERATIONS[operation] is not Access.READ:
            continue
        answer = carol.call(method, fill(template, things), json=body_for(things) if method != "GET" else None)
        if answer.status_code in {401, 403}:
            refused.append((method, template, answer.text))
    assert not refused


SDK = """
import sys, mlflow
from mlflow import MlflowClient
client = MlflowClient()
run = client.get_run(sys.argv[1])
assert run.data.metrics == {"loss": 0.5}
assert client.search_experiments()
assert client.get_registered_model("precious").name == "precious"
try:
    mlflow.set_experiment(experiment_id=sys.argv[2])
    with mlflow.start_run():
        pass
except mlflow.exceptions.MlflowException as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_the_sdk_reads_as_carol_and_says_why_it_may_not_write(
    gate: Gate, things: dict[str, str], tmp_path: Path
) -> None:
    names = things["run_id"], things["experiment_id"]
    done = run_sdk(gate, SDK, tmp_path, *names, token=gate.provider.token("carol"))
    assert "PERMISSION_DENIED: carol@example.com is a viewer here; 'create run' needs the role editor" in done.stdout


def test_bob_works_but_undoes_nothing_for_good(bob: Client, things: dict[str, str]) -> None:
    run = bob.run(experiment_id=things["experiment_id"])
    assert bob.post("runs/delete", run_id=run).status_code == 200
    assert bob.post("runs/restore", run_id=run).status_code == 200
    for method, path, document in (
        ("DELETE", "/api/2.0/mlflow/registered-models/delete", {"name": "precious"}),
        ("DELETE", "/api/2.0/mlflow/model-versions/delete", {"name": "precious", "version": "1"}),
        ("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{things['artifact_path']}", None),
        ("GET", "/api/2.0/mlflow/webhooks", None),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list", None),
        ("POST", "/api/3.0/mlflow/workspaces", {"name": "mine"}),
        ("POST", "/ajax-api/3.0/jobs/", {"job_name": "x", "params": {}}),
    ):
        answer = bob.call(method, path, json=document)
        assert answer.status_code == 403, (path, answer.text)
        assert "bob@example.com is an editor here" in answer.json()["message"]
        assert "needs the role admin" in answer.json()["message"]


def test_alice_administers(alice: Client, bob: Client) -> None:
    bob.make("registered-models/create", name="to-be-deleted")
    answer = alice.call("DELETE", "/api/2.0/mlflow/registered-models/delete", json={"name": "to-be-deleted"})
    assert answer.status_code == 200, answer.text
    assert alice.call("GET", "/api/2.0/mlflow/webhooks").status_code == 200


def test_a_graphql_query_passes_and_an_unknown_mutation_does_not(carol: Client, things: dict[str, str]) -> None:
    query = "query q($input: MlflowGetRunInput!) { mlflowGetRun(input: $input) { run { info { runId } } } }"
    answer = carol.call("POST", "/graphql", json={"query": query, "variables": {"input": {"runId": things["run_id"]}}})
    assert answer.json()["data"]["mlflowGetRun"]["run"]["info"]["runId"] == things["run_id"]
    answer = carol.call("POST", "/graphql", json={"query": "mutation { mlflowDeleteRun { ok } }"})
    assert answer.status_code == 403


def test_a_large_upload_of_carols_is_refused_at_once(carol: Client) -> None:
    answer = carol.call("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/large.bin", data=bytes(30_000_000))
    assert answer.status_code == 403
    assert line_of(carol.gate, answer)["audit"]["objects"] == {"path": "0/large.bin"}


def test_without_a_policy_people_work_and_nobody_administers(make_gate: Any) -> None:
    gate = make_gate().start().wait_ready()
    carol = Client(gate, gate.session("carol"))
    carol.run()
    answer = carol.call("DELETE", "/api/2.0/mlflow/registered-models/delete", json={"name": "x"})
    assert answer.status_code == 403
    assert "set ACCESS_POLICY" in answer.json()["message"]
