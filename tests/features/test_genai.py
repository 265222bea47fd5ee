"""Prompts, evaluation datasets, scorers, label schemas and review queues."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from local.provider import email
from tests.features.conftest import TIMEOUT_S, answer_of
from tests.features.test_traces import traced
from tests.support import Gate


def test_a_prompt_is_registered_versioned_aliased_loaded_and_found(sdk: Any, client: Any, name: str) -> None:
    prompts = sdk.genai
    prompts.register_prompt(name, "Hello {{name}}", commit_message="first", tags={"team": "words"})
    prompts.register_prompt(name, [{"role": "user", "content": "Good day {{name}}"}], commit_message="politer")
    prompts.set_prompt_alias(name, "live", 2)
    assert prompts.load_prompt(f"prompts:/{name}/1").format(name="you") == "Hello you"
    live = prompts.load_prompt(f"prompts:/{name}@live")
    assert live.format(name="you") == [{"role": "user", "content": "Good day you"}]
    assert (live.version, live.commit_message) == (2, "politer")
    prompts.set_prompt_tag(name, "kind", name)
    assert [one.name for one in prompts.search_prompts(f"tags.kind = '{name}'")] == [name]
    # Prompts live in the registry, and are no models there.
    assert client.search_registered_models(f"name = '{name}'") == []
    prompts.delete_prompt_alias(name, "live")
    with pytest.raises(sdk.exceptions.MlflowException):
        prompts.load_prompt(f"prompts:/{name}@live")


def test_an_evaluation_dataset_keeps_its_records(sdk: Any, experiment: str, name: str) -> None:
    datasets = sdk.genai.datasets
    made = datasets.create_dataset(name=name, experiment_id=experiment, tags={"team": "words"})
    made.merge_records(
        [
            {"inputs": {"question": f"{n} + 1?"}, "expectations": {"answer": n + 1}, "tags": {"n": str(n)}}
            for n in range(30)
        ]
    )
    # The same input again is the same record.
    made.merge_records([{"inputs": {"question": "0 + 1?"}, "expectations": {"answer": "one"}}])
    again = datasets.get_dataset(dataset_id=made.dataset_id)
    records = {row["inputs"]["question"]: row["expectations"]["answer"] for _, row in again.to_df().iterrows()}
    assert len(records) == 30
    assert (records["0 + 1?"], records["29 + 1?"]) == ("one", 30)
    assert again.created_by == email("bob")
    assert [one.name for one in datasets.search_datasets(experiment_ids=experiment)] == [name]
    datasets.set_dataset_tags(made.dataset_id, {"checked": "yes"})
    assert datasets.get_dataset(dataset_id=made.dataset_id).tags["checked"] == "yes"


def test_an_evaluation_by_code_logs_its_run_its_traces_and_its_scores(sdk: Any, client: Any, experiment: str) -> None:
    @sdk.genai.scorer  # type: ignore[untyped-decorator]
    def exact(outputs: int, expectations: dict[str, int]) -> bool:
        return outputs == expectations["answer"]

    rows = [{"inputs": {"n": n}, "expectations": {"answer": n + 1 if n else 9}} for n in range(4)]
    done = sdk.genai.evaluate(data=rows, predict_fn=lambda n: n + 1, scorers=[exact])
    assert done.metrics["exact/mean"] == 0.75
    assert client.get_run(done.run_id).data.metrics["exact/mean"] == 0.75
    traces = client.search_traces(locations=[experiment], filter_string=f"attributes.run_id = '{done.run_id}'")
    assert sorted(one.value for t in traces for one in t.info.assessments if one.name == "exact") == [False] + 3 * [
        True
    ]


@pytest.mark.usefixtures("sdk")
def test_a_scorer_is_registered_in_versions_and_comes_back(experiment: str) -> None:
    from mlflow.genai.scorers import Guidelines, get_scorer, list_scorers
    from mlflow.genai.scorers.registry import list_scorer_versions

    for text in ("Be brief.", "Be kind."):
        Guidelines(name="polite", guidelines=text).register(experiment_id=experiment)
    assert [one.name for one in list_scorers(experiment_id=experiment)] == ["polite"]
    assert len(list_scorer_versions(name="polite", experiment_id=experiment)) == 2
    assert get_scorer(name="polite", experiment_id=experiment).guidelines in ("Be kind.", ["Be kind."])
    assert get_scorer(name="polite", experiment_id=experiment, version=1).guidelines in ("Be brief.", ["Be brief."])


def test_a_trace_goes_through_a_review_queue(sdk: Any, experiment: str) -> None:
    from mlflow.genai import label_schemas, review_queues

    trace_id = traced(sdk)
    schema = label_schemas.create_label_schema(
        "tone",
        type="feedback",
        input=label_schemas.InputCategorical(options=["warm", "cold"]),
        experiment_id=experiment,
    )
    assert "tone" in {one.name for one in label_schemas.list_label_schemas(experiment_id=experiment)}
    queue = review_queues.create_review_queue(
        "first look",
        queue_type="custom",
        users=[email("carol")],
        schema_ids=[schema.schema_id],
        experiment_id=experiment,
    )
    assert queue.created_by == email("bob")
    review_queues.add_items_to_review_queue(queue.queue_id, item_ids=[trace_id])
    done = review_queues.set_review_queue_item_status(
        queue.queue_id, item_id=trace_id, status="complete", completed_by=email("carol")
    )
    # Whoever is verified completed it, whatever the client says.
    assert done.completed_by == email("bob")
    assert [one.item_id for one in review_queues.list_review_queue_items(queue.queue_id, status="complete")] == [
        trace_id
    ]
    assert list(review_queues.list_review_queue_items(queue.queue_id, status="pending")) == []


def test_an_issue_is_filed_and_found(gate: Gate, bob: requests.Session, experiment: str) -> None:
    base = f"{gate.url}/ajax-api/3.0/mlflow/issues"
    document = {"experiment_id": experiment, "name": "rude", "description": "It shouts.", "status": "pending"}
    made = answer_of(bob.post(base, json=document, timeout=TIMEOUT_S))["issue"]
    found = answer_of(bob.post(f"{base}/search", json={"experiment_id": experiment}, timeout=TIMEOUT_S))
    assert [one["issue_id"] for one in found["issues"]] == [made["issue_id"]]


def test_a_server_of_the_model_context_protocol_is_registered(gate: Gate, bob: requests.Session, name: str) -> None:
    base = f"{gate.url}/ajax-api/3.0/mlflow/mcp-servers"
    full = "com.example/" + name.replace("_", "-")
    made = bob.post(base, json={"name": full, "description": "tools"}, timeout=TIMEOUT_S)
    assert made.status_code == 200, made.text
    found = answer_of(bob.get(base, timeout=TIMEOUT_S))
    assert full in {one["name"] for one in found["mcp_servers"]}


def test_where_jobs_are_off_what_needs_them_says_how_they_are_switched_on(
    gate: Gate, alice: requests.Session, bob: requests.Session, sdk: Any, experiment: str
) -> None:
    from mlflow.genai.scorers import Guidelines

    scorer = json.dumps(Guidelines(name="polite", guidelines="Be kind.").model_dump())
    document = {"experiment_id": experiment, "serialized_scorer": scorer, "trace_ids": [traced(sdk)]}
    url = f"{gate.url}/ajax-api/3.0/mlflow/scorer/invoke"
    assert bob.post(url, json=document, timeout=TIMEOUT_S).status_code == 403  # whatever submits a job is an admin's
    answer = alice.post(url, json=document, timeout=TIMEOUT_S)
    assert answer.status_code == 500
    assert "set environment variable 'MLFLOW_SERVER_ENABLE_JOB_EXECUTION'" in answer.json()["message"]


def test_a_run_of_the_prompt_lab_belongs_to_whoever_made_it(
    gate: Gate, bob: requests.Session, sdk: Any, experiment: str
) -> None:
    document = {
        "experiment_id": experiment,
        "run_name": "tried",
        "prompt_template": "Hello {{name}}",
        "prompt_parameters": [{"key": "name", "value": "you"}],
        "model_route": "small",
        "model_parameters": [{"key": "temperature", "value": "0.1"}],
        "model_input": "Hello you",
        "model_output": "Hello!",
        "model_output_parameters": [{"key": "latency", "value": "1"}],
        "mlflow_version": sdk.__version__,
        "user_id": "somebody else",
    }
    base = f"{gate.url}/ajax-api/2.0/mlflow/runs"
    run = answer_of(bob.post(f"{base}/create-promptlab-run", json=document, timeout=TIMEOUT_S))["run"]
    assert (run["info"]["run_name"], run["info"]["user_id"]) == ("tried", email("bob"))
    made = sdk.get_run(run["info"]["run_id"])
    assert made.data.params["temperature"] == "0.1"
    table = sdk.load_table("eval_results_table.json", [run["info"]["run_id"]])
    assert table["output"].tolist() == ["Hello!"]
    # MLflow itself takes no tags here: nobody can claim to be somebody else by one.
    claim = {**document, "tags": [{"key": "mlflow.user", "value": "somebody else"}]}
    assert bob.post(f"{base}/create-promptlab-run", json=claim, timeout=TIMEOUT_S).status_code == 500
