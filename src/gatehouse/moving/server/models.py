"""A server's models: registered ones with versions, aliases and prompts, and logged ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gatehouse.moving.server.reading import API, Reading, finite, number, pair, parsed
from gatehouse.moving.server.remote import ServerError
from gatehouse.moving.server.staged import Values

PROMPTS = "tags.`mlflow.prompt.is_prompt` = 'true'"


class Models:
    """Reads models."""

    def __init__(self, of: Reading) -> None:
        self._of = of

    def read(self) -> None:
        """Read the registered ones."""
        models: dict[str, Values] = {}
        versions: dict[tuple[str, int], Values] = {}
        for where in (None, PROMPTS):
            query = {"max_results": 100, **({"filter": where} if where else {})}
            try:
                for page in self._of.remote.pages(f"{API}/registered-models/search", "registered_models", query):
                    models.update((str(each["name"]), each) for each in page)
                for page in self._of.remote.pages(f"{API}/model-versions/search", "model_versions", query):
                    versions.update(((str(each["name"]), int(each["version"])), each) for each in page)
            except ServerError as error:
                if not error.of_one_thing:
                    raise
                if where is None:
                    self._of.told.failed["registered models"] = str(error)
                    return
                self._of.told.notes.append(f"the server has no prompts: {error}")
        for name, each in list(models.items()):
            for last in each.get("latest_versions") or ():
                if (name, int(last["version"])) not in versions:
                    self._of.told.failed[f"registered_models {name}"] = (
                        f"the server doesn't list its version {last['version']}"
                    )
                    models.pop(name, None)
        kept = [each for (name, _), each in versions.items() if name in models]
        self._of.staged.put(
            [
                ("registered_models", [_registered(each) for each in models.values()]),
                ("registered_model_tags", list(_of_model(models.values(), "tags", pair))),
                ("registered_model_aliases", list(_of_model(models.values(), "aliases", _alias))),
                ("model_versions", list(self._of.pool.map(self._version, kept))),
                (
                    "model_version_tags",
                    [
                        {"workspace": "default", "name": each["name"], "version": int(each["version"]), **pair(tag)}
                        for each in kept
                        for tag in each.get("tags") or ()
                    ],
                ),
            ]
        )

    def _version(self, each: Values) -> Values:
        source = each.get("source")
        location = source
        if str(source or "").startswith("models:") and not self._of.dry_run:
            asked = {"name": each["name"], "version": each["version"]}
            location = self._of.remote.get(f"{API}/model-versions/get-download-uri", asked).get("artifact_uri")
        return {
            "workspace": "default", "name": each["name"], "version": int(each["version"]),
            "creation_time": number(each, "creation_timestamp"),
            "last_updated_time": number(each, "last_updated_timestamp"),
            "description": each.get("description"), "user_id": each.get("user_id"),
            "current_stage": each.get("current_stage") or "None", "source": source, "storage_location": location,
            "run_id": each.get("run_id") or None, "run_link": each.get("run_link"),
            "status": each.get("status", "READY"), "status_message": each.get("status_message"),
        }  # fmt: skip

    def logged(self, experiment: int) -> None:
        """Read an experiment's logged ones."""
        from mlflow.entities import LoggedModel
        from mlflow.protos.service_pb2 import SearchLoggedModels

        query = {"experiment_ids": [str(experiment)], "max_results": 50}
        for page in self._of.remote.pages(f"{API}/logged-models/search", "models", query, post=True):
            answer = parsed({"models": page}, SearchLoggedModels.Response())
            for each in answer.models:
                given = {name for name in ("model_type", "source_run_id", "status_message") if each.info.HasField(name)}
                self._one_logged_model(experiment, LoggedModel.from_proto(each), given)

    def _one_logged_model(self, experiment: int, model: Any, given: set[str]) -> None:
        own = {"model_id": model.model_id, "experiment_id": experiment}
        row = {
            **own, **{name: getattr(model, name) for name in given},
            "name": model.name, "artifact_location": model.artifact_location,
            "creation_timestamp_ms": model.creation_timestamp,
            "last_updated_timestamp_ms": model.last_updated_timestamp, "status": model.status.to_int(),
            "lifecycle_stage": "active",
        }  # fmt: skip
        metrics = [
            {
                **own, "metric_name": each.key, "metric_value": finite(each.value)[0],
                "metric_timestamp_ms": each.timestamp, "metric_step": each.step, "run_id": each.run_id,
                "dataset_name": each.dataset_name or None, "dataset_digest": each.dataset_digest or None,
                "dataset_uuid": self._of.id("dataset", experiment, each.dataset_name, each.dataset_digest)
                if each.dataset_name
                else None,
            }
            for each in model.metrics or ()
        ]  # fmt: skip
        self._of.staged.put(
            [
                ("logged_models", [row]),
                ("logged_model_params", [{**own, "param_key": k, "param_value": v} for k, v in model.params.items()]),
                ("logged_model_tags", [{**own, "tag_key": k, "tag_value": v} for k, v in model.tags.items()]),
                ("logged_model_metrics", metrics),
            ]
        )


def _alias(alias: Values) -> Values:
    return {"alias": str(alias["alias"]), "version": int(alias["version"])}


def _registered(model: Values) -> Values:
    return {
        "workspace": "default", "name": str(model["name"]), "description": model.get("description"),
        "creation_time": number(model, "creation_timestamp"),
        "last_updated_time": number(model, "last_updated_timestamp"),
    }  # fmt: skip


def _of_model(models: Iterable[Values], what: str, row: Callable[[Values], Values]) -> Iterator[Values]:
    for model in models:
        for each in model.get(what) or ():
            yield {"workspace": "default", "name": str(model["name"]), **row(each)}
