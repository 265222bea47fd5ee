"""The calls that are measured, and the load on them: by vegeta, which sends each request from a list and times it."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.setups import SetUp
from local.proxy_binary import ROOT

SECONDS = 2
RUNS = 1000
#: Runs that log batches at once.
TRAINING_RUNS = 8
#: More batches a second than any set-up takes.
MOST_BATCHES_PER_S = 1000
GET, BATCH = "runs/get", "log-batch (20 metrics)"
#: What a training loop calls most.
BUSY = (GET, BATCH)
SEED = """
import sys, warnings
warnings.simplefilter("ignore")
from mlflow.entities import Metric, Param
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore(sys.argv[1], "mlflow-artifacts:/")
experiment = store.create_experiment("seeded")
print(experiment)
for number in range(int(sys.argv[2])):
    run = store.create_run(experiment, "bench", number, [], f"run {number}").info.run_id
    store.log_batch(run, [Metric("loss", 1 / (i + 1), i, i) for i in range(1000 if number == 0 else 2)], [], [])
    store.log_batch(run, [], [Param("p", str(number))], [])
    print(run)
"""


def vegeta() -> Path:
    """Return the load generator, built with Go at the version that bench/go.mod pins."""
    binary = ROOT / ".build" / "vegeta"
    if not binary.exists():
        subprocess.run(
            ["go", "build", "-trimpath", "-o", binary, "github.com/tsenart/vegeta/v12"], cwd=ROOT / "bench", check=True
        )
    return binary


def seed(database: str) -> Requests:
    """Fill a database with 1,000 runs, by MLflow's own store; return the calls on them."""
    command = [sys.executable, "-c", SEED, database, str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    experiment, *runs = done.stdout.split()[-RUNS - 1 :]
    return Requests(experiment, runs[0], runs[1 : TRAINING_RUNS + 1])


class Requests:
    """The calls that are measured: on a run with a history, on all, and new values of the metrics of some in training."""

    def __init__(self, experiment: str, run: str, training: list[str]) -> None:
        history = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss"
        search = {"experiment_ids": [experiment], "max_results": RUNS}
        self._batches = self._new_values(training)
        self.calls: dict[str, tuple[str, str, object]] = {
            "/version": ("GET", "/version", None),
            GET: ("GET", f"/api/2.0/mlflow/runs/get?run_id={run}", None),
            BATCH: ("POST", "/api/2.0/mlflow/runs/log-batch", None),  # each has a body of its own
            "metric history (1,000)": ("GET", history, None),
            "runs/search (1,000)": ("POST", "/api/2.0/mlflow/runs/search", search),
            "the UI's page": ("GET", "/", None),
        }

    @staticmethod
    def _new_values(training: list[str]) -> Iterator[object]:
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
        bodies = itertools.islice(self._batches, MOST_BATCHES_PER_S * seconds) if call == BATCH else [body]
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
            lazy = ["-lazy"] if call == BATCH else []
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
        proof = base64.b64encode(b"alice@example.com:" + (folder / "proof").read_bytes()).decode()
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
        return {"rps": 0.0, "p50": seconds * 1000.0, "p99": seconds * 1000.0, "failed": 100.0 if rows else 0.0}
    lasted = (max(time + latency for time, _, latency in rows) - min(time for time, _, _ in rows)) / 1e9
    return {
        "rps": len(times) / lasted,
        "p50": statistics.median(times),
        "p99": times[int(len(times) * 0.99)],
        "failed": 100 * (1 - len(times) / len(rows)),
    }
