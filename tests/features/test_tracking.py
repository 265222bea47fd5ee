"""Experiments, runs, metrics, tags, datasets and artifacts:

what a training script logs is there, whole and in order.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests

from tests.features.conftest import TIMEOUT_S, answer_of
from tests.support import Gate


def test_an_experiment_is_renamed_tagged_deleted_and_restored(client: Any, experiment: str, name: str) -> None:
    client.set_experiment_tag(experiment, "team", "vision")
    client.rename_experiment(experiment, f"{name} renamed")
    found = client.search_experiments(filter_string="tags.team = 'vision' AND name LIKE '%renamed'")
    assert [one.experiment_id for one in found] == [experiment]
    client.delete_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    client.restore_experiment(experiment)
    assert client.get_experiment_by_name(f"{name} renamed").lifecycle_stage == "active"


@pytest.mark.usefixtures("experiment")
def test_every_value_of_a_metric_comes_back_in_order(sdk: Any, client: Any) -> None:
    from mlflow.entities import Metric

    steps = range(1200)
    with sdk.start_run() as run:
        for first in range(0, len(steps), 1000):
            batch = [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in steps[first:][:1000]]
            client.log_batch(run.info.run_id, metrics=batch)
        sdk.log_metric("odd", float("inf"), step=0)
        sdk.log_metric("odd", float("nan"), step=1)
        sdk.log_metric("odd", -7e-30, step=2)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / (step + 1)) for step in steps]
    odd = [one.value for one in client.get_metric_history(run.info.run_id, "odd")]
    assert odd[0] > 1e308
    assert numpy.isnan(odd[1])
    assert odd[2] == -7e-30
    assert client.get_run(run.info.run_id).data.metrics["loss"] == 1 / 1200


@pytest.mark.usefixtures("experiment")
def test_the_charts_of_the_ui_get_many_runs_metrics_at_once(
    gate: Gate, bob: requests.Session, sdk: Any, client: Any
) -> None:
    from mlflow.entities import Metric

    runs = []
    for number in range(3):
        with sdk.start_run() as run:
            points = [Metric("loss", number + step, 1_700_000_000_000 + step, step) for step in range(50)]
            client.log_batch(run.info.run_id, metrics=points)
        runs.append(run.info.run_id)
    base = f"{gate.url}/ajax-api/2.0/mlflow/metrics"
    bulk = answer_of(
        bob.get(f"{base}/get-history-bulk", params={"run_id": runs, "metric_key": "loss"}, timeout=TIMEOUT_S)
    )
    assert len(bulk["metrics"]) == 150
    query = {"run_ids": runs, "metric_key": "loss", "max_results": "10"}
    thinned = answer_of(bob.get(f"{base}/get-history-bulk-interval", params=query, timeout=TIMEOUT_S))["metrics"]
    for number, run_id in enumerate(runs):
        points = [(one["step"], one["value"]) for one in thinned if one["run_id"] == run_id]
        assert 10 <= len(points) < 50
        assert points == sorted(points)
        assert {points[0], points[-1]} == {(0, number), (49, number + 49)}


def test_runs_are_found_by_what_they_are(sdk: Any, client: Any, experiment: str) -> None:
    runs = {}
    for depth in (2, 4, 8):
        with sdk.start_run(run_name=f"depth {depth}", tags={"kind": "tree"}) as run:
            sdk.log_param("depth", depth)
            sdk.log_metric("accuracy", depth / 10)
        runs[depth] = run.info.run_id

    def found(text: str, **more: Any) -> list[str]:
        return [one.info.run_id for one in client.search_runs([experiment], text, **more)]

    assert found("metrics.accuracy > 0.3", order_by=["metrics.accuracy DESC"]) == [runs[8], runs[4]]
    assert found("params.depth = '2' AND tags.kind = 'tree' AND attributes.status = 'FINISHED'") == [runs[2]]
    assert found("attributes.run_name ILIKE 'DEPTH 4'") == [runs[4]]
    client.delete_run(runs[4])
    assert sorted(found("")) == sorted([runs[2], runs[8]])
    client.restore_run(runs[4])
    pages = client.search_runs([experiment], max_results=2)
    assert len(pages) == 2
    assert len(client.search_runs([experiment], max_results=2, page_token=pages.token)) == 1


def test_nested_runs_keep_their_parent(sdk: Any, client: Any, experiment: str) -> None:
    with sdk.start_run() as parent, sdk.start_run(nested=True) as child:
        sdk.log_param("inner", 1)
    assert client.get_parent_run(child.info.run_id).info.run_id == parent.info.run_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert [one.info.run_id for one in found] == [child.info.run_id]


@pytest.mark.usefixtures("experiment")
def test_a_failed_run_a_changed_tag_and_a_second_value_of_a_parameter_are_what_mlflow_says(
    sdk: Any, client: Any
) -> None:
    from mlflow.exceptions import MlflowException

    run_ids = []

    def train() -> None:
        with sdk.start_run() as run:
            run_ids.append(run.info.run_id)
            sdk.set_tag("stage", "first")
            sdk.set_tag("stage", "second")
            sdk.set_tag("gone", "soon")
            sdk.delete_tag("gone")
            sdk.log_param("depth", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    (run_id,) = run_ids
    data = client.get_run(run_id)
    assert data.info.status == "FAILED"
    assert data.data.tags["stage"] == "second"
    assert "gone" not in data.data.tags
    with pytest.raises(MlflowException, match="Changing param values is not allowed") as refusal:
        client.log_param(run_id, "depth", 2)
    assert refusal.value.error_code == "INVALID_PARAMETER_VALUE"


def test_the_data_that_a_run_used_is_named_and_found(
    gate: Gate, bob: requests.Session, sdk: Any, client: Any, experiment: str
) -> None:
    features = numpy.arange(12.0).reshape(4, 3)
    with sdk.start_run() as run:
        sdk.log_input(sdk.data.from_numpy(features, name="digits"), context="training")
    (given,) = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert given.dataset.name == "digits"
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert len(client.search_runs([experiment], "dataset.name = 'digits' AND dataset.context = 'training'")) == 1
    search = f"{gate.url}/ajax-api/2.0/mlflow/experiments/search-datasets"
    summaries = answer_of(bob.post(search, json={"experiment_ids": [experiment]}, timeout=TIMEOUT_S))
    assert [one["name"] for one in summaries["dataset_summaries"]] == ["digits"]


@pytest.mark.usefixtures("experiment")
def test_artifacts_are_listed_and_come_back_as_they_went(sdk: Any, client: Any, tmp_path: Path) -> None:
    files = {"plain.txt": b"text", "deep/er/größe 1.bin": os.urandom(3 * 1024 * 1024), "deep/empty": b""}
    for path, content in files.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(content)
    with sdk.start_run() as run:
        sdk.log_artifacts(str(tmp_path / "up"), "data")
        sdk.log_dict({"a": 1}, "config.json")
        sdk.log_table({"question": ["a", "b"], "answer": ["c", "d"]}, "table.json")
    run_id = run.info.run_id
    assert {one.path for one in client.list_artifacts(run_id)} == {"data", "config.json", "table.json"}
    (inner,) = client.list_artifacts(run_id, "data/deep/er")
    assert inner.file_size == 3 * 1024 * 1024
    down = Path(client.download_artifacts(run_id, "data", str(tmp_path)))
    for path, content in files.items():
        assert hashlib.sha256((down / path).read_bytes()).digest() == hashlib.sha256(content).digest()
    assert sdk.artifacts.load_dict(f"runs:/{run_id}/config.json") == {"a": 1}
    assert sdk.load_table("table.json", [run_id])["answer"].tolist() == ["c", "d"]


@pytest.mark.usefixtures("experiment")
def test_the_ui_uploads_and_shows_an_artifact(gate: Gate, bob: requests.Session, sdk: Any) -> None:
    with sdk.start_run() as run:
        pass
    run_id = run.info.run_id
    base = f"{gate.url}/ajax-api/2.0/mlflow"
    # The UI's origin, as a browser sends it.
    sent = bob.post(
        f"{base}/upload-artifact",
        params={"run_uuid": run_id, "path": "from-the-ui/note.json"},
        data=b'{"kept": true}',
        headers={"Origin": gate.url},
        timeout=TIMEOUT_S,
    )
    assert sent.status_code == 200, sent.text
    listed = answer_of(bob.get(f"{base}/artifacts/list", params={"run_id": run_id, "path": "from-the-ui"}, timeout=10))
    assert [one["path"] for one in listed["files"]] == ["from-the-ui/note.json"]
    shown = bob.get(
        f"{gate.url}/get-artifact", params={"run_uuid": run_id, "path": "from-the-ui/note.json"}, timeout=TIMEOUT_S
    )
    assert shown.content == b'{"kept": true}'
    assert "attachment" in shown.headers["content-disposition"]


#: What MLflow's page of a run asks for (mlflow/server/js, GetRun and MlflowGetExperiment), in one document.
GRAPHQL = """
query GetRun($runId: String!, $experimentId: String!) {
  mlflowGetRun(input: {runId: $runId}) {
    apiError { code message }
    run {
      info { runId runName userId status startTime endTime lifecycleStage experimentId artifactUri }
      experiment { experimentId name tags { key value } }
      data { metrics { key value step timestamp } params { key value } tags { key value } }
      inputs { datasetInputs { dataset { name digest profile schema source } tags { key value } } }
      modelVersions { name version status }
    }
  }
  mlflowGetExperiment(input: {experimentId: $experimentId}) { experiment { name } }
  mlflowListArtifacts(input: {runId: $runId}) { files { path isDir fileSize } }
  mlflowGetMetricHistoryBulkInterval(input: {runIds: [$runId], metricKey: "loss", maxResults: 10}) {
    metrics { runId step value timestamp }
  }
  mlflowSearchRuns(input: {experimentIds: [$experimentId]}) { runs { info { runId } } }
}
"""


def test_the_page_of_a_run_gets_all_it_shows_by_graphql(
    gate: Gate, bob: requests.Session, sdk: Any, experiment: str, name: str
) -> None:
    with sdk.start_run(run_name="shown") as run:
        sdk.log_params({"depth": 3})
        sdk.log_metric("loss", 0.5, step=1)
        sdk.log_text("hello", "note.txt")
    document = {
        "operationName": "GetRun",
        "query": GRAPHQL,
        "variables": {"runId": run.info.run_id, "experimentId": experiment},
    }
    found = answer_of(bob.post(f"{gate.url}/graphql", json=document, headers={"Origin": gate.url}, timeout=TIMEOUT_S))
    assert not found.get("errors")
    data = found["data"]
    assert data["mlflowGetRun"]["apiError"] is None
    shown = data["mlflowGetRun"]["run"]
    assert (shown["info"]["runName"], shown["info"]["userId"]) == ("shown", "bob@example.com")
    assert shown["data"]["params"] == [{"key": "depth", "value": "3"}]
    assert shown["experiment"]["name"] == name
    assert [one["value"] for one in data["mlflowGetMetricHistoryBulkInterval"]["metrics"]] == [0.5]
    assert [one["path"] for one in data["mlflowListArtifacts"]["files"]] == ["note.txt"]
    assert len(data["mlflowSearchRuns"]["runs"]) == 1
