"""How things are called here: numbers of experiments, and where artifacts lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from gatehouse.moving import sources

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Engine

    from gatehouse.moving.rows import Row

#: Columns that have the number of an experiment.
EXPERIMENT = "experiment_id"
#: MLflow's own tag of where a trace's artifacts lie.
TRACE_LOCATION = "mlflow.artifactLocation"


class Places:
    """The changes of one import.

    Args:
        experiments: the source's number → the one here.
        root: below which artifacts lie here (``mlflow-artifacts:``), or None to leave every location as it is.
    """

    def __init__(self, experiments: Mapping[int, int], root: str | None) -> None:
        self._experiments = experiments
        self._root = root.rstrip("/") if root else None
        #: Location there → location here, of everything that has artifacts of its own.
        self.moved: dict[str, str] = {}
        self._experiment_of: dict[str, int] = {}

    def learn(self, engine: Engine) -> None:
        """Note where the artifacts of each run, model and trace lie in the source, and will lie here."""
        runs, models = sources.table("runs"), sources.table("logged_models")
        traces, tags = sources.table("trace_info"), sources.table("trace_tags")
        with engine.connect() as connection:
            for key, number, location in connection.execute(
                select(runs.c.run_uuid, runs.c.experiment_id, runs.c.artifact_uri)
            ):
                self._note(location, self._experiments[number], f"{key}/artifacts")
            for key, number, location in connection.execute(
                select(models.c.model_id, models.c.experiment_id, models.c.artifact_location)
            ):
                self._experiment_of[key] = self._experiments[number]
                self._note(location, self._experiments[number], f"models/{key}/artifacts")
            query = select(traces.c.request_id, traces.c.experiment_id, tags.c.value).join(
                tags, (tags.c.request_id == traces.c.request_id) & (tags.c.key == TRACE_LOCATION)
            )
            for key, number, location in connection.execute(query):
                self._note(location, self._experiments[number], f"traces/{key}/artifacts")

    def _note(self, location: str | None, number: int, rest: str) -> None:
        if self._root is not None and location:
            self.moved[location.rstrip("/")] = f"{self._root}/{number}/{rest}"

    def experiment_of(self, key: str) -> int | None:
        """Return the number here of a logged model's experiment."""
        return self._experiment_of.get(key)

    def location(self, location: str | None) -> str | None:
        """Return where something lies here: the longest known beginning of its location is replaced."""
        if self._root is None or not location:
            return location
        head = location.rstrip("/")
        while head:
            if head in self.moved:
                return self.moved[head] + location.rstrip("/")[len(head) :]
            head = head.rpartition("/")[0]
        return location

    def _associated(self, kind: int, value: Any, row: Row) -> Any:
        """Return a side of an association, whose kind stands in a column of a number."""
        return str(self._experiments.get(int(value), value)) if row[kind] == "experiment" else value

    def change(self, table: Table) -> Callable[[Row], Row] | None:
        """Return what changes a row of a table, or None if nothing has to."""
        changes: dict[int, Callable[[Any, Row], Any]] = {}
        index = {column.name: number for number, column in enumerate(sources.columns(table))}
        if EXPERIMENT in index:
            changes[index[EXPERIMENT]] = lambda value, _row: None if value is None else self._experiments[int(value)]
        for name in {
            "runs": ("artifact_uri",),
            "logged_models": ("artifact_location",),
            "model_versions": ("source", "storage_location"),
        }.get(table.name, ()):
            changes[index[name]] = lambda value, _row: self.location(value)
        if table.name == "trace_tags":
            key = index["key"]
            changes[index["value"]] = lambda value, row: self.location(value) if row[key] == TRACE_LOCATION else value
        if table.name == "entity_associations":
            for side in ("source", "destination"):
                kind = index[f"{side}_type"]
                changes[index[f"{side}_id"]] = partial(self._associated, kind)
        if not changes:
            return None

        def changed(row: Row) -> Row:
            values = list(row)
            for number, change in changes.items():
                values[number] = change(row[number], row)
            return tuple(values)

        return changed
