"""The calls that are measured, and the load on them: by vegeta, which sends each request from a list and times it."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import data
from bench.setups import SetUp
from gatehouse.database import schema
from local.proxy_binary import ROOT

#: The whole benchmark in less than 5 minutes: one round, the essential set-ups and scenarios, shorter loads.
QUICK = os.environ.get("QUICK") == "1"
#: How long each call is loaded, in seconds.
SECONDS = 1 if QUICK else 2
#: More batches a second than any set-up takes.
MOST_BATCHES_PER_S = 1000
GET, BATCH, SEARCH = "runs/get", "log-batch (20 metrics)", "runs/search (1,000)"
#: What a training loop calls most.
BUSY = (GET, BATCH)
#: The calls of the scenarios "latency" and "throughput".
FEW = ("/version", GET, BATCH, "metric history (1,000)", SEARCH, "the UI's page")
#: Those of the scenario "reads": what people wait for, and what a training script sends.
READS = (
    GET, "metric history (1,000)", "histories of 10 runs (320 points)", "runs/search (100)", SEARCH,
    "runs/search (filter, order, 50)", "experiments/search (20)", "create run", BATCH, "log-batch (10 params)",
    "log-batch (100 params)", "set-tag (10)",
)  # fmt: skip
LARGE = ("runs/search (20,000 runs, by metric, 100)", "runs/search (20,000 runs, by metric, 5,000th)")


def vegeta() -> Path:
    """Return the load generator, built with Go at the version that bench/go.mod pins."""
    binary = ROOT / ".build" / "vegeta"
    if not binary.exists():
        subprocess.run(
            ["go", "build", "-trimpath", "-o", binary, "github.com/tsenart/vegeta/v12"], cwd=ROOT / "bench", check=True
        )
    return binary


def seed(database: str, large_runs: int = 0) -> Requests:
    """Fill a database with 1,000 runs; return the calls on them. ``database`` is a URL of SQLAlchemy's."""
    schema.ensure(database, 60, lambda _: None)
    engine = schema.make_engine(database)
    with schema.exclusive(engine) as connection:
        # As MLflow does when it is first started.
        default = (
            "INSERT INTO experiments VALUES (0, 'Default', 'mlflow-artifacts:/0', 'active', 0, 0) ON CONFLICT DO "
            "NOTHING"
        )
        connection.exec_driver_sql(default)
        connection.commit()
    return Requests(data.seed(database.replace("postgresql+psycopg2:", "postgresql:"), data.MLFLOW, large_runs))


