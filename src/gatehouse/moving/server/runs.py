"""A server's runs: what a search tells of them, and the whole history of each metric."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gatehouse.moving.server.reading import API, Reading, finite, number, pair, run_id
from gatehouse.moving.server.remote import ServerError
from gatehouse.moving.server.staged import Values

#: MLflow's own limits: runs and rows of one bulk history, rows of a history's page.
BULK_RUNS, BULK_ROWS, HISTORY_ROWS = 100, 25_000, 25_000


class Runs:
    """Reads runs."""

    def __init__(self, of: Reading) -> None:
        self._of = of

    def read(self, experiment: int) -> None:
        """Read those of an experiment that aren't there yet."""
        query = {
            "experiment_ids": [str(experiment)], "run_view_type": "ALL", "max_results": BULK_RUNS,
            "order_by": ["attributes.start_time ASC"],
        }  # fmt: skip
        for page in self._of.remote.pages(f"{API}/runs/search", "runs", query, post=True):
            missing = [run for run in page if not self._of.staged.marked("run", run_id(run))]
            if not missing:
                continue
            if not self._of.dry_run:
                self._histories(missing)
                missing = self._with_models([run for run in missing if self._readable(run)])
            for run in missing:
                if self._readable(run):
                    self._one_run(experiment, run)

    def _readable(self, run: Values) -> bool:
        return f"runs {run_id(run)}" not in self._of.told.failed

    def _one_run(self, experiment: int, run: Values) -> None:
        info, data, key = run["info"], run.get("data") or {}, run_id(run)
        if not self._of.dry_run and (lost := self._lost(key, data.get("metrics") or ())):
            self._of.told.failed[f"runs {key}"] = f"the last value isn't in the history of {', '.join(lost[:5])}"
            return
        latest = self._latest(key)
        tags = [{"run_uuid": key, **pair(tag)} for tag in data.get("tags") or ()]
        own = {tag["key"]: tag["value"] for tag in tags}
        deleted = info["lifecycle_stage"] == "deleted"
        row = {
            "run_uuid": key, "experiment_id": experiment, "status": info["status"],
            "name": info.get("run_name") or own.get("mlflow.runName"),
            "user_id": info.get("user_id") or own.get("mlflow.user"),
            "source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "source_version": "",
            "start_time": number(info, "start_time"), "end_time": number(info, "end_time"),
            "deleted_time": int(time.time() * 1000) if deleted else None,
            "lifecycle_stage": info["lifecycle_stage"], "artifact_uri": info.get("artifact_uri"),
        }  # fmt: skip
        params = [{"run_uuid": key, **pair(each)} for each in data.get("params") or ()]
        self._of.staged.put(
            [("runs", [row]), ("params", params), ("tags", tags), ("latest_metrics", latest),
             *self._inputs(experiment, key, run)],
            ("run", [key]),
        )  # fmt: skip

    def _lost(self, run: str, metrics: Sequence[Values]) -> list[str]:
        """Return the metrics whose last value, as the run tells it, isn't in the history that was read."""
        query = (
            "SELECT 1 FROM metrics WHERE run_uuid = :run_uuid AND key = :key AND timestamp = :timestamp "
            "AND step = :step AND is_nan = :is_nan AND value = :value"
        )
        wanted = [_metric(run, str(each["key"]), each) for each in metrics]
        return [each["key"] for each in wanted if not self._of.staged.all(query, each)]

    def _inputs(self, experiment: int, key: str, run: Values) -> list[tuple[str, list[Values]]]:
        datasets, inputs, tags = [], [], []
        given, made = run.get("inputs") or {}, run.get("outputs") or {}
        for each in given.get("dataset_inputs") or ():
            data = each["dataset"]
            dataset = self._of.id("dataset", experiment, data["name"], data["digest"])
            datasets.append(
                {
                    "dataset_uuid": dataset, "experiment_id": experiment, "name": data["name"],
                    "digest": data["digest"], "dataset_source_type": data.get("source_type", ""),
                    "dataset_source": data.get("source", ""), "dataset_schema": data.get("schema"),
                    "dataset_profile": data.get("profile"),
                }
            )  # fmt: skip
            inputs.append(self._input("DATASET", dataset, "RUN", key))
            tags += [
                {"input_uuid": inputs[-1]["input_uuid"], "name": tag["key"], "value": tag.get("value", "")}
                for tag in each.get("tags") or ()
            ]
        inputs += [
            self._input("RUN_INPUT", key, "MODEL_INPUT", str(each["model_id"]))
            for each in given.get("model_inputs") or ()
        ]
        inputs += [
            self._input("RUN_OUTPUT", key, "MODEL_OUTPUT", str(each["model_id"]), number(each, "step") or 0)
            for each in made.get("model_outputs") or ()
        ]
        return [("datasets", datasets), ("inputs", inputs), ("input_tags", tags)]

    def _input(self, kind: str, source: str, to: str, destination: str, step: int = 0) -> Values:
        return {
            "input_uuid": self._of.id(kind, source, to, destination), "source_type": kind, "source_id": source,
            "destination_type": to, "destination_id": destination, "step": step,
        }  # fmt: skip

    def _with_models(self, runs: list[Values]) -> list[Values]:
        """Return runs with their models: a search leaves out those that are a run's inputs."""
        if "logged models" in self._of.lacks:
            return runs

        def get(run: Values) -> Values:
            try:
                found: Values = self._of.remote.get(f"{API}/runs/get", {"run_id": run_id(run)})["run"]
            except ServerError as error:
                self._tell(run_id(run), error)
                return run
            return {**run, "inputs": found.get("inputs"), "outputs": found.get("outputs")}

        return list(self._of.pool.map(get, runs))

    def _tell(self, run: str, error: ServerError) -> None:
        """Note that one run can't be read, or raise what keeps all others from it too."""
        if not error.of_one_thing:
            raise error
        self._of.told.failed[f"runs {run}"] = str(error)

    def _histories(self, runs: list[Values]) -> None:
        """Read the histories of some runs' metrics: of many runs at once where one answer can have them."""
        wanted: dict[str, dict[str, Values]] = {}
        for run in runs:
            # One that goes on has more than an earlier, interrupted reading found.
            ended = run["info"].get("status") != "RUNNING"
            for each in (run.get("data") or {}).get("metrics") or ():
                key = str(each["key"])
                if not (ended and self._of.staged.marked("history", _history(run_id(run), key))):
                    wanted.setdefault(key, {})[run_id(run)] = each
        rest: list[tuple[str, str]] = []
        bulk = [(key, latest) for key, latest in wanted.items() if len(latest) > 1]
        done = self._of.pool.map(lambda each: self._bulk(*each), bulk) if "bulk histories" not in self._of.lacks else ()
        read = dict(zip((key for key, _ in bulk), done, strict=False))
        for key, latest in wanted.items():
            rest += [(run, key) for run in latest if run not in read.get(key, ())]
        for _ in self._of.pool.map(lambda each: self._history(*each), rest):
            pass

    def _bulk(self, key: str, latest: dict[str, Values]) -> set[str]:
        """Read one metric of many runs; return those of which the answer has all."""
        query = {"run_id": list(latest), "metric_key": key, "max_results": BULK_ROWS}
        try:
            answer = self._of.remote.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk", query)
            found = answer.get("metrics") or ()
            if len(found) >= BULK_ROWS:
                return set()
            rows = [_metric(each["run_id"], key, each) for each in found]
        except (KeyError, TypeError, ValueError):
            return set()  # NaN is null in some releases' answers: the other call has it
        except ServerError as error:
            if not error.of_one_thing:
                raise
            self._of.lacks.add("bulk histories")  # what a page asks for: a gate may keep it from programs
            return set()
        there = {(row["run_uuid"], row["timestamp"], row["step"], row["value"]) for row in rows}
        whole = set()
        for run, each in latest.items():
            last = _metric(run, key, each)
            if (run, last["timestamp"], last["step"], last["value"]) in there:
                whole.add(run)
        self._of.staged.put(
            [("metrics", [row for row in rows if row["run_uuid"] in whole])],
            ("history", [_history(run, key) for run in whole]),
        )
        return whole

    def _history(self, run: str, key: str) -> None:
        query = {"run_id": run, "run_uuid": run, "metric_key": key, "max_results": HISTORY_ROWS}
        try:
            for page in self._of.remote.pages(f"{API}/metrics/get-history", "metrics", query):
                self._of.staged.put([("metrics", [_metric(run, key, each) for each in page])])
        except ServerError as error:
            self._tell(run, error)
            return
        self._of.staged.mark("history", [_history(run, key)])

    def _latest(self, run: str) -> list[Values]:
        """Return a run's last values, as MLflow orders them."""
        found = self._of.staged.all(
            "SELECT key, value, timestamp, step, is_nan FROM (SELECT *, ROW_NUMBER() OVER "
            "(PARTITION BY key ORDER BY step DESC, timestamp DESC, value DESC) AS place FROM metrics "
            "WHERE run_uuid = ?) WHERE place = 1",
            (run,),
        )
        return [
            {"run_uuid": run, **dict(zip(("key", "value", "timestamp", "step", "is_nan"), row, strict=True))}
            for row in found
        ]


def _history(run: str, key: str) -> str:
    """Return what the note of a history that is whole is called."""
    return f"{run} {key}"


def _metric(run: str, key: str, each: Values) -> Values:
    value, is_nan = finite(each.get("value", 0.0))
    return {
        "run_uuid": run, "key": key, "value": value, "is_nan": is_nan,
        "timestamp": int(each.get("timestamp", 0)), "step": int(each.get("step", 0)),
    }  # fmt: skip
