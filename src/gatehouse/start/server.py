"""``gatehouse serve``: MLflow on a private Unix socket, in one preloaded process or in WORKERS forked ones.

A socket in a folder of mode 0700 instead of a TCP port: nothing in the container but the proxy's user can
connect, no request that MLflow is tricked into making can reach it, no port can be taken, and the 44 ms that a
TCP connection without TCP_NODELAY costs can't arise.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehouse.database import schema
from gatehouse.database.reach import SchemaError
from gatehouse.exit_codes import Exit
from gatehouse.policy.reader import PolicyError
from gatehouse.start import jobs, mlflow_app
from gatehouse.start.prepare import SOCKET_NAME, write_private
from gatehouse.start.settings import REPLICA, Settings, SettingsError, connections_needed, load

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 2048
#: oauth2-proxy keeps an idle upstream connection for 90 s; closing it sooner here would race with its next request.
KEEP_ALIVE_S = 120
#: The database gets this share of STARTUP_TIMEOUT, so that its own error comes before start.sh's.
DATABASE_SHARE = 0.75
READY = b"ready\n"
#: Python's are 700, 10, 10 (gc.set_threshold): how many new objects are looked through at once, and how often older ones.
COLLECTOR_THRESHOLDS = (20_000, 25, 25)
#: Seconds from readiness to the look at the artifact store's rights: loading its library would slow down the first requests.
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
        say(f"error: the artifact store can't be looked at: {type(error).__name__}: {error}")


def run_worker(app: ASGIApp, listener: socket.socket, ready: int, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; write READY to the descriptor once requests are accepted."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            os.write(ready, READY)
            os.close(ready)
            if settings.artifacts_destination:
                timer = threading.Timer(
                    CHECK_AFTER_S, check_artifacts, [settings.artifacts_destination, settings.direct_transfers]
                )
                timer.daemon = True
                timer.start()

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    Server(config).run(sockets=[listener])


def settle() -> None:
    """Let the garbage collector, off while MLflow was imported, forget all that this made, and work less often from now on.

    Looking for garbage during the import took a fifth of the start, and there was next to none.
    A request for 1,000 runs makes some 100,000 objects and hardly a cycle: with Python's thresholds, looking for
    cycles among them took two fifths of its time (`make bench`).
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    gc.enable()


def fork_workers(app: ASGIApp, listener: socket.socket, settings: Settings, ready: int) -> int:
    """Serve from WORKERS forked processes; any of them ending ends all.

    The import is shared, for the collector doesn't touch, and so copy, every page of it (``settle``).
    """
    started, notify = os.pipe()
    workers = set()
    for _ in range(settings.workers):
        pid = os.fork()
        if pid == 0:
            os.close(started)
            os.close(ready)
            code = 1
            try:
                run_worker(app, listener, notify, settings)
                code = 0
            finally:
                logging.shutdown()
                sys.stdout.flush()
                os._exit(code)
        workers.add(pid)
    os.close(notify)
    listener.close()
    stopping = False

    def stop(signum: int, _frame: Any) -> None:
        nonlocal stopping
        stopping = True
        for worker in workers:
            os.kill(worker, signum)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    expected = READY * settings.workers
    said = b""
    while said != expected and (received := os.read(started, len(expected))):
        said += received
    if said == expected:
        os.write(ready, READY)
    os.close(ready)
    code = 0
    while workers:
        pid, status = os.wait()
        workers.discard(pid)
        if not stopping:
            say(f"error: worker {pid} ended ({describe(status)}); stopping the others")
            code = Exit.SERVER_ENDED
            stop(signal.SIGTERM, None)
    return code


def describe(status: int) -> str:
    """Return a wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def serve(settings: Settings, run_directory: Path, ready: int) -> int:
    """Check the database, load MLflow, open its stores, and serve; say ``ready`` on the descriptor in between.

    Raises:
        SchemaError: if the database can't be used.
    """
    google_credentials(settings, run_directory)
    mlflow_app.configure(settings)
    jobs_on = jobs.configure(run_directory)
    limit_s = settings.startup_timeout * DATABASE_SHARE
    schema.ensure(settings.backend_store_uri, limit_s, say, connections_needed(settings.workers))
    if settings.read_replica:
        schema.ensure_replica(settings.read_replica, REPLICA, limit_s, say)
    from gatehouse.start import application

    app = application.build(settings, run_directory, os.environ)
    with schema.first_comes_first(settings.backend_store_uri):
        engines = mlflow_app.open_stores()
    if jobs_on:
        jobs.start_runner(settings)
    if settings.workers > 1:
        # No two processes may share a connection.
        for engine in engines:
            engine.dispose()
    settle()
    listener = listen(run_directory / SOCKET_NAME)
    if settings.workers > 1:
        return fork_workers(app, listener, settings, ready)
    run_worker(app, listener, ready, settings)
    return Exit.OK


def main(argv: list[str]) -> int:
    """Run the command; return an exit code."""
    gc.disable()  # until ``settle``
    parser = argparse.ArgumentParser(prog="gatehouse serve", description=__doc__)
    parser.add_argument("--run-directory", type=Path, required=True, help="the folder that `gatehouse prepare` filled")
    parser.add_argument("--ready-fd", type=int, required=True, help="where to say that MLflow is ready")
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for noisy in ("alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return serve(load(os.environ), arguments.run_directory, arguments.ready_fd)
    except (SettingsError, PolicyError) as error:
        say(f"error: {error}")
        return Exit.SETTINGS
    except SchemaError as error:
        say(f"error: {error}")
        return error.code
