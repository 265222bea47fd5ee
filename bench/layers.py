"""What the layers cost: MLflow with and without them, side by side.

``python -m bench.layers`` starts both on Unix sockets, each with a SQLite database of its own, and sends the same
requests to one and to the other in turn, so that whatever else the machine does falls on both. On a busy machine that
is still rough; so the layers are measured alone as well, around an application that answers at once.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gatehouse.public import discovery

PROOF = "bench" * 8
EMAIL = "bob@example.com"
HEADERS = {
    "Host": "localhost",
    "Authorization": "Basic " + base64.b64encode(f"{EMAIL}:{PROOF}".encode()).decode(),
    "X-Forwarded-Email": EMAIL,
    "X-Forwarded-User": EMAIL,
    "X-Forwarded-For": "203.0.113.7",
    "Cookie": "_gatehouse=" + "x" * 600,
    "User-Agent": "mlflow-python-client/3.17.2",
    "Accept": "*/*",
    "Content-Type": "application/json",
}
SERVER = """
import os, sys
from pathlib import Path
import uvicorn
from gatehouse.start import mlflow_app
from gatehouse.upstream import application as upstream_application
from gatehouse.start.settings import load

folder, layered = Path(sys.argv[1]), sys.argv[2] == "with"
settings = load(os.environ)
mlflow_app.configure(settings)
if layered:
    from gatehouse.audit.log import AuditLog
    from gatehouse.start import application
    from gatehouse.start.output import write_in_thread
    from gatehouse.start.plan import ServerPlan
    log = AuditLog(1)
    log.connect(write_in_thread(1))
    app = application.build(ServerPlan.alone(settings, folder, sys.argv[3].encode()), log)
else:
    from functools import partial
    from gatehouse.dispatch.dispatcher import Dispatcher
    from gatehouse.pipeline.security import SecurityLayer
    from gatehouse.pipeline.stack import Pipeline, stack
    from gatehouse.upstream.security import take_off
    mlflow = upstream_application.load()
    checked = [partial(SecurityLayer, middlewares=take_off(mlflow))]
    app = Pipeline(stack(checked, Dispatcher(mlflow, upstream_application.load_flask())), mlflow)
mlflow_app.open_stores()
uvicorn.run(app, uds=str(folder / "socket"), log_config=None, access_log=False, proxy_headers=False, server_header=False)
"""
START_LIMIT_S = 60


ALONE = """
import asyncio, json, os, sys, time
from pathlib import Path
from gatehouse.audit.log import AuditLog
from gatehouse.start import application
from gatehouse.start import mlflow_app
from gatehouse.start.output import write_in_thread
from gatehouse.start.plan import ServerPlan
from gatehouse.upstream import application as upstream_application
from gatehouse.start.settings import load

folder, headers = Path(sys.argv[1]), [tuple(part.encode() for part in pair) for pair in json.loads(sys.argv[2])]
settings = load(os.environ)
mlflow_app.configure(settings)

async def at_once(context, send):
    while (await context.receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})

application.Dispatcher = lambda *_: at_once
log = AuditLog(1)
log.connect(write_in_thread(1))
app = application.build(ServerPlan.alone(settings, folder, sys.argv[3].encode()), log)

async def best(method, path, body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        pass
    length = (b"content-length", str(len(body)).encode())
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "headers": [*headers, length]}
    rounds = []
    for _ in range(30):
        started = time.perf_counter()
        for _ in range(200):
            await app(dict(scope), receive, send)
        rounds.append((time.perf_counter() - started) / 200 * 1e6)
    return min(rounds)

for method, path, body in json.loads(sys.stdin.read()):
    print(f"{asyncio.run(best(method, path, body.encode())):.0f}", file=sys.stderr)
"""


def prepare(folder: Path) -> None:
    """Make what the application reads at its start, as a start leaves it."""
    folder.mkdir()
    discovery.publish(folder / discovery.FOLDER, {}, None, "")


def measure_alone(folder: Path) -> list[str]:
    """Return the microseconds that the layers add to a read and to a write: the best of 30 rounds of 200."""
    prepare(folder)
    headers = json.dumps([(name.lower(), value) for name, value in HEADERS.items()])
    metrics = [{"key": f"m{i}", "value": i / 3, "timestamp": 1, "step": 1} for i in range(20)]
    requests = [
        ("GET", "/api/2.0/mlflow/runs/get", ""),
        ("POST", "/api/2.0/mlflow/runs/log-batch", json.dumps({"run_id": "x" * 32, "metrics": metrics})),
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), headers, PROOF],
        env=environment(folder), input=json.dumps(requests), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr.split()[-len(requests) :]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a server whose state is in a folder."""
    return {
        **os.environ,
        "PUBLIC_URL": "http://localhost",
        "BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
    }


