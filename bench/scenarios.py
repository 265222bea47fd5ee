"""What is measured of a set-up: the calls, the load on them, an SDK loop, memory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.setups import SetUp
from local.proxy_binary import ROOT

SECONDS = 2
RUNS = 1000
#: What a training loop calls most.
BUSY = ("runs/get", "log-batch (20 metrics)")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SDK_LOOP = """
import mlflow, time
mlflow.set_experiment("bench")
started = time.perf_counter()
with mlflow.start_run():
    for step in range(100):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
print(time.perf_counter() - started)
"""
SEED = """
import sys, warnings
warnings.simplefilter("ignore")
from mlflow.entities import Metric, Param
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore(sys.argv[1], "mlflow-artifacts:/")
experiment = store.create_experiment("seeded")
for number in range(int(sys.argv[2])):
    run = store.create_run(experiment, "bench", number, [], f"run {number}").info.run_id
    store.log_batch(run, [Metric("loss", 1 / (i + 1), i, i) for i in range(1000 if number == 0 else 2)], [], [])
    store.log_batch(run, [], [Param("p", str(number))], [])
    if number == 0:
        print(experiment, run)
"""


def hey() -> Path:
    """Return the load generator, built with Go at the version that bench/go.mod pins."""
    binary = ROOT / ".build" / "hey"
    if not binary.exists():
        subprocess.run(
            ["go", "build", "-trimpath", "-o", binary, "github.com/rakyll/hey"], cwd=ROOT / "bench", check=True
        )
    return binary


def seed(database: str) -> Requests:
    """Fill a database with 1,000 runs, by MLflow's own store; return the calls on them."""
    command = [sys.executable, "-c", SEED, database, str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Requests(*done.stdout.split()[-2:])


class Requests:
    """The calls that are measured."""

    def __init__(self, experiment: str, run: str) -> None:
        batch = {"run_id": run, "metrics": [{"key": f"m{i}", "value": i, "timestamp": 1, "step": 1} for i in range(20)]}
        search = {"experiment_ids": [experiment], "max_results": RUNS}
        history = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss"
        self.calls: dict[str, tuple[str, str, object]] = {
            "/version": ("GET", "/version", None),
            "runs/get": ("GET", f"/api/2.0/mlflow/runs/get?run_id={run}", None),
            "log-batch (20 metrics)": ("POST", "/api/2.0/mlflow/runs/log-batch", batch),
            "metric history (1,000)": ("GET", history, None),
            "runs/search (1,000)": ("POST", "/api/2.0/mlflow/runs/search", search),
            "the UI's page": ("GET", "/", None),
        }

    def load(self, setup: SetUp, token: str, call: str, connections: int, seconds: int = SECONDS) -> dict[str, float]:
        """Load one call for some seconds; return the requests per second that were answered well, their p50 and p99 in
        milliseconds, and the percentage that failed.
        """
        method, path, body = self.calls[call]
        command = [str(hey()), "-z", f"{seconds}s", "-c", str(connections), "-o", "csv", "-m", method]
        command += ["-H", f"Authorization: Bearer {token}"]
        if body is not None:
            command += ["-T", "application/json", "-d", json.dumps(body)]
        done = subprocess.run(
            [*command, setup.url + path], capture_output=True, text=True, timeout=seconds + 60, check=True
        )
        rows = [line.split(",") for line in done.stdout.splitlines()[1:]]
        good = [row for row in rows if row[6] == "200"]
        if not good:  # under load, some set-ups finish no request at all for seconds
            return {"rps": 0.0, "p50": seconds * 1000.0, "p99": seconds * 1000.0, "failed": 100.0 if rows else 0.0}
        times = sorted(float(row[0]) * 1000 for row in good)
        lasted = max(float(row[7]) + float(row[0]) for row in rows)
        return {
            "rps": len(good) / lasted,
            "p50": statistics.median(times),
            "p99": times[int(len(times) * 0.99)],
            "failed": 100 * (1 - len(good) / len(rows)),
        }

    def through_and_straight(self, setup: SetUp, token: str, call: str) -> float:
        """Return the throughput at 8 connections through the proxy, as a part of that straight to MLflow's socket.

        By one load generator that speaks to both (h2load, in HTTP/1.1); the two are loaded in turn, and the
        medians of three rounds are compared.
        """
        _, path, body = self.calls[call]
        folder = setup.run_directory()
        proof = base64.b64encode(b"alice@example.com:" + (folder / "proof").read_bytes()).decode()
        straight = ["-H", f"Authorization: Basic {proof}", "-H", "X-Forwarded-Email: alice@example.com"]
        straight += [f"--base-uri=unix:{folder / 'mlflow.sock'}"]
        ways = {"through": ["-H", f"Authorization: Bearer {token}"], "straight": straight}
        rates: dict[str, list[float]] = {"through": [], "straight": []}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as data:
            json.dump(body, data)
            data.flush()
            common = ["h2load", "--h1", "-c", "8", "-t", "1", "-D", str(SECONDS)]
            if body is not None:
                common += ["-d", data.name, "-H", "Content-Type: application/json"]
            for _ in range(3):
                for way, options in ways.items():
                    done = subprocess.run(
                        [*common, *options, setup.url + path], capture_output=True, text=True, timeout=60, check=True
                    )
                    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
                    rate = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
                    if codes is None or rate is None or int(codes[1]) == 0 or any(int(codes[i]) for i in (2, 3, 4)):
                        raise RuntimeError(f"{setup.name}: {call} {way}: {done.stdout}")
                    rates[way].append(float(rate[1]))
        return statistics.median(rates["through"]) / statistics.median(rates["straight"])


def sdk_environment(setup: SetUp, token: str, home: str | Path) -> dict[str, str]:
    """Return the environment of a training script that comes to a set-up."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MLFLOW_TRACKING_URI": setup.url,
        "MLFLOW_TRACKING_TOKEN": token,
    }


def sdk_loop(setup: SetUp, token: str) -> float:
    """Return the seconds of an SDK loop: start a run, 100 × log_metric, end it."""
    environment = sdk_environment(setup, token, tempfile.gettempdir())
    done = subprocess.run(
        [sys.executable, "-c", SDK_LOOP], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return float(re.findall(r"^[\d.]+$", done.stdout, re.M)[-1])


@contextlib.contextmanager
def watched(look: Callable[[], float], pause_s: float) -> Iterator[list[float]]:
    """Yield a list that fills with what ``look`` returns, until the block's end; ``pause_s`` seconds between looks."""
    seen = [look()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(pause_s):
            seen.append(look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def drop_page_cache() -> bool:
    """Empty the system's page cache, where this user may."""
    if not os.access(DROP_CACHES, os.W_OK):
        return False
    os.sync()
    DROP_CACHES.write_text("3")
    return True


def measure(setup: SetUp, calls: Requests, token: str, chosen: set[str], log: Path) -> Iterator[tuple[str, float]]:
    """Start a set-up, yield (figure, value) for each scenario, stop it."""
    if "disk" in chosen and drop_page_cache():
        try:
            yield "cold start, page cache dropped, s", setup.start(log, token)
        finally:
            setup.stop()
    try:
        yield "cold start, s", setup.start(log, token)
        time.sleep(3)  # what still loads after readiness belongs to the idle memory
        if "memory" in chosen:
            yield "idle memory, MiB", setup.memory()
        if "latency" in chosen:
            for call in calls.calls:
                calls.load(setup, token, call, 1, 1)
                figures = calls.load(setup, token, call, 1)
                yield f"{call}: p50 at 1 connection, ms", figures["p50"]
                yield f"{call}: p99 at 1 connection, ms", figures["p99"]
        if "throughput" in chosen:
            for call in calls.calls:
                for connections in (8, 32):
                    figures = calls.load(setup, token, call, connections)
                    yield f"{call}: requests/s at {connections}", figures["rps"]
                    if figures["failed"]:
                        yield f"{call}: failed at {connections}, %", figures["failed"]
        if "memory" in chosen:
            # Apart from the throughput, which watching would disturb.
            with watched(setup.memory, 1) as seen:
                for call in (*BUSY, "runs/search (1,000)"):
                    calls.load(setup, token, call, 32)
            yield "peak memory under load, MiB", max(seen)
        if "sdk" in chosen:
            yield "SDK loop of 100 metrics, s", sdk_loop(setup, token)
        if "proxy" in chosen and setup.is_gatehouse:
            for call in BUSY:
                yield f"{call}: through the proxy / straight, at 8", calls.through_and_straight(setup, token, call)
    finally:
        setup.stop()
