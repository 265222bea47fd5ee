"""``python -m bench.monitoring``: what METRICS costs, in processor time, beside what a runs/get costs a worker.

Processor time of this thread alone, so other programs on the machine change little: a request through the layer with
nothing behind it, less the same without the layer; a second's look and send; and, from a gate with METRICS, a worker's
whole processor time for each runs/get.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from gatehouse.monitoring import notes
from gatehouse.monitoring.layer import MonitoringLayer
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.policy.roles import Role
from gatehouse.request.context import Context
from tests.support import Gate, Postgres, Provider, free_port, running

REQUESTS = 20_000
GETS = 1_500


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Any) -> None:
    pass


async def _answer(context: Context, send: Any) -> None:
    context.route, context.role = Route("get_run", Access.READ, {}), Role.VIEWER
    await context.receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def layer_s(folder: Path) -> float:
    """Return the seconds that the layer adds to a request."""
    layer = MonitoringLayer(_answer, notes.Notes(folder), "file")

    async def took(handler: Any) -> float:
        began = time.thread_time()
        for _ in range(REQUESTS):
            await handler(Context({"type": "http", "method": "GET", "path": "/", "headers": []}, _receive), _send)
        return (time.thread_time() - began) / REQUESTS

    async def difference() -> float:
        pairs = [(await took(layer), await took(_answer)) for _ in range(3)]
        return min(pair[0] for pair in pairs) - min(pair[1] for pair in pairs)

    return asyncio.run(difference())


def cpu_s(pid: int) -> float:
    """Return a process's processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layer = layer_s(folder)
        provider, postgres = Provider(), Postgres()
        try:
            gate = Gate(
                folder / "gate", provider, BACKEND_STORE_URI=postgres.create("bench"), WORKERS="1",
                METRICS=f"127.0.0.1:{free_port()}",
            )  # fmt: skip
            with running(gate):
                session = gate.session("alice")
                api = f"{gate.url}/api/2.0/mlflow/runs"
                run = session.post(f"{api}/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
                pids = gate.children()
                idle = [cpu_s(pids[part]) for part in ("server", "monitor")]
                time.sleep(20)
                rest = [
                    (cpu_s(pids[part]) - before) / 20 for part, before in zip(("server", "monitor"), idle, strict=True)
                ]
                before = cpu_s(pids["server"])
                for _ in range(GETS):
                    assert session.get(f"{api}/get", params={"run_id": run}).ok
                get = (cpu_s(pids["server"]) - before) / GETS
        finally:
            provider.stop()
            postgres.remove()
    print(f"the layer: {layer * 1e6:.1f} µs of a runs/get's {get * 1e6:.0f} µs in the worker: {layer / get:.2%}")
    print(f"idle: worker {rest[0]:.2%}, monitor {rest[1]:.2%} of a processor")


if __name__ == "__main__":
    main()
