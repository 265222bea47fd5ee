"""`make bench`: the plain set-up and Gatehouse side by side. ROUNDS=3 (default), SCENARIOS=… (all by default), QUICK=1.

The README's table: ``ROUNDS=1 SCENARIOS=cold,memory,latency,reads,sdk make bench``, on a machine that does nothing
else; ``SCENARIOS=large`` for itself, because it first writes 8 million rows into each of two databases. QUICK=1
measures plain at its best, FastTrackML and Gatehouse, each call for a second.

Each round starts each set-up in turn on one PostgreSQL with 1,000 runs; figures are medians over the rounds with their
range, and the ratio of the medians. Writes bench/results/bench.json, bench.md and bench.svg.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench import artifacts, containers, data, layers, load, processor, report, scale, scenarios
from bench.setups import FASTTRACKML, SetUp, fasttrackml, gatehouse, plain
from gatehouse.start.settings import parse_database
from local.proxy_binary import ROOT
from tests.support import Postgres, Provider

RESULTS = ROOT / "bench" / "results"
#: Scenario → what it is.
SCENARIOS = {
    "cold": "cold start",
    "disk": "cold start with an empty page cache, where the machine allows that",
    "container": "the images' sizes; cold start in a container with 1 CPU and 512 MiB",
    "memory": "proportional set size of all processes: idle, and the peak under load",
    "latency": "p50 and p99 at one connection",
    "throughput": "requests per second at 8 and 32 connections",
    "reads": "what people wait for, and what a training script sends, at 1 and 8 connections, beside FastTrackML",
    "large": "runs/search by a metric among 20,000 runs with 8 million values of metrics",
    "sdk": "an SDK loop of 100 metrics",
    "artifacts": "an artifact of 256 MiB up and down: speed, and memory with temporary files",
    "proxy": "through the proxy against straight to MLflow's socket",
    "scale": "one, two and four gates behind one balancer",
    "layers": "with Gatehouse's layers against without them",
    "processor": "processor time of a request, by who spends it, beside FastTrackML",
}
REFERENCES = ("plain", "plain, best")
#: The scenarios that it has a part in.
#: Those that start a set-up in their own way, or none.
NO_MEASURE = frozenset({"artifacts", "container", "layers", "processor", "scale"})
PEER, OF_PEER = FASTTRACKML, frozenset({"cold", "memory", "reads", "large"})
SUBJECTS = ("gatehouse", "gatehouse, 1 worker")
#: Whose reads and writes are compared call by call: the best of each kind. The others would take as long once more.
COMPARED = frozenset({"plain, best", PEER, "gatehouse"})
#: What QUICK=1 leaves of the scenarios.
QUICK_SCENARIOS = "cold,reads"


def problems(chosen: set[str]) -> list[tuple[int, str]]:
    """Return (exit code, message) of all that keeps the benchmark from running."""
    found = []
    if unknown := chosen - set(SCENARIOS):
        found.append((64, f"SCENARIOS has {', '.join(sorted(unknown))}\n    fix: choose from {','.join(SCENARIOS)}"))
    if not shutil.which("nc"):
        found.append((69, "nc isn't on PATH, and the plain set-up needs it\n    fix: apt-get install netcat-openbsd"))
    if "container" in chosen and containers.engine() is None:
        fix = "start one (tests/container/engine.sh up), or leave the scenario container out"
        found.append((69, f"no Docker engine answers\n    fix: {fix}"))
    return found


def compare(rounds: int, chosen: set[str], console: Console) -> report.Figures:
    """Measure each set-up in turn, round by round; what there is so far is written after each."""
    provider, postgres = Provider(), Postgres()
    figures: report.Figures = {}
    folder = Path(tempfile.mkdtemp(prefix="bench"))

    def note(setup: SetUp, figure: str, value: float) -> None:
        figures.setdefault(setup.name, {}).setdefault(figure, []).append(value)

    try:
        database = postgres.create("bench")
        large_runs = data.LARGE_RUNS if "large" in chosen else 0
        console.print("filling the databases ...")
        calls = load.seed(parse_database(database), large_runs)
        peers = seed_peer(postgres, folder, provider, large_runs) if chosen & OF_PEER else None
        setups = [
            plain("plain", "", database, folder, provider),
            plain("plain, best", "--workers 1", database, folder, provider, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            gatehouse("gatehouse", None, database, folder, provider),
            gatehouse("gatehouse, 1 worker", 1, database, folder, provider),
        ]
        if load.QUICK:
            setups = [setup for setup in setups if setup.name in COMPARED]
        if "container" in chosen:
            console.print("building the images ...")
            containers.build()
        for number in range(rounds):
            if peers is not None:
                console.print(f"round {number + 1} of {rounds}: {PEER} ...")
                setup, its_calls = peers
                for figure, value in scenarios.measure(
                    setup, its_calls, provider.token(), chosen & (OF_PEER - {"memory"}), folder / "peer.log"
                ):
                    note(setup, figure, value)
            for setup in setups:
                console.print(f"round {number + 1} of {rounds}: {setup.name} ...")
                log = folder / f"{setup.port}.log"
                its = chosen if setup.name in COMPARED else chosen - {"reads"}
                if its - NO_MEASURE:
                    for figure, value in scenarios.measure(setup, calls, provider.token(), its, log):
                        note(setup, figure, value)
                if "artifacts" in chosen:
                    for figure, value in artifacts.measure(setup, provider.token(), log):
                        note(setup, figure, value)
                if "container" in chosen:
                    client = containers.engine()
                    note(setup, "image, MB", containers.image_size(client, setup))
                    started = containers.cold_start(client, setup, folder, provider.token())
                    note(setup, "cold start, 1 CPU and 512 MiB, s", started)
            RESULTS.mkdir(exist_ok=True)
            report.write(figures, number + 1, RESULTS / "bench.json")
    finally:
        provider.stop()
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def seed_peer(postgres: Postgres, folder: Path, provider: Provider, large_runs: int) -> tuple[SetUp, load.Requests]:
    """Return FastTrackML, and the calls on its database, which has the same runs."""
    database = postgres.create("fasttrackml")
    setup = fasttrackml(database, folder)
    setup.start(folder / "peer.log", provider.token())  # makes its schema
    setup.stop()
    return setup, load.Requests(data.seed(database, data.FASTTRACKML, large_runs))


def main() -> int:
    """Run the benchmark."""
    rounds = int(os.environ.get("ROUNDS") or (1 if load.QUICK else 3))
    chosen = set((os.environ.get("SCENARIOS") or (QUICK_SCENARIOS if load.QUICK else ",".join(SCENARIOS))).split(","))
    if found := problems(chosen):
        for _, message in found:
            print(f"make bench: error: {message}", file=sys.stderr)
        return found[0][0]
    if chosen - {"layers", "processor", "scale"}:
        figures = compare(rounds, chosen, Console(stderr=True))
        references = tuple(name for name in (*REFERENCES, PEER) if name in figures)
        subjects = tuple(name for name in SUBJECTS if name in figures)
        report.markdown(figures, references, subjects, RESULTS / "bench.md")
        report.chart(figures, references, subjects[0], RESULTS / "bench.svg")
        report.show(figures, references, subjects, Console(width=200))
    if "processor" in chosen:
        processor.main(["--peer"])
    if "scale" in chosen:
        scale.main(["--rounds", str(rounds)])
    return layers.main(["--rounds", str(3 * rounds)]) if "layers" in chosen else 0


if __name__ == "__main__":
    sys.exit(main())