class Server:
    """MLflow on a Unix socket, with or without the layers."""

    def __init__(self, folder: Path, kind: str) -> None:
        prepare(folder)
        self.path = str(folder / "socket")
        with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(folder), kind, PROOF],
                env=environment(folder),
                stdout=out,
                stderr=log,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not Path(self.path).exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.1)
        with self.connect() as connection:
            # As the SDK does, with the owner's tag: the layers would add it, and MLflow would have one more to read.
            document = {"experiment_id": "0", "user_id": EMAIL, "tags": [{"key": "mlflow.user", "value": EMAIL}]}
            self.run = json.loads(exchange(connection, "POST", "runs/create", document))["run"]["info"]["run_id"]

    @contextlib.contextmanager
    def connect(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.path)
        try:
            yield connection
        finally:
            connection.close()

    def cpu(self) -> float:
        """Return the seconds of processor time that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def exchange(connection: http.client.HTTPConnection, method: str, path: str, document: object = None) -> bytes:
    """Send one request and return the answer's body; it must succeed."""
    body = json.dumps(document) if document is not None else None
    connection.request(method, path if path.startswith("/") else f"/api/2.0/mlflow/{path}", body, HEADERS)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {content!r}")
    return content


def request_of(scenario: str, server: Server, number: int) -> tuple[str, str, object]:
    """Return the request of a scenario."""
    if scenario == "version":
        return "GET", "/version", None
    if scenario == "runs/get":
        return "GET", f"runs/get?run_id={server.run}", None
    metrics = [{"key": f"m{i}", "value": i / 3, "timestamp": number, "step": number} for i in range(20)]
    return "POST", "runs/log-batch", {"run_id": server.run, "metrics": metrics}


def measure(server: Server, scenario: str, seconds: float, clients: int, offset: int) -> tuple[float, float]:
    """Return the requests per second that ``clients`` connections get answered, and the processor's ms for each."""
    counts = [0] * clients
    stop = time.monotonic() + seconds

    def work(index: int) -> None:
        with server.connect() as connection:
            while time.monotonic() < stop:
                number = offset + counts[index] * clients + index
                exchange(connection, *request_of(scenario, server, number))
                counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(clients)]
    started, used = time.monotonic(), server.cpu()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - started), (server.cpu() - used) * 1000 / sum(counts)


def main(argv: list[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench") as folder, contextlib.ExitStack() as stack:
        read, write = measure_alone(Path(folder) / "alone")
        print(
            f"the layers alone: {read} us for a read (runs/get), {write} us for a write (runs/log-batch, 20 metrics)\n"
        )
        servers = {}
        for kind in ("without", "with"):
            servers[kind] = Server(Path(folder) / kind, kind)
            stack.callback(servers[kind].stop)
        print(f"{'':<16}{'requests/s':^28}{'ms of the processor/request':^32}")
        print(f"{'scenario':<16}" + f"{'without':>10}{'with':>10}{'ratio':>8}" * 2)
        for scenario in ("version", "runs/get", "runs/log-batch"):
            results: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
            for server in servers.values():
                measure(server, scenario, 0.5, arguments.clients, 0)
            for number in range(arguments.rounds):
                for kind in ("without", "with") if number % 2 else ("with", "without"):
                    offset = 10_000_000 * (number + 1)
                    results[kind].append(measure(servers[kind], scenario, arguments.seconds, arguments.clients, offset))
            row = f"{scenario:<16}"
            for column in (0, 1):
                without, layered = ([result[column] for result in results[kind]] for kind in ("without", "with"))
                ratio = statistics.median(b / a for a, b in zip(without, layered, strict=True))
                row += f"{statistics.median(without):>10.2f}{statistics.median(layered):>10.2f}{ratio:>8.3f}"
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