class Requests:
    """The calls that are measured:

    on a run with a history, on all, and new values of the metrics of some in training.
    """

    def __init__(self, seeded: data.Seeded) -> None:
        run = seeded.runs[0]
        experiment, large = str(seeded.experiment), str(seeded.large)
        history = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=history"
        lines = "&".join(f"run_ids={one}" for one in seeded.runs[:10])
        interval = f"/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?{lines}&metric_key=history&max_results=320"
        search, order = "/api/2.0/mlflow/runs/search", ["metrics.loss DESC"]
        chosen = "metrics.loss > 0.3 and params.layers = '3'"
        by_metric = {"experiment_ids": [large], "filter": "metrics.loss > 0.005", "order_by": order, "max_results": 100}
        deep = base64.b64encode(json.dumps({"offset": 5000}).encode()).decode()
        writes = {
            BATCH: self._new_values(seeded.training),
            "log-batch (10 params)": self._new_pairs(seeded.training, "params", 10),
            "log-batch (100 params)": self._new_pairs(seeded.training, "params", 100),
            "set-tag (10)": self._new_pairs(seeded.training, "tags", 10),
        }
        self._bodies: dict[str, Iterator[object]] = writes
        self.calls: dict[str, tuple[str, str, object]] = {
            "/version": ("GET", "/version", None),
            GET: ("GET", f"/api/2.0/mlflow/runs/get?run_id={run}", None),
            "metric history (1,000)": ("GET", history, None),
            SEARCH: ("POST", search, {"experiment_ids": [experiment], "max_results": data.RUNS}),
            "the UI's page": ("GET", "/", None),
            # Of the scenario "reads" alone.
            "runs/search (100)": ("POST", search, {"experiment_ids": [experiment], "max_results": 100}),
            "runs/search (filter, order, 50)": (
                "POST", search,
                {"experiment_ids": [experiment], "filter": chosen, "order_by": order, "max_results": 50},
            ),
            "histories of 10 runs (320 points)": ("GET", interval, None),
            "experiments/search (20)": ("GET", "/api/2.0/mlflow/experiments/search?max_results=20", None),
            "create run": (
                "POST", "/api/2.0/mlflow/runs/create",
                {"experiment_id": str(seeded.experiment + 1), "start_time": 1790000000000, "run_name": "one more"},
            ),
            # Of the scenario "large" alone.
            "runs/search (20,000 runs, by metric, 100)": ("POST", search, by_metric),
            "runs/search (20,000 runs, by metric, 5,000th)": ("POST", search, {**by_metric, "page_token": deep}),
            # Each of these has a body of its own.
            **dict.fromkeys(writes, ("POST", "/api/2.0/mlflow/runs/log-batch", None)),
        }  # fmt: skip

    @staticmethod
    def _new_pairs(training: Sequence[str], kind: str, size: int) -> Iterator[object]:
        """Yield batches of parameters or tags, no name twice."""
        for number in itertools.count():
            for run in training:
                pairs = [{"key": f"{kind} {number}-{size}-{i}", "value": str(i)} for i in range(size)]
                yield {"run_id": run, kind: pairs}

    @staticmethod
    def _new_values(training: Sequence[str]) -> Iterator[object]:
        """Yield batches as training loops log them: of each run in turn, no value twice."""
        for step in itertools.count():
            for run in training:
                metrics = [
                    {"key": f"m{i}", "value": i / (step + 1), "timestamp": step, "step": step} for i in range(20)
                ]
                yield {"run_id": run, "metrics": metrics}

    def _targets(self, call: str, url: str, headers: Mapping[str, str], seconds: int) -> Iterable[str]:
        """Yield requests as vegeta reads them, a line of JSON each."""
        method, path, body = self.calls[call]
        fields = {"Content-Type": "application/json", **headers}
        target = {"method": method, "url": url + path, "header": {name: [value] for name, value in fields.items()}}
        own = self._bodies.get(call)
        bodies = [body] if own is None else itertools.islice(own, int(MOST_BATCHES_PER_S * seconds))
        for one in bodies:
            text = "" if one is None else base64.b64encode(json.dumps(one).encode()).decode()
            yield json.dumps({**target, "body": text}) + "\n"

    def _attack(
        self, call: str, url: str, headers: Mapping[str, str], connections: int, seconds: int, *options: str
    ) -> dict[str, float]:
        """Load one call for some seconds, each connection sending its next request when it has its answer."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as targets, tempfile.NamedTemporaryFile() as results:
            targets.writelines(self._targets(call, url, headers, seconds))
            targets.flush()
            # Batches are read one by one, so that none is sent twice; any other call is sent again and again.
            lazy = ["-lazy"] if call in self._bodies else []
            limits = [f"-{name}={connections}" for name in ("workers", "max-workers", "connections", "max-connections")]
            files = [f"-targets={targets.name}", f"-output={results.name}"]
            program, how = str(vegeta()), ["-rate=0", f"-duration={seconds}s", "-format=json", "-max-body=0"]
            attack = [program, "attack", *how, *limits, *lazy, *files, *options]
            subprocess.run(attack, timeout=seconds + 60, check=True)
            encode = [program, "encode", "-to", "csv", results.name]
            text = subprocess.run(encode, capture_output=True, text=True, timeout=60, check=True).stdout
        return figures(text, seconds)

    def load(self, setup: SetUp, token: str, call: str, connections: int, seconds: int = SECONDS) -> dict[str, float]:
        """Load one call for some seconds; return the requests per second that were answered well, their p50 and p99 in
        milliseconds, and the percentage that failed.
        """
        return self._attack(call, setup.url, {"Authorization": f"Bearer {token}"}, connections, seconds)

    def through_and_straight(self, setup: SetUp, token: str, call: str) -> float:
        """Return the throughput at 8 connections through the proxy, as a part of that straight to MLflow's socket.

        The two are loaded in turn, and the medians of three rounds are compared.
        """
        folder = setup.run_directory()
        proof = base64.b64encode(b"alice@example.com:" + setup.proof()).decode()
        identity = {"Authorization": f"Basic {proof}", "X-Forwarded-Email": "alice@example.com"}
        socket = f"-unix-socket={folder / 'mlflow.sock'}"
        through, straight = [], []
        for _ in range(3):
            through.append(self.load(setup, token, call, 8))
            straight.append(self._attack(call, setup.url, identity, 8, SECONDS, socket))
        if failed := [one for one in (*through, *straight) if one["failed"]]:
            raise RuntimeError(f"{setup.name}: {call}: {failed[0]}")
        return statistics.median(one["rps"] for one in through) / statistics.median(one["rps"] for one in straight)


def figures(text: str, seconds: int) -> dict[str, float]:
    """Return rate, percentiles and failures from vegeta's CSV (time and latency in ns; its README, "encode")."""
    rows = [(int(time), code, int(latency)) for time, code, latency, *_ in csv.reader(text.splitlines())]
    times = sorted(latency / 1e6 for _, code, latency in rows if code == "200")
    if not times:  # under load, some set-ups finish no request at all for seconds
        return {
            "rps": 0.0,
            "answered": 0.0,
            "p50": seconds * 1000.0,
            "p95": seconds * 1000.0,
            "p99": seconds * 1000.0,
            "failed": 100.0 if rows else 0.0,
        }
    lasted = (max(time + latency for time, _, latency in rows) - min(time for time, _, _ in rows)) / 1e9
    return {
        "rps": len(times) / lasted,
        "answered": float(len(times)),
        "p50": statistics.median(times),
        "p95": times[int(len(times) * 0.95)],
        "p99": times[int(len(times) * 0.99)],
        "failed": 100 * (1 - len(times) / len(rows)),
    }
