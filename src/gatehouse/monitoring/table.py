"""The one table of what is measured: each metric's name, kind, help, labels and where it has them, buckets.

No label ever holds what a client chose or who it was: operations are those of MLflow's own list, all other values are
written in this package. So the number of series is bounded by construction (tests/monitoring/test_metrics.py counts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Upper bounds in seconds: from what a read of one run takes to what DATABASE_TIMEOUT ends.
BUCKETS: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Metric:
    """One row.

    A counter's notes are added up, a gauge's last one counts, a histogram's are counts for each bucket and the sum.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = {
    "gatehouse_build_info": Metric(
        "gauge", "Always 1; the versions that run.", ("version", "mlflow", "python", "revision")
    ),
    "gatehouse_start_phase_seconds": Metric("gauge", "How long a phase of the start took.", ("phase",)),
    "gatehouse_requests_total": Metric(
        "counter",
        "Requests that were answered, by MLflow's name of the operation, its class, the caller's role, and the result: "
        "done, rejected (4xx of MLflow), refused (by the gate), failed (5xx) or gone (the client left before the "
        "answer).",
        ("operation", "class", "role", "result"),
    ),
    "gatehouse_request_duration_seconds": Metric(
        "histogram", "From the request's first byte at MLflow's side to the answer's last one.", ("operation",)
    ),
    "gatehouse_requests_in_flight": Metric("gauge", "Requests that are being answered.", ("worker",)),
    "gatehouse_refusals_total": Metric("counter", "Requests that the gate refused, by reason.", ("reason",)),
    "gatehouse_sign_ins_total": Metric("counter", "Sign-ins in a browser, by what came of them.", ("result",)),
    "gatehouse_artifact_bytes_total": Metric(
        "counter", "Bytes of artifacts that the server moved, by kind of store.", ("store", "direction")
    ),
    "gatehouse_body_memory_bytes": Metric("gauge", "Memory that is held for requests' bodies.", ("worker",)),
    "gatehouse_body_memory_limit_bytes": Metric("gauge", "Memory that there is for requests' bodies.", ("worker",)),
    "gatehouse_handlers_running": Metric("gauge", "Places of a pool that are taken.", ("worker", "pool")),
    "gatehouse_handlers_waiting": Metric("gauge", "Requests that wait for a place of a pool.", ("worker", "pool")),
    "gatehouse_handlers_limit": Metric("gauge", "Places of a pool.", ("worker", "pool")),
    "gatehouse_database_connections": Metric(
        "gauge", "Connections to the database, by pool and whether a request uses them.", ("worker", "pool", "state")
    ),
    "gatehouse_database_connections_limit": Metric("gauge", "Connections that a pool may have.", ("worker", "pool")),
    "gatehouse_database_waiting": Metric("gauge", "Requests that wait for a pool's connection.", ("worker", "pool")),
    "gatehouse_database_connects_total": Metric("counter", "Connections to the database that were made.", ("pool",)),
    "gatehouse_audit_lines_waiting": Metric(
        "gauge", "Lines of the audit log that aren't written yet, by who holds them.", ("holder",)
    ),
    "gatehouse_audit_failures_total": Metric(
        "counter", "Lines of the audit log that couldn't be written in time; stderr has them."
    ),
    "gatehouse_policy_age_seconds": Metric(
        "gauge", "Seconds since the access policy's file was last looked at.", ("worker",)
    ),
    "gatehouse_policy_problem": Metric(
        "gauge", "1 while the access policy's file can't be used and an older one is in force.", ("worker",)
    ),
    "gatehouse_jobs": Metric("gauge", "MLflow's jobs, by status.", ("status",)),
    "gatehouse_process_memory_bytes": Metric("gauge", "Memory of a process that no other shares (USS).", ("process",)),
    "gatehouse_process_cpu_seconds_total": Metric("counter", "Processor time of a process.", ("process",)),
    "gatehouse_event_loop_delay_seconds": Metric(
        "gauge", "How late the event loop was at its last look; a busy or blocked process shows here.", ("worker",)
    ),
}
