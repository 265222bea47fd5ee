"""The model registry and logged models: names, versions, stages, aliases, tags and what they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("experiment")
def test_versions_count_up_and_are_found_by_stage_alias_and_tag(sdk: Any, client: Any, name: str) -> None:
    client.create_registered_model(name, tags={"team": "vision"}, description="counts digits")
    with sdk.start_run() as run:
        versions = [client.create_model_version(name, f"runs:/{run.info.run_id}/m", run.info.run_id) for _ in range(3)]
    assert [int(one.version) for one in versions] == [1, 2, 3]
    client.transition_model_version_stage(name, "1", "Production")
    client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=True)
    stages = {int(one.version): one.current_stage for one in client.search_model_versions(f"name = '{name}'")}
    assert stages == {1: "Archived", 2: "Production", 3: "None"}
    assert [int(one.version) for one in client.get_latest_versions(name, ["Production"])] == [2]
    client.set_registered_model_alias(name, "champion", "3")
    client.set_model_version_tag(name, "3", "validated", "yes")
    client.update_model_version(name, "3", "the good one")
    champion = client.get_model_version_by_alias(name, "champion")
    assert (int(champion.version), champion.tags["validated"], champion.description) == (3, "yes", "the good one")
    assert champion.run_id == run.info.run_id
    client.delete_registered_model_alias(name, "champion")
    client.delete_model_version_tag(name, "3", "validated")
    assert "validated" not in client.get_model_version(name, "3").tags
    assert client.get_model_version(name, "3").aliases == []


def test_models_are_searched_renamed_and_kept_apart(client: Any, name: str) -> None:
    for number in range(3):
        client.create_registered_model(f"{name}-{number}", tags={"kind": name})
    found = client.search_registered_models(f"name LIKE '{name}%' AND tags.kind = '{name}'", order_by=["name DESC"])
    assert [one.name for one in found] == [f"{name}-{number}" for number in (2, 1, 0)]
    client.rename_registered_model(f"{name}-0", f"{name}-zero")
    client.update_registered_model(f"{name}-zero", "renamed")
    assert client.get_registered_model(f"{name}-zero").description == "renamed"
    assert len(client.search_registered_models(f"name LIKE '{name}%'", max_results=2)) == 2


def test_a_name_is_taken_once(client: Any, name: str) -> None:
    from mlflow.exceptions import RestException

    client.create_registered_model(name)
    with pytest.raises(RestException, match="already exists") as refusal:
        client.create_registered_model(name)
    assert refusal.value.error_code == "RESOURCE_ALREADY_EXISTS"


@pytest.mark.usefixtures("experiment")
def test_a_model_is_logged_registered_loaded_and_predicts(sdk: Any, client: Any, name: str) -> None:
    class Doubler(sdk.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[float]) -> list[float]:
            return [2 * value for value in model_input]

    with sdk.start_run() as run:
        info = sdk.pyfunc.log_model(
            name="doubler", python_model=Doubler(), registered_model_name=name, pip_requirements=[]
        )
    model = client.get_logged_model(info.model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("doubler", run.info.run_id, "READY")
    assert [int(one.version) for one in client.search_model_versions(f"name = '{name}'")] == [1]
    assert sdk.pyfunc.load_model(f"models:/{name}/1").predict([1.0, 2.5]) == [2.0, 5.0]
    assert "MLmodel" in {Path(one.path).name for one in client.list_logged_model_artifacts(info.model_id)}


def test_logged_models_are_found_by_their_metrics_parameters_and_tags(
    sdk: Any, client: Any, experiment: str, name: str
) -> None:
    made = {}
    for depth in (1, 2, 3):
        model = client.create_logged_model(experiment, name=f"m{depth}", params={"depth": str(depth)}, tags={"t": name})
        with sdk.start_run() as run:
            client.log_metric(run.info.run_id, "accuracy", depth / 4, model_id=model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
        made[depth] = model.model_id
    found = client.search_logged_models(
        [experiment],
        f"params.depth != '1' AND tags.t = '{name}' AND metrics.accuracy > 0.1",
        order_by=[{"field_name": "metrics.accuracy", "ascending": False}],
    )
    assert [one.model_id for one in found] == [made[3], made[2]]
    client.set_logged_model_tags(made[1], {"more": "1"})
    client.delete_logged_model_tag(made[1], "t")
    assert client.get_logged_model(made[1]).tags.get("more") == "1"
    assert "t" not in client.get_logged_model(made[1]).tags
    client.delete_logged_model(made[1])
    assert len(client.search_logged_models([experiment])) == 2
