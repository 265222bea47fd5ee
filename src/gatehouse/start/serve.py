"""``gatehouse serve``: MLflow on a private Unix socket, in one preloaded process or in WORKERS forked ones.

A socket in a folder of mode 0700 instead of a TCP port: nothing in the container but the proxy's user can
connect, no request that MLflow is tricked into making can reach it, no port can be taken, and the 44 ms that a
TCP connection without TCP_NODELAY costs can't arise.

The supervisor (:mod:`gatehouse.start.supervisor`) starts this and watches each process; all that this needs comes by
descriptors.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gatehouse.database import keys, schema
from gatehouse.database.reach import SchemaError
from gatehouse.exit_codes import Exit
from gatehouse.start import jobs, mlflow_app
from gatehouse.start.plan import SOCKET_NAME, ServerPlan
from gatehouse.start.prepare import write_private
from gatehouse.start.settings import REPLICA, connections_needed
from gatehouse.upstream import jobs as upstream_jobs

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gatehouse.audit.log import AuditLog
    from gatehouse.start.figures import Figures
    from gatehouse.start.settings import Settings

BACKLOG = 2048
#: oauth2-proxy keeps an idle upstream connection for 90 s; closing it sooner here would race with its next request.
KEEP_ALIVE_S = 120
#: The database gets this share of STARTUP_TIMEOUT, so that its own error comes before start.sh's.
DATABASE_SHARE = 0.75
#: Python's are 700, 10, 10 (gc.set_threshold): how many new objects are looked through at once, and how often older
#: ones.
COLLECTOR_THRESHOLDS = (20_000, 25, 25)
#: Seconds for which a thread may keep the interpreter from the others; Python's are 0.005. The event loop gives it away
#: at each call of the system, some ten for a request, and waits so long for it if a handler computes meanwhile.
SWITCH_S = 0.0005
#: Seconds from readiness to the look at the artifact store's rights: loading its library would slow down the first
#: requests.
CHECK_AFTER_S = 10


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    print(f"gatehouse serve: {message}", file=sys.stderr, flush=True)


def google_credentials(settings: Settings, run_directory: Path) -> None:
    """Put the service account's key, if one was given, into a private file where Google's library looks."""
    if settings.google_account_json_base64:
        path = run_directory / "google.json"
        write_private(path, settings.google_account_json_base64.encode())
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
        os.environ.pop("GOOGLE_ACCOUNT_JSON_BASE64", None)


def listen(path: Path) -> socket.socket:
    """Return the listening socket, which only this user can connect to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def check_artifacts(destination: str, direct: bool) -> None:
    """Say what is wrong with the server's rights in the artifact store; the server goes on, for all else works."""
    from gatehouse.artifacts import stores
    from gatehouse.artifacts.stores.base import CannotSign, StoreError

    try:
        stores.shared(destination).check()
        if direct:
            stores.shared(destination).check_signing()
    except CannotSign as error:
        say(f"error: DIRECT_TRANSFERS is on, and all artifacts go through the server: {error}")
    except StoreError as error:
        say(f"error: artifacts can't be stored or read: {error}")
    except Exception as error:
        say(f"error: the artifact store can't be checked: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Descriptors:
    """What the supervisor hands over:

    the plan, where to say how the start goes, the log, and each worker's way to its writer.
    """

    plan: int
    control: int
    log: int
    audit: tuple[int, ...]


@dataclass(frozen=True)
class Worker:
    """What every worker serves with; made before they are forked."""

    app: ASGIApp
    log: AuditLog
    listener: socket.socket
    descriptors: Descriptors
    settings: Settings
    figures: Figures | None


def run_worker(worker: Worker, number: int) -> None:
    """Serve until SIGTERM or SIGINT; say ``ready`` once requests are accepted. ``number`` counts the workers from 0."""
    log, descriptors, settings, figures = worker.log, worker.descriptors, worker.settings, worker.figures
    import uvicorn

    from gatehouse.upstream.protocol import Protocol

    channel = socket.socket(fileno=descriptors.audit[number])
    for other in descriptors.audit:
        if other != channel.fileno():
            os.close(other)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            log.connect(channel)
            log.listen()
            await super().startup(sockets)
            if figures:
                figures.reporter.start(number)
            os.write(descriptors.control, b"ready\n")
            os.close(descriptors.control)
            if number == 0 and settings.artifacts_destination:
                timer = threading.Timer(
                    CHECK_AFTER_S, check_artifacts, [settings.artifacts_destination, settings.direct_transfers]
                )
                timer.daemon = True
                timer.start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            if figures:
                figures.reporter.stop()

    config = uvicorn.Config(
        worker.app,
        http=Protocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    Server(config).run(sockets=[worker.listener])


class Clock:
    """How long each phase took, in seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """End a phase; the next one begins."""
        now = time.monotonic()
        self.laps[phase] = now - self._last
        self._last = now


def settle() -> None:
    """Let the garbage collector, off while MLflow was imported, forget all that this made.

    It works less often from now on.

    Looking for garbage during the import took a fifth of the start, and there was next to none.
    A request for 1,000 runs makes some 100,000 objects and hardly a cycle: with Python's thresholds, looking for
    cycles among them took two fifths of its time (`make bench`).
    """
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    gc.enable()


def fork_workers(worker: Worker) -> NoReturn:
    """Fork WORKERS processes that serve, name them to the supervisor, and leave them to it.

    The import is shared, for the collector doesn't touch, and so copy, every page of it (``settle``).
    """
    for number in range(worker.settings.workers):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run_worker(worker, number)
                code = 0
            finally:
                logging.shutdown()
                sys.stdout.flush()
                os._exit(code)
        os.write(worker.descriptors.control, b"worker %d\n" % pid)
    # The supervisor is their parent now. An orderly exit would wait for threads that libraries have started.
    logging.shutdown()
    os._exit(Exit.OK)


def prepare_workspaces(plan: ServerPlan) -> None:
    """Make the workspaces that the access policy declares; without any, refuse a database in which others hold data.

    Raises:
        SchemaError: if they do.
    """
    from gatehouse.database import workspaces

    if not plan.workspaces:
        workspaces.refuse_if_held(plan.settings.backend_store_uri)
        return
    for name in workspaces.make(plan.settings.backend_store_uri, plan.policy.policy.workspaces):
        say(f"made the workspace {name}, which the access policy declares")
    workspaces.register()


def serve(plan: ServerPlan, descriptors: Descriptors) -> None:
    """Check the database, load MLflow, open its stores, and serve.

    Raises:
        SchemaError: if the database can't be used.
    """
    settings = plan.settings
    clock = Clock()
    google_credentials(settings, plan.run_directory)
    mlflow_app.configure(settings, plan.workspaces)
    jobs.configure(plan)
    limit_s = settings.startup_timeout * DATABASE_SHARE
    connections = connections_needed(settings.workers) + (settings.workers if settings.api_keys else 0)
    schema.ensure(settings.backend_store_uri, limit_s, say, connections)
    if settings.api_keys:
        keys.ensure(settings.backend_store_uri, say)
    prepare_workspaces(plan)
    if settings.read_replica:
        schema.ensure_replica(settings.read_replica, REPLICA, limit_s, say)
    clock.lap("schema")
    from gatehouse.audit.log import AuditLog
    from gatehouse.start import application

    figures = None
    if plan.monitoring:
        from gatehouse.start.figures import Figures

        figures = Figures(plan)
    log = AuditLog(descriptors.log)
    app = application.build(plan, log, figures)
    clock.lap("import")
    with schema.first_comes_first(settings.backend_store_uri):
        engines = mlflow_app.open_stores()
    clock.lap("stores")
    if figures:
        figures.engines(engines)
        figures.started(clock.laps)
    if plan.jobs:
        upstream_jobs.check()
    if settings.workers > 1:
        # No two processes may share a connection.
        for engine in engines:
            engine.dispose()
    settle()
    listener = listen(plan.run_directory / SOCKET_NAME)
    worker = Worker(app, log, listener, descriptors, settings, figures)
    if settings.workers > 1:
        fork_workers(worker)
    else:
        run_worker(worker, 0)


def main(argv: list[str]) -> int:
    """Run the command; return an exit code."""
    gc.disable()  # until ``settle``
    parser = argparse.ArgumentParser(prog="gatehouse serve", description=__doc__)
    parser.add_argument("--run-directory", type=Path, required=True, help="the private folder of this start")
    parser.add_argument(
        "--descriptors", required=True, help="numbers of: the plan, control, the log, a socket for each worker"
    )
    numbers = [int(number) for number in parser.parse_args(argv).descriptors.split(",")]
    for number in numbers:
        os.set_inheritable(number, False)
    descriptors = Descriptors(numbers[0], numbers[1], numbers[2], tuple(numbers[3:]))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for noisy in ("alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with open(descriptors.plan, "rb") as pipe:  # noqa: PTH123 - a descriptor
        plan = ServerPlan.load(pipe.read())
    try:
        serve(plan, descriptors)
    except SchemaError as error:
        say(f"error: {error}")
        return error.code
    return Exit.OK
