"""What can stand where a tracking server should: a login page, a company's proxy, Cloud Run's own front door."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate


class Impostor:
    """A server that answers everything the same way, but for ``paths``, and keeps what it was sent in ``seen``."""

    def __init__(self, status: int, body: str = "", **headers: str) -> None:
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.paths: dict[str, tuple[int, str, dict[str, str]]] = {}
        self.clock_ahead = 0.0
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def describe(self, **about: object) -> None:
        """Publish ``/.well-known/gatehouse``."""
        self.paths["/.well-known/gatehouse"] = (200, json.dumps(about), {"Content-Type": "application/json"})

    @property
    def asked(self) -> list[tuple[str, str, dict[str, str]]]:
        """The requests that weren't for the description."""
        return [request for request in self.seen if request[1] != "/.well-known/gatehouse"]


def _handler(impostor: Impostor) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def _serve(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            impostor.seen.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
            answer = (impostor.status, impostor.body, impostor.headers)
            status, body, headers = impostor.paths.get(path, answer)
            if path == "/.well-known/gatehouse" and path not in impostor.paths:
                status, body, headers = 404, "", {}
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + impostor.clock_ahead, usegmt=True))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def log_message(self, format: str, *args: object) -> None:
            """``seen`` is the log."""

    return Handler


@contextmanager
def standing_in(*impostors: Impostor) -> Iterator[None]:
    """Serve until the end of the block."""
    for impostor in impostors:
        threading.Thread(target=impostor.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield
    finally:
        for impostor in impostors:
            impostor.server.shutdown()
            impostor.server.server_close()
