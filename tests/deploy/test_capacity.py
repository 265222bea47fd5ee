"""docs/capacity.md says what bench/capacity.py works out from its figures and deploy's prices and limits."""

from __future__ import annotations

import pytest

from bench import capacity
from deploy import cost
from deploy.config import POOL_OVERFLOW, POOL_SIZE, READ_CONNECTIONS
from gatehouse.dispatch.dispatcher import QUICK_THREADS
from gatehouse.start.settings import TABLE

PAGE = capacity.PAGE.read_text(encoding="utf-8")
FIGURES = capacity.figures(PAGE)


def block(name: str) -> str:
    return PAGE.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]


def test_the_pages_tables_are_those_of_its_figures() -> None:
    assert block("connections") == capacity.connections()
    assert block("costs") == capacity.costs(FIGURES)


def test_a_worker_has_more_connections_than_threads_that_hold_two() -> None:
    assert POOL_SIZE + POOL_OVERFLOW > QUICK_THREADS


def test_the_container_reads_with_as_many_connections_as_are_counted() -> None:
    assert [setting.default for setting in TABLE if setting.name == "READ_CONNECTIONS"] == [str(READ_CONNECTIONS)]


def test_use_costs_what_its_seconds_and_requests_cost() -> None:
    config = capacity.environment("prod")  # 2 vCPU, 2 GiB
    used = cost.use(config, hours=1, instances=2, requests=3e6)
    assert used == {
        "busy instances": pytest.approx(2 * 3600 * (2 * 0.000024 + 2 * 0.0000025), abs=0.005),
        "requests": 1.2,
    }
    assert sum(cost.use(config, 0, 0, 0).values()) == 0


def test_twice_the_batches_need_twice_the_instances() -> None:
    config = capacity.environment("prod")
    slow = {"runs/get": 0.0, "log-batch": 600.0}
    once = capacity.Size("x", "prod", 1, 0, 4)
    twice = capacity.Size("x", "prod", 1, 0, 8)
    assert capacity.instances(once, config, slow) == 2
    assert capacity.instances(twice, config, slow) == 4
    assert capacity.instances(capacity.Size("x", "prod", 0, 0, 0), config, slow) == 0
