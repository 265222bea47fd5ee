"""A server's traces, by MLflow's own entities: of its third version, or of the second before it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehouse.moving.places import TRACE_LOCATION
from gatehouse.moving.server.reading import API, API3, Reading, parsed
from gatehouse.moving.server.remote import ServerError
from gatehouse.moving.server.staged import Values

if TYPE_CHECKING:
    from mlflow.entities import Trace, TraceInfo
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

#: Traces whose spans are asked for at once; one of them can have megabytes.
TRACES = 10


class Traces:
    """Reads traces."""

    def __init__(self, of: Reading) -> None:
        self._of = of
        self._store: SqlAlchemyStore | None = None

    def read(self, experiment: int) -> None:
        """Read those of an experiment that aren't there yet."""
        for infos in self._trace_infos(experiment):
            missing = [info for info in infos if not self._of.staged.marked("trace", info.trace_id)]
            inside = [info.trace_id for info in missing if not self._of.dry_run and _spans_in_database(info)]
            spans: dict[str, Any] = {}
            parts = [inside[i : i + TRACES] for i in range(0, len(inside), TRACES)]
            for found in self._of.pool.map(self._spans, parts):
                spans.update(found)
            for info in missing:
                if info.trace_id in inside and info.trace_id not in spans:
                    self._of.told.failed[f"trace_info {info.trace_id}"] = "the server doesn't give its spans"
                    continue
                try:
                    self._one_trace(experiment, info, spans.get(info.trace_id))
                except Exception as error:  # whatever MLflow's store finds wrong with one
                    self._of.told.failed[f"trace_info {info.trace_id}"] = f"{type(error).__name__}: {error}"

    def _trace_infos(self, experiment: int) -> Iterator[list[TraceInfo]]:
        from mlflow.entities.trace_info import TraceInfo
        from mlflow.entities.trace_info_v2 import TraceInfoV2
        from mlflow.protos.service_pb2 import SearchTraces, SearchTracesV3

        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": str(experiment)}}
        query: Values = {"locations": [place], "max_results": 100, "order_by": ["timestamp_ms ASC"]}
        try:
            if "traces of version 3" not in self._of.lacks:
                for page in self._of.remote.pages(f"{API3}/traces/search", "traces", query, post=True):
                    answer = parsed({"traces": page}, SearchTracesV3.Response())
                    yield [TraceInfo.from_proto(each) for each in answer.traces]
                return
        except ServerError as error:
            if not error.no_route:
                raise
            self._of.lacks.add("traces of version 3")
        query = {"experiment_ids": [str(experiment)], "max_results": 100, "order_by": ["timestamp_ms ASC"]}
        for page in self._of.remote.pages(f"{API}/traces", "traces", query):
            older = parsed({"traces": page}, SearchTraces.Response())
            yield [TraceInfoV2.from_proto(each).to_v3() for each in older.traces]

    def _spans(self, traces: list[str]) -> dict[str, Trace]:
        from mlflow.entities import Trace
        from mlflow.protos.service_pb2 import BatchGetTraces

        try:
            found = self._of.remote.get(f"{API3}/traces/batchGet", {"trace_ids": traces})
            whole = list(map(Trace.from_proto, parsed(found, BatchGetTraces.Response()).traces))
        except ServerError as error:
            if not error.of_one_thing:
                raise
            # One that can't be had keeps no other from it.
            return {k: v for one in traces for k, v in self._spans([one]).items()} if len(traces) > 1 else {}
        return {trace.info.trace_id: trace for trace in whole}

    def _one_trace(self, experiment: int, info: TraceInfo, whole: Trace | None) -> None:
        """Have MLflow's own store write it, which knows what else its tables want to have."""
        if self._store is None:
            self._store = _store(self._of.staged.path)
        tags = dict(info.tags)
        info.tags.pop(TRACE_LOCATION, None)  # the store adds one of its own; the true one replaces it
        with self._active(experiment):
            self._store.start_trace(info)
            if whole is not None and whole.data.spans:
                self._store.log_spans(str(experiment), whole.data.spans)
        rows = [
            {"request_id": info.trace_id, "key": key, "value": value}
            for key, value in tags.items()
            if key != "mlflow.traceName"
        ]
        self._of.staged.put([("trace_tags", rows)], ("trace", [info.trace_id]))

    @contextlib.contextmanager
    def _active(self, experiment: int) -> Iterator[None]:
        """Let MLflow's store write into a deleted experiment."""
        stage = self._of.staged.all("SELECT lifecycle_stage FROM experiments WHERE experiment_id = ?", (experiment,))[
            0
        ][0]
        if stage == "active":
            yield
            return
        change = "UPDATE experiments SET lifecycle_stage = ? WHERE experiment_id = ?"
        self._of.staged.run(change, "active", experiment)
        try:
            yield
        finally:
            self._of.staged.run(change, stage, experiment)


def _store(path: Path) -> SqlAlchemyStore:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "none"))


def _spans_in_database(info: TraceInfo) -> bool:
    return bool(info.tags.get("mlflow.trace.spansLocation") == "TRACKING_STORE")
