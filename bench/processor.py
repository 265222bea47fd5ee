"""`make bench SCENARIOS=processor`, or `python -m bench.processor`: processor time of a request, by who spends it.

Requests per second depend on what else the machine does; what a request costs hardly does. So this is what a change is
judged by, and each part of a set-up says its share: the proxy, MLflow's processes, whoever starts and watches them,
and PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import READS, Requests, seed
from bench.setups import FASTTRACKML, SetUp, gatehouse
from gatehouse.start.settings import parse_database
from tests.support import Postgres, Provider

PARTS = ("proxy", "server", "supervisor", "PostgreSQL")
SECONDS = 2


def _ticks(pid: int, fields: slice) -> int:
    """Return clock ticks of a process (proc(5), stat: fields 14 to 17 from index 11 on)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, stat[fields]))


def _part(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return "supervisor"
    if b"oauth2-proxy" in command:
        return "proxy"
    return "server" if b"gatehouse serve" in command or b"fml server" in command else "supervisor"


def spent(setup: SetUp, postgres: Postgres) -> Counter[str]:
    """Return the seconds of processor time that each part has used so far."""
    found: Counter[str] = Counter()
    for pid in setup.processes():
        found[_part(pid)] += _ticks(pid, slice(11, 13))
    main = int((postgres.data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    # Those that have ended count with the one that waited for them.
    found["PostgreSQL"] += _ticks(main, slice(11, 15)) + sum(_ticks(int(pid), slice(11, 13)) for pid in children)
    return Counter({part: ticks / os.sysconf("SC_CLK_TCK") for part, ticks in found.items()})


def measure(
    setup: SetUp,
    calls: Requests,
    token: str,
    postgres: Postgres,
    these: tuple[str, ...] = READS,
    seconds: int = SECONDS,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield for each call what a request costs at 8 connections: milliseconds of processor time of each part."""
    for call in these:
        calls.load(setup, token, call, 8, 1)
        before = spent(setup, postgres)
        figures = calls.load(setup, token, call, 8, seconds)
        used = spent(setup, postgres) - before
        if figures["answered"]:
            yield call, {part: 1000 * used[part] / figures["answered"] for part in PARTS} | {"rps": figures["rps"]}


def show(title: str, rows: dict[str, dict[str, float]], console: Console) -> None:
    """Print the table of one set-up."""
    table = Table(title=f"{title}: processor time of a request at 8 connections, ms")
    for name in ("call", *PARTS, "sum", "requests/s"):
        table.add_column(name, justify="left" if name == "call" else "right")
    for call, cells in rows.items():
        total = sum(cells[part] for part in PARTS)
        table.add_row(call, *(f"{cells[part]:.2f}" for part in PARTS), f"{total:.2f}", f"{cells['rps']:.0f}")
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Run the scenario."""
    from bench.__main__ import seed_peer

    parser = argparse.ArgumentParser(prog="python -m bench.processor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", nargs="+", default=list(READS), metavar="CALL")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of load for each call")
    parser.add_argument("--peer", action="store_true", help=f"measure {FASTTRACKML} too")
    arguments = parser.parse_args(argv)
    provider, postgres = Provider(), Postgres()
    folder = Path(tempfile.mkdtemp(prefix="processor"))
    console = Console(width=140)
    try:
        database = postgres.create("processor")
        calls = seed(parse_database(database))
        setups = [(gatehouse("Gatehouse", None, database, folder, provider), calls)]
        if arguments.peer:
            setups.append(seed_peer(postgres, folder, provider, 0))
        for setup, its_calls in setups:
            setup.start(folder / "log", provider.token())
            try:
                rows = dict(
                    measure(setup, its_calls, provider.token(), postgres, tuple(arguments.calls), arguments.seconds)
                )
            finally:
                setup.stop()
            show(setup.name, rows, console)
    finally:
        provider.stop()
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
