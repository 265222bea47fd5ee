"""`make bench SCENARIOS=scale`, or `python -m bench.scale`:

one, two and four gates behind one balancer, on one database.

For each call that a training loop makes most: requests per second, what the gates' processes spend of a processor on
one request, and how many connections to the database they hold under that load. Everything shares this machine's
processors with the load generator and PostgreSQL, so the requests per second stop growing once those are busy; the
processor time of a request does not depend on that, and its inverse is what docs/capacity.md plans with. Writes
bench/results/scale.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import BUSY, seed
from bench.setups import SetUp, gatehouse
from deploy.config import POOL_OVERFLOW, POOL_SIZE
from gatehouse.start.settings import parse_database
from local.proxy_binary import ROOT
from tests.balancer import balanced
from tests.support import Postgres, Provider, free_port

RESULT = ROOT / "bench" / "results" / "scale.json"
GATES = (1, 2, 4)
CONNECTIONS = (8, 32)
DATABASE = "scale"


def processor_seconds(gates: list[SetUp]) -> float:
    """Return the processor time that the gates' processes have used so far (proc(5), stat, fields 14 and 15)."""
    ticks = 0
    for pid in {pid for gate in gates for pid in gate.processes()}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def held_connections(postgres: Postgres) -> int:
    """Return the number of connections to the database."""
    return int(postgres.sql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{DATABASE}'"))


@contextlib.contextmanager
def watched(gates: list[SetUp], postgres: Postgres, wait_s: float) -> Iterator[dict[str, float]]:
    """Yield what the block costs, complete at its end: seconds of processor, and connections held after ``wait_s``."""
    seen: dict[str, float] = {}
    look = threading.Timer(wait_s, lambda: seen.update(connections=held_connections(postgres)))
    before = processor_seconds(gates)
    look.start()
    yield seen
    look.join()
    seen["processor"] = processor_seconds(gates) - before


def start(count: int, workers: int, database: str, folder: Path, provider: Provider, public: int) -> list[SetUp]:
    """Start so many gates for one public address, all at once."""
    gates = [gatehouse(f"gate {n}", workers, database, folder, provider) for n in range(count)]
    for gate in gates:
        gate.environment |= {
            "PUBLIC_URL": f"http://localhost:{public}",
            "OAUTH2_PROXY_REDIRECT_URL": f"http://localhost:{public}/oauth2/callback",
            # For the start alone, which asks each gate under its own address.
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost:{public},localhost:{gate.port}",
            # As the deploy tool sets them.
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(POOL_SIZE),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(POOL_OVERFLOW),
        }
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda gate: gate.start(folder / f"{gate.port}.log", provider.token()), gates))
    return gates


def main(argv: list[str]) -> int:
    """Run the scenario."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of load for each figure")
    parser.add_argument("--workers", type=int, default=1, help="of each gate")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True)
    provider, postgres = Provider(), Postgres()
    folder = Path(tempfile.mkdtemp(prefix="scale"))
    figures: dict[str, dict[str, list[float]]] = {}
    try:
        database = postgres.create(DATABASE)
        calls = seed(parse_database(database))
        for number in range(arguments.rounds):
            for count in GATES:
                console.print(f"round {number + 1} of {arguments.rounds}: {count} gates ...")
                public = free_port()
                gates = start(count, arguments.workers, database, folder, provider, public)
                try:
                    with balanced([gate.port for gate in gates], folder, public):
                        front = SetUp(f"{count} gates", [], {}, public)
                        for call in BUSY:
                            calls.load(front, provider.token(), call, 8, arguments.seconds)
                            for connections in CONNECTIONS:
                                row = figures.setdefault(f"{count} × {call} at {connections}", {})
                                with watched(gates, postgres, arguments.seconds / 2) as seen:
                                    load = calls.load(front, provider.token(), call, connections, arguments.seconds)
                                answered = load["rps"] * arguments.seconds
                                found = {
                                    "requests/s": load["rps"],
                                    "p99, ms": load["p99"],
                                    "processor, ms a request": 1000 * seen["processor"] / answered,
                                    "database connections": seen["connections"],
                                }
                                for name, value in found.items():
                                    row.setdefault(name, []).append(value)
                finally:
                    for gate in gates:
                        gate.stop()
    finally:
        provider.stop()
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
    RESULT.parent.mkdir(exist_ok=True)
    machine = {"processors": os.cpu_count(), "workers": arguments.workers, "rounds": arguments.rounds}
    RESULT.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2))
    show(figures, Console(width=160))
    return 0


def show(figures: dict[str, dict[str, list[float]]], console: Console) -> None:
    """Print the table of medians with their range."""
    table = Table(title="gates behind one balancer: medians (lowest–highest)")
    table.add_column("gates × call at connections")
    for name in next(iter(figures.values())):
        table.add_column(name, justify="right")
    for row, values in figures.items():
        cells = (f"{statistics.median(v):.4g} ({min(v):.4g}–{max(v):.4g})" for v in values.values())
        table.add_row(row, *cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
