"""What a worker's figures are taken from: the one place that knows all parts that have some."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.pool import QueuePool

from gatehouse import __version__
from gatehouse.monitoring.notes import Notes
from gatehouse.monitoring.worker import Reporter
from gatehouse.upstream.tracking_stores import most_connections

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy.engine import Engine

    from gatehouse.audit.log import AuditLog
    from gatehouse.bodies.budget import Budget
    from gatehouse.database.connections import Connections
    from gatehouse.dispatch.turns import Turns
    from gatehouse.monitoring.worker import Reading
    from gatehouse.policy.source import PolicySource
    from gatehouse.start.plan import ServerPlan

#: MLflow's jobs by the number that its table has for each status (JobStatus.from_int).
JOB_STATUS = ("pending", "running", "succeeded", "failed", "timeout", "canceled", "needs_recovery")


class Figures:
    """Gathers what there is to look at while the application is built; the worker's reporter looks at it.

    Args:
        plan: of the start.
    """

    def __init__(self, plan: ServerPlan) -> None:
        self.notes = Notes(plan.run_directory)
        self.reporter = Reporter(self.notes)
        self._jobs = plan.jobs

    def started(self, phases: Mapping[str, float]) -> None:
        """Note what runs, and how long each phase of its start took, in seconds."""
        import mlflow

        python = ".".join(map(str, sys.version_info[:3]))
        self.notes.set(
            "gatehouse_build_info", __version__, mlflow.__version__, python, os.environ.get("K_REVISION", ""), to=1
        )

        # A rate needs a beginning.
        self.notes.count("gatehouse_requests_total", "none", "none", "unknown", "failed", by=0)
        for name, seconds in phases.items():
            self.notes.set("gatehouse_start_phase_seconds", name, to=round(seconds, 4))

    def pools(self, pools: Mapping[str, Turns]) -> None:
        """Look at pools of handlers."""

        def look() -> Iterator[Reading]:
            for name, turns in pools.items():
                yield "gatehouse_handlers_running", (name,), turns.running
                yield "gatehouse_handlers_waiting", (name,), turns.waiting
                yield "gatehouse_handlers_limit", (name,), turns.places

        self.reporter.watch(look)

    def parts(self, budget: Budget, log: AuditLog, policy: PolicySource) -> None:
        """Look at what each worker has one of."""
        failures = 0

        def look() -> Iterable[Reading]:
            nonlocal failures
            worker = self.reporter.name
            self.notes.set("gatehouse_audit_lines_waiting", f"worker {worker}", to=log.waiting)
            if log.failures > failures:
                self.notes.count("gatehouse_audit_failures_total", by=log.failures - failures)
                failures = log.failures
            yield "gatehouse_requests_in_flight", (), self.notes.in_flight
            yield "gatehouse_body_memory_bytes", (), budget.taken
            yield "gatehouse_body_memory_limit_bytes", (), budget.capacity
            if (age := policy.age) is not None:
                yield "gatehouse_policy_age_seconds", (), round(age)
                yield "gatehouse_policy_problem", (), float(bool(policy.problem))

        self.reporter.watch(look)

    def reads(self, connections: Connections) -> None:
        """Look at the connections that Gatehouse's own reads use."""
        made = 0

        def look() -> Iterator[Reading]:
            nonlocal made
            if connections.made > made:
                self.notes.count("gatehouse_database_connects_total", "reads", by=connections.made - made)
                made = connections.made
            yield "gatehouse_database_connections", ("reads", "in_use"), connections.turns.running
            yield "gatehouse_database_connections", ("reads", "idle"), connections.idle
            yield "gatehouse_database_connections_limit", ("reads",), connections.turns.places
            yield "gatehouse_database_waiting", ("reads",), connections.turns.waiting

        self.reporter.watch(look)

    def engines(self, engines: Iterable[Engine]) -> None:
        """Look at MLflow's own connections:

        its pools together, for which of them a request uses is MLflow's business.
        """
        engines = list(engines)

        def connected(*_: Any) -> None:
            self.notes.count("gatehouse_database_connects_total", "mlflow")

        self.notes.count("gatehouse_database_connects_total", "mlflow", by=0)
        for engine in engines:
            event.listen(engine, "connect", connected)

        def look() -> Iterator[Reading]:
            used = idle = limit = 0
            for engine in engines:
                pool = engine.pool  # another one after a dispose
                if not isinstance(pool, QueuePool):
                    continue  # a pool that keeps none
                used += pool.checkedout()
                idle += pool.checkedin()
                limit += most_connections(pool)
            yield "gatehouse_database_connections", ("mlflow", "in_use"), used
            yield "gatehouse_database_connections", ("mlflow", "idle"), idle
            yield "gatehouse_database_connections_limit", ("mlflow",), limit

        self.reporter.watch(look)
        if self._jobs and engines:
            self.reporter.ask(lambda: self._count_jobs(engines[0]))

    def _count_jobs(self, engine: Engine) -> None:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT status, COUNT(*) FROM jobs GROUP BY status"))
            found = {int(status): int(count) for status, count in rows}
        for number, status in enumerate(JOB_STATUS):
            self.notes.set("gatehouse_jobs", status, to=found.get(number, 0))
