"""`make bench`: ROUNDS=3 (default), SCENARIOS=cold,memory,latency,throughput,sdk,layers,scale (all by default).

Each round starts each set-up in turn on one PostgreSQL with 1,000 runs; figures are medians over the rounds with their
range, and the ratio of the medians. Writes bench/results/bench.json and bench.svg.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import layers, scale
from bench.setups import SetUp, gatehouse, plain
from gatehouse.settings import parse_database
from local.proxy_binary import ROOT
from tests.support import Postgres, Provider

RESULTS = ROOT / "bench" / "results"
SCENARIOS = ("cold", "memory", "latency", "throughput", "sdk", "layers", "scale")
SECONDS = 2
RUNS = 1000
#: What a training loop calls most; measured with more connections too.
BUSY = ("runs/get", "log-batch (20 metrics)")
REFERENCES = ("plain", "plain, best")
SUBJECTS = ("gatehouse", "gatehouse, 2 workers")
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


class Requests:
    """The calls that are measured."""

    def __init__(self, experiment: str, run: str) -> None:
        batch = {"run_id": run, "metrics": [{"key": f"m{i}", "value": i, "timestamp": 1, "step": 1} for i in range(20)]}
        search = {"experiment_ids": [experiment], "max_results": RUNS}
        self.calls: dict[str, tuple[str, str, object]] = {
            "/version": ("GET", "/version", None),
            "runs/get": ("GET", f"/api/2.0/mlflow/runs/get?run_id={run}", None),
            "log-batch (20 metrics)": ("POST", "/api/2.0/mlflow/runs/log-batch", batch),
            "metric history (1,000)": (
                "GET",
                f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss",
                None,
            ),
            "runs/search (1,000)": ("POST", "/api/2.0/mlflow/runs/search", search),
            "the UI's page": ("GET", "/", None),
        }

    def load(self, setup: SetUp, token: str, call: str, connections: int, seconds: int = SECONDS) -> dict[str, float]:
        """Load one call for some seconds; return requests per second, p50 and p99 in milliseconds.

        Raises:
            RuntimeError: if any answer isn't 200.
        """
        method, path, body = self.calls[call]
        command = [
            str(hey()),
            "-z",
            f"{seconds}s",
            "-c",
            str(connections),
            "-o",
            "csv",
            "-m",
            method,
            "-H",
            f"Authorization: Bearer {token}",
        ]
        if body is not None:
            command += ["-T", "application/json", "-d", json.dumps(body)]
        done = subprocess.run(
            [*command, setup.url + path], capture_output=True, text=True, timeout=seconds + 60, check=True
        )
        rows = [line.split(",") for line in done.stdout.splitlines()[1:]]
        wrong = {row[6] for row in rows} - {"200"}
        if wrong or not rows:
            raise RuntimeError(f"{setup.name}: {call} answered {wrong or 'nothing'}")
        times = sorted(float(row[0]) * 1000 for row in rows)
        lasted = max(float(row[7]) + float(row[0]) for row in rows)
        return {"rps": len(rows) / lasted, "p50": statistics.median(times), "p99": times[int(len(times) * 0.99)]}


def sdk_loop(setup: SetUp, token: str) -> float:
    """Return the seconds of an SDK loop: start a run, 100 × log_metric, end it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": tempfile.gettempdir(),
        "MLFLOW_TRACKING_URI": setup.url,
        "MLFLOW_TRACKING_TOKEN": token,
    }
    done = subprocess.run(
        [sys.executable, "-c", SDK_LOOP], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return float(re.findall(r"^[\d.]+$", done.stdout, re.M)[-1])


def measure(setup: SetUp, calls: Requests, token: str, chosen: set[str], log: Path) -> Iterator[tuple[str, float]]:
    """Start a set-up, yield (figure, value) for each scenario, stop it."""
    try:
        yield "cold start, s", setup.start(log, token)
        time.sleep(3)  # what still loads after readiness belongs to the idle memory
        if "memory" in chosen:
            yield "idle memory, MiB", setup.memory()
        for call in calls.calls:
            if "latency" in chosen:
                calls.load(setup, token, call, 1, 1)
                figures = calls.load(setup, token, call, 1)
                yield f"{call}: p50 at 1 connection, ms", figures["p50"]
                yield f"{call}: p99 at 1 connection, ms", figures["p99"]
            if "throughput" in chosen:
                for connections in (8, 32) if call in BUSY else (8,):
                    yield f"{call}: requests/s at {connections}", calls.load(setup, token, call, connections)["rps"]
        if "throughput" in chosen and "memory" in chosen:
            yield "memory after load, MiB", setup.memory()
        if "sdk" in chosen:
            yield "SDK loop of 100 metrics, s", sdk_loop(setup, token)
    finally:
        setup.stop()


def ratio(figure: str, reference: float, subject: float) -> float:
    """Return how many times better the subject is."""
    return subject / reference if "requests/s" in figure else reference / subject


def show(figures: dict[str, dict[str, list[float]]], console: Console) -> None:
    """Print the table of medians, ranges and ratios."""
    table = Table(title="medians (lowest–highest); × = how many times better than the plain set-up, and than its best")
    table.add_column("figure")
    names = [name for name in (*REFERENCES, *SUBJECTS) if name in figures]
    for name in names:
        table.add_column(name, justify="right")
    for figure in figures[names[0]]:
        cells = []
        for name in names:
            values = figures[name][figure]
            median = statistics.median(values)
            text = f"{median:.4g} ({min(values):.4g}–{max(values):.4g})"
            if name in SUBJECTS:
                text += "".join(
                    f" ×{ratio(figure, statistics.median(figures[r][figure]), median):.1f}"
                    for r in REFERENCES
                    if r in figures
                )
            cells.append(text)
        table.add_row(figure, *cells)
    console.print(table)


def chart(figures: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw the ratios against the default plain set-up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    reference, subject = figures["plain"], figures["gatehouse"]
    names = [name for name in reference if "p99" not in name]
    values = [ratio(name, statistics.median(reference[name]), statistics.median(subject[name])) for name in names]
    _, axes = plt.subplots(figsize=(9, 0.32 * len(names) + 1))
    bars = axes.barh(names[::-1], values[::-1], color="#0e538b")
    axes.bar_label(bars, fmt="%.1f×", padding=3)
    axes.axvline(1, color="#44546a", linewidth=1)
    axes.set_xlabel("times better than the plain set-up (1 = the same)")
    axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(path, bbox_inches="tight")


def main() -> int:
    """Run the benchmark."""
    rounds = int(os.environ.get("ROUNDS") or 3)
    chosen = set((os.environ.get("SCENARIOS") or ",".join(SCENARIOS)).split(","))
    if unknown := chosen - set(SCENARIOS):
        print(
            f"make bench: error: SCENARIOS has {', '.join(sorted(unknown))}\n    fix: choose from {','.join(SCENARIOS)}",
            file=sys.stderr,
        )
        return 64
    if not shutil.which("nc"):
        print(
            "make bench: error: nc isn't on PATH, and the plain set-up waits with it\n    fix: apt-get install netcat-openbsd",
            file=sys.stderr,
        )
        return 69
    console = Console(stderr=True)
    provider, postgres = Provider(), Postgres()
    figures: dict[str, dict[str, list[float]]] = {}
    folder = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        database = postgres.create("bench")
        done = subprocess.run(
            [sys.executable, "-c", SEED, parse_database(database), str(RUNS)],
            capture_output=True,
            text=True,
            check=True,
        )
        calls = Requests(*done.stdout.split()[-2:])
        setups = [
            plain("plain", "", database, folder, provider),
            plain("plain, best", "--workers 1", database, folder, provider, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            gatehouse("gatehouse", 1, database, folder, provider),
            gatehouse("gatehouse, 2 workers", 2, database, folder, provider),
        ]
        for number in range(rounds):
            for setup in setups:
                console.print(f"round {number + 1} of {rounds}: {setup.name} ...")
                for figure, value in measure(setup, calls, provider.token(), chosen, folder / f"{setup.port}.log"):
                    figures.setdefault(setup.name, {}).setdefault(figure, []).append(value)
    finally:
        provider.stop()
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rounds": rounds,
    }
    (RESULTS / "bench.json").write_text(json.dumps({"machine": machine, "figures": figures}, indent=2))
    chart(figures, RESULTS / "bench.svg")
    show(figures, Console(width=200))
    if "scale" in chosen:
        scale.main(["--rounds", str(rounds)])
    return layers.main(["--rounds", str(3 * rounds)]) if "layers" in chosen else 0


if __name__ == "__main__":
    sys.exit(main())
