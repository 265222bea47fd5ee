"""What lies between the server and a real object store:

a relay that refuses as IAM does, or damages bytes as a bad wire does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

from tests.artifacts.google_server import GoogleServer
from tests.support import free_port

#: A request, as what it is in Cloud Storage's API: the permission that it needs.
Right = str


def right(method: str, path: str) -> Right:
    """Return the permission that a request needs (https://cloud.google.com/storage/docs/access-control/iam-json)."""
    if method == "POST":
        return "storage.objects.create"
    if method == "DELETE":
        return "storage.objects.delete" if "upload_id" not in path else ""
    if method == "GET":
        return "storage.objects.list" if path.partition("?")[0].endswith("/o") else "storage.objects.get"
    return ""


class Wire:
    """A server on a port of its own, in front of a Cloud Storage server of its own."""

    def __init__(self) -> None:
        self.refused: set[Right] = set()
        #: Applied to the bytes of artifacts, on their way there and back.
        self.damage: Callable[[bytes], bytes] = bytes
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.store = GoogleServer()
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def relay(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                needed = right(self.command, self.path)
                if needed in wire.refused:
                    text = {"error": {"code": 403, "message": f"somebody does not have {needed} access to the bucket."}}
                    self.answer(403, {"Content-Type": "application/json"}, json.dumps(text).encode())
                    return
                if self.command == "PUT":
                    body = wire.damage(body)
                headers = dict(self.headers.items())  # with Host: the addresses of uploads are made of it
                url = f"http://127.0.0.1:{wire.store.port}{self.path}"
                got = requests.request(self.command, url, data=body, headers=headers, timeout=20)
                content = wire.damage(got.content) if "alt=media" in self.path else got.content
                self.answer(got.status_code, dict(got.headers), content)

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection", "date"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = relay

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.store.kill()
