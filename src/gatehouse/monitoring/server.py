"""``gatehouse monitor``: adds up all processes' notes, answers scrapes on a port of its own, and pushes by OTLP.

A process of its own: whoever scrapes, slowly or a thousand times at once, holds up neither a request nor the audit
log's writer. The supervisor starts it after the gate is open, and again should it end; the sockets are the
supervisor's, so meanwhile notes and scrapes wait.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gatehouse.exit_codes import Exit
from gatehouse.monitoring.notes import LONGEST, PROXY_SOCKET_NAME, STATE_SOCKET_NAME
from gatehouse.monitoring.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric as Family

#: Scrapes at once; more are turned away.
MOST_SCRAPES = 8
#: Seconds that a scraper may take to ask, or to read.
PATIENCE_S = 10.0
#: Seconds that the proxy may take to tell its figures.
PROXY_PATIENCE_S = 1.0
#: Of the proxy's figures, those of its requests; the others are its runtime's.
OF_PROXY = "oauth2_proxy_"


class Proxy(Collector):
    """What oauth2-proxy counts itself: requests by status, which include those that it never let through.

    Args:
        path: its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def collect(self) -> Iterator[Family]:
        """Yield its families; none while it doesn't answer."""
        connection = http.client.HTTPConnection("localhost")
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(PROXY_PATIENCE_S)
            connection.sock.connect(self._path)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            families = list(text_string_to_metric_families(text))
        except (OSError, http.client.HTTPException, ValueError):
            return
        finally:
            connection.close()
        yield from (family for family in families if family.name.startswith(OF_PROXY))

    def describe(self) -> Iterable[Family]:
        """Return nothing: it may not be there yet."""
        return []


class Handler(BaseHTTPRequestHandler):
    """Answers ``GET /metrics`` in the form that the scraper prefers, and nothing else."""

    timeout = PATIENCE_S
    server_version = "gatehouse"
    sys_version = ""
    server: Server

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.registry)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of each scrape."""


class StateHandler(Handler):
    """Answers ``gatehouse status``, by a private socket."""

    def do_GET(self) -> None:
        """Answer with the state, whatever the path."""
        body = json.dumps(self.server.sums.state()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Return nobody's address: a Unix socket has none."""
        return ""


class Server(ThreadingHTTPServer):
    """Serves scrapes on a socket that is open already, a few at a time.

    Args:
        listener: the socket.
        sums: what is told.
        registry: the same and the proxy's, in Prometheus' form.
        handler: answers.
    """

    daemon_threads = True

    def __init__(
        self, listener: socket.socket, sums: Sums, registry: CollectorRegistry, handler: type[Handler] = Handler
    ) -> None:
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.sums = sums
        self.registry = registry
        self._places = threading.BoundedSemaphore(MOST_SCRAPES)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, or end it if too many are open."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Pass over scrapers that go away; anything else is said."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"gatehouse monitor: error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def private_listener(path: Path) -> socket.socket:
    """Return a listening Unix socket that only this user can connect to; one that was left there goes."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(MOST_SCRAPES)
    return listener


def hear(notes: socket.socket, sums: Sums) -> None:
    """Take notes until the socket is closed."""
    while True:
        try:
            message = notes.recv(LONGEST)
        except OSError:
            return
        try:
            sums.take(message)
        except (ValueError, KeyError, TypeError) as error:
            print(f"gatehouse monitor: error: notes that can't be read: {error!r}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Run until SIGTERM; return an exit code."""
    parser = argparse.ArgumentParser(prog="gatehouse monitor", description=__doc__)
    parser.add_argument("--run-directory", type=Path, required=True, help="the private folder of this start")
    parser.add_argument("--notes", type=int, required=True, help="the descriptor that notes come by")
    parser.add_argument("--listener", type=int, help="the descriptor that scrapes come by")
    arguments = parser.parse_args(argv)
    # Held back from every thread, and waited for at the end of this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sums = Sums()
    collectors: list[Collector] = [sums, Proxy(arguments.run_directory / PROXY_SOCKET_NAME)]
    notes = socket.socket(fileno=arguments.notes)
    notes.setblocking(True)
    threading.Thread(target=hear, args=[notes, sums], daemon=True).start()
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    servers = [Server(private_listener(arguments.run_directory / STATE_SOCKET_NAME), sums, registry, StateHandler)]
    if arguments.listener is not None:
        servers.append(Server(socket.socket(fileno=arguments.listener), sums, registry))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    push = None
    if os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        from gatehouse.monitoring.otlp import Push

        push = Push(collectors, sums.since)
        push.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    if push is not None:
        with contextlib.suppress(Exception):  # the exporter has said why
            push.stop()
    return Exit.OK
