"""`python -m bench.capacity`:

from the figures at the top of docs/capacity.md, the tables of connections and costs below them.

Prints both; tests/deploy/test_capacity.py compares them with the page. Prices are deploy/cost.py's; its caveats hold
here too.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass

from deploy import cost
from deploy.config import Config, load
from local.proxy_binary import ROOT

PAGE = ROOT / "docs" / "capacity.md"
#: A processor busier than this answers late (a queue's length goes with 1 / (1 - busy)).
BUSY = 0.6


@dataclass(frozen=True)
class Size:
    """A use of the service: who, in which environment, for how many hours a month, with how many requests a second."""

    name: str
    environment: str
    hours: float
    reads: float
    batches: float


SIZES = (
    Size("idle", "dev", 0, 0, 0),
    # Eight hours on 22 days: two people look at pages (20 requests each 30 s), three jobs log a batch each 5 s.
    Size("a team of 10", "staging", 176, 1.3, 0.6),
    # Day and night: each job logs a batch each 5 s, and ten people look at pages.
    Size("200 parallel training jobs", "prod", cost.HOURS, 6.7, 40),
)


def figures(page: str) -> dict[str, float]:
    """Return the processor time of each call, in milliseconds, from the page's table."""
    block = page.split("<!-- figures -->")[1]
    return {name: float(value) for name, value in re.findall(r"^\| `([^`]+)` \| ([\d.]+) \|", block, re.MULTILINE)}


def environment(name: str) -> Config:
    """Return one of the environments that ship."""
    return load(name, {"DEPLOY_PROJECT": "my-project"})


def instances(size: Size, config: Config, milliseconds: dict[str, float]) -> int:
    """Return how many instances the load needs; one at least while there is any."""
    processors = (size.reads * milliseconds["runs/get"] + size.batches * milliseconds["log-batch"]) / 1000
    return math.ceil(processors / BUSY / int(config.service.cpu)) if size.hours else 0


def connections() -> str:
    """Return the table of connections for the environments that ship."""
    rows = ["| environment | instances × workers | can open | tier | allows |", "|---|---|---|---|---|"]
    for name in ("dev", "staging", "prod"):
        config = environment(name)
        used, allowed = config.connection_budget()
        count = f"({config.service.max_instances} + 1) × {config.service.workers}"
        rows.append(f"| {name} | {count} | {used} | {config.sql.tier} | {allowed} |")
    return "\n".join(rows)


def costs(milliseconds: dict[str, float]) -> str:
    """Return the table of costs by size."""
    rows = ["| size | environment | requests/s | instances needed | a month |", "|---|---|---|---|---|"]
    for size in SIZES:
        config = environment(size.environment)
        needed = instances(size, config, milliseconds)
        rate = size.reads + size.batches
        parts = cost.estimate(config) | cost.use(config, size.hours, needed, rate * size.hours * 3600)
        told = ", ".join(f"{name} ${value:.0f}" for name, value in parts.items() if value >= 1)
        rows.append(
            f"| {size.name} | {size.environment} | {rate:.3g} | {needed} | ${sum(parts.values()):.0f} ({told}) |"
        )
    return "\n".join(rows)


def main() -> int:
    """Print both tables."""
    print(connections(), costs(figures(PAGE.read_text(encoding="utf-8"))), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
