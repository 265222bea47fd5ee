"""Each neighbour's example, run by the neighbour's real library against a real gate: what is written is bob's, and all of it is there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from local.proxy_binary import ROOT
from tests.neighbours.conftest import EXAMPLES, Run
from tests.support import Gate, Provider, free_port, wait_for

#: A model that doubles, made champion.
REGISTER = """
import mlflow
from sklearn.linear_model import LinearRegression
mlflow.set_experiment("neighbours: serving")
with mlflow.start_run():
    model = LinearRegression(fit_intercept=False).fit([[1.0], [3.0]], [2.0, 6.0])
    made = mlflow.sklearn.log_model(model, name="model", registered_model_name="wine", pip_requirements=["scikit-learn"])
mlflow.MlflowClient().set_registered_model_alias("wine", "champion", made.registered_model_version)
"""


def runs_of(gate: Gate, experiment: str) -> list[dict[str, Any]]:
    """Return the runs of an experiment, each of which must be bob's, by his verified identity."""
    session = gate.session("alice")
    api = f"{gate.url}/api/2.0/mlflow"
    found = session.get(f"{api}/experiments/get-by-name", params={"experiment_name": experiment}, timeout=20)
    assert found.ok, found.text
    ids = [found.json()["experiment"]["experiment_id"]]
    answer = session.post(f"{api}/runs/search", json={"experiment_ids": ids}, timeout=20).json()
    runs: list[dict[str, Any]] = answer["runs"]
    for one in runs:
        assert one["info"]["status"] == "FINISHED", one["info"]
        assert one["info"]["user_id"] == "bob@example.com", one["info"]
    return runs


def metrics(run: dict[str, Any]) -> dict[str, float]:
    return {one["key"]: one["value"] for one in run["data"].get("metrics", ())}


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in run["data"].get("tags", ())}


NOTEBOOK = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
print("".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ())))
"""


def test_a_notebook_in_jupyter(neighbour: Path, run: Run, gate: Gate) -> None:
    printed = run(neighbour, "-c", NOTEBOOK, str(EXAMPLES / "train.ipynb"))
    (found,) = runs_of(gate, "neighbours: jupyter")
    assert f"{found['info']['run_id']} made in a notebook" in printed
    assert metrics(found) == {"loss": pytest.approx(0.2)}


def test_workers_of_dask(neighbour: Path, run: Run, gate: Gate) -> None:
    assert "workers: 2 runs: 8" in run(neighbour, str(EXAMPLES / "dask_workers.py"))
    found = runs_of(gate, "neighbours: dask")
    (parent,) = [one for one in found if "mlflow.parentRunId" not in tags(one)]
    children = [one for one in found if tags(one).get("mlflow.parentRunId") == parent["info"]["run_id"]]
    assert len(children) == 8
    assert metrics(parent)["candidates"] == 8
    assert all("loss" in metrics(one) for one in children)


def test_a_flow_of_prefect(neighbour: Path, run: Run, gate: Gate) -> None:
    run(neighbour, str(EXAMPLES / "prefect_flow.py"))
    (found,) = runs_of(gate, "neighbours: prefect")
    assert metrics(found)["best"] == pytest.approx(0.25)


def test_assets_of_dagster(neighbour: Path, run: Run, gate: Gate) -> None:
    printed = run(neighbour, str(EXAMPLES / "dagster_job.py"))
    found = runs_of(gate, "neighbours: dagster")
    assert len(found) == 2
    (job,) = {tags(one)["dagster.run_id"] for one in found}
    assert f"run: {job} success: True" in printed


@pytest.mark.apart
def test_workers_of_ray(heavy_neighbour: Path, run: Run, gate: Gate) -> None:
    assert "runs: 6" in run(heavy_neighbour, str(EXAMPLES / "ray_workers.py"))
    assert len(runs_of(gate, "neighbours: ray")) == 7


@pytest.mark.apart
def test_steps_of_kubeflow_pipelines(heavy_neighbour: Path, run: Run, gate: Gate) -> None:
    run(heavy_neighbour, str(EXAMPLES / "kubeflow_pipeline.py"))
    (found,) = runs_of(gate, "neighbours: kubeflow")
    assert metrics(found)["loss"] == pytest.approx(0.25)


@pytest.mark.apart
def test_a_model_is_fetched_by_an_init_container_and_served(
    neighbour: Path, run: Run, gate: Gate, provider: Provider, tmp_path: Path
) -> None:
    """The very commands of examples/neighbours/serve.yaml, with folders of this machine."""
    register = [sys.executable, "-c", REGISTER]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": gate.url, "MLFLOW_TRACKING_TOKEN": provider.token("bob")}
    subprocess.run(register, env=environment, check=True, timeout=120, cwd=tmp_path)
    pod = yaml.safe_load((EXAMPLES / "serve.yaml").read_text())["spec"]["template"]["spec"]
    model, port = tmp_path / "model", free_port()
    model.mkdir()
    places = {"/model": str(model), "8080": str(port), "0.0.0.0": "127.0.0.1"}
    (fetch,), (serve,) = pod["initContainers"], pod["containers"]
    run(neighbour, "-m", *[places.get(word, word) for word in fetch["command"]])
    assert (model / "MLmodel").exists()
    command = [sys.executable, "-m", *[places.get(word, word) for word in serve["command"]]]
    with (tmp_path / "serve.log").open("w+") as log:
        # No address and no token: the pod that serves has none either.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        alone = {"PATH": path, "HOME": str(tmp_path)}
        server = subprocess.Popen(command, env=alone, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(
                lambda: server.poll() is not None or _pings(address),
                "the model's server",
                120,
                (tmp_path / "serve.log").read_text,
            )
            assert server.poll() is None, (tmp_path / "serve.log").read_text()
            answer = requests.post(f"{address}/invocations", json={"inputs": [[1.0], [2.0]]}, timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
    assert answer.json()["predictions"] == pytest.approx([2.0, 4.0])


def _pings(address: str) -> bool:
    try:
        return requests.get(f"{address}/ping", timeout=2).ok
    except requests.RequestException:
        return False


def test_every_example_is_on_a_page() -> None:
    told = "".join(page.read_text() for page in (ROOT / "docs" / "neighbours").glob("*.md"))
    for file in EXAMPLES.iterdir():
        if file.suffix in {".py", ".ipynb", ".yaml"}:
            assert f"examples/neighbours/{file.name}" in told, file.name
