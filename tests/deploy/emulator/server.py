"""The emulator's HTTP: a proxy that gcloud (and the smoke test) reach every host through, TLS included.

A `CONNECT` is answered here with a certificate of the test's own authority: `*.googleapis.com` goes to the API
handlers, `*.run.app` to the service that the emulated Cloud Run runs. Everything is recorded; nothing leaves the
machine.
"""

from __future__ import annotations

import copy
import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.deploy.emulator import (
    artifactregistry,
    cloudbuild,
    discovery,
    iam,
    logs,
    project,
    roles,
    run,
    secretmanager,
    sqladmin,
    storage,
    sts,
    watch,
)
from tests.deploy.emulator.certificates import Authority
from tests.deploy.emulator.core import HANDLERS, ApiError, Call, Raw, denied

OWNER, OWNER_TOKEN = "user:owner@example.com", "ya29.emulated-access-token"

#: Served without being enabled first, as in a new project.
ALWAYS_ENABLED = {
    "serviceusage.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "cloudbilling.googleapis.com",
    "storage.googleapis.com",
    "logging.googleapis.com",
    "orgpolicy.googleapis.com",
    "sts.googleapis.com",
    "oauth2.googleapis.com",
}


@dataclass(frozen=True)
class Recorded:
    """One request, and how it was answered."""

    method: str
    path: str
    body: str
    status: int
    answer: str
    writes: bool
    #: Whether Google describes such a request, and the emulator has it.
    valid: bool


class Emulator:
    """One project in an emulated cloud. `with Emulator(directory) as cloud: …` serves until the end of the block."""

    def __init__(self, directory: Path, project_id: str = "demo-project", number: str = "123456789012") -> None:
        self.lock = threading.RLock()
        self.directory = directory
        self.project = project.Project(project_id, number)
        self.iam = iam.Iam(self.project)
        self.secrets = secretmanager.Secrets()
        self.storage = storage.Storage()
        self.sql = sqladmin.Sql()
        self.registry = artifactregistry.Registry()
        self.builds = cloudbuild.Builds()
        self.run = run.CloudRun(self)
        self.logs = logs.Logs()
        self.federation = sts.Federation()
        self.watch = watch.Watch()
        #: Permissions that every caller lacks (`secretmanager.secrets.create`).
        self.denied: set[str] = set()
        #: Access token → who has it. The owner may do all that `denied` leaves; others what the project's policy says.
        self.callers: dict[str, str] = {OWNER_TOKEN: OWNER}
        #: What the caller of a permission has been asked for, and had: (caller, permission).
        self.used: set[tuple[str, str]] = set()
        #: Permissions that a caller lacked, in order.
        self.refused: list[str] = []
        self.requests: list[Recorded] = []
        #: Called after a write has taken effect and before it is answered: where a test kills the caller.
        self.after_write: Callable[[Call], None] | None = None
        self.authority = Authority(directory)
        handler = type("Handler", (_Handler,), {"emulator": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Emulator:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.run.stop()

    def adopt(self, other: Emulator) -> None:
        """Take over a copy of another's state: a deployment that a test need not make anew."""
        memo: dict[int, Any] = {id(other): self}
        for name in (
            "project",
            "iam",
            "secrets",
            "storage",
            "sql",
            "registry",
            "builds",
            "logs",
            "federation",
            "watch",
        ):
            setattr(self, name, copy.deepcopy(getattr(other, name), memo))
        for name in ("services", "revisions", "addresses", "jobs", "executions", "region", "job_policies"):
            setattr(self.run, name, copy.deepcopy(getattr(other.run, name), memo))

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables that make gcloud and Python's clients come here, with a configuration of their own in
        `home`.
        """
        home.mkdir(parents=True, exist_ok=True)
        token, authority = home / "token", str(self.authority.bundle)
        token.write_text(OWNER_TOKEN)
        proxy = f"http://127.0.0.1:{self.port}"
        return {
            "CLOUDSDK_CONFIG": str(home / "gcloud"),
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
            "CLOUDSDK_CORE_PROJECT": "a-project-that-is-not-the-one",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": authority,
            "CLOUDSDK_PROXY_TYPE": "http",
            "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
            "CLOUDSDK_PROXY_PORT": str(self.port),
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "REQUESTS_CA_BUNDLE": authority,
            "CURL_CA_BUNDLE": authority,
            "SSL_CERT_FILE": authority,
        }

    def answer(self, host: str, http_method: str, target: str, headers: dict[str, str], raw: bytes) -> Raw:
        """Handle one API request."""
        url = urlsplit(target)
        name, body, writes, valid, path = "unknown", "", False, False, url.path
        try:
            body = raw.decode("utf-8", "replace")
            api = "run.googleapis.com" if host.endswith("-run.googleapis.com") else host
            if api in {"sts.googleapis.com", "oauth2.googleapis.com"}:
                with self.lock:
                    reply = Raw(json.dumps(sts.exchange(self, api, raw)).encode())
                self.requests.append(Recorded("token", target, "(a token)", reply.status, "(a token)", False, True))
                return reply
            if api not in discovery.DOCUMENTS:
                raise ApiError(404, "NOT_FOUND", f"no such host: {host}")
            found = discovery.find(api, http_method, path)
            if found is None:
                raise ApiError(404, "NOT_FOUND", f"Google describes no such method: {http_method} {host}{path}")
            method, parameters = found
            name = method.id
            query = parse_qs(url.query, keep_blank_values=True)
            media = "/upload/" in path or "multipart" in headers.get("content-type", "")
            content = json.loads(raw) if raw and not media else None
            if problems := discovery.problems(method, query, content):
                raise ApiError(400, "INVALID_ARGUMENT", "; ".join(problems))
            handler = HANDLERS.get(name)
            if handler is None:
                raise ApiError(501, "UNIMPLEMENTED", f"the emulator has no {name}")
            writes, valid = handler.writes, True
            headers = headers | {"x-region": host.removesuffix("-run.googleapis.com") if api != host else ""}
            call = Call(self, name, parameters, query, content, headers, raw, path)
            with self.lock:
                call.caller = self.caller(headers)
                self.project.must_serve(api, ALWAYS_ENABLED)
                if handler.permission:
                    account = parameters.get("name", "") if ".serviceAccounts." in handler.permission else ""
                    self.must(call.caller, handler.permission, account.rsplit("/", 1)[-1])
                result = handler.act(call)
            if writes and self.after_write:
                self.after_write(call)
            reply = result if isinstance(result, Raw) else Raw(json.dumps(result).encode())
        except Exception as problem:
            error = problem if isinstance(problem, ApiError) else ApiError(501, "INTERNAL", f"emulator: {problem!r}")
            reply = Raw(json.dumps(error.body()).encode(), status=error.status)
        shown = reply.data.decode("utf-8", "replace")
        self.requests.append(Recorded(name, target, body, reply.status, shown, writes, valid))
        return reply

    def caller(self, headers: dict[str, str]) -> str:
        """Return who calls, by the access token; raise the 401 of a token that nobody has. Tests may leave it out."""
        given = headers.get("authorization", f"Bearer {OWNER_TOKEN}").removeprefix("Bearer ")
        if given not in self.callers:
            raise ApiError(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        return self.callers[given]

    def may(self, caller: str, permission: str, account: str = "") -> bool:
        """Return whether a caller has a permission: in the project, or on one service account."""
        if permission in self.denied:
            return False
        if caller == OWNER:
            return True
        policies = [self.project.policy, *([self.iam.policies[account]] if account in self.iam.policies else [])]
        return any(
            caller in binding["members"] and "condition" not in binding and roles.has(binding["role"], permission)
            for policy in policies
            for binding in policy.bindings
        )

    def must(self, caller: str, permission: str, account: str = "") -> None:
        """Raise the 403 of a right that the caller lacks."""
        if not self.may(caller, permission, account):
            self.refused.append(permission)
            raise denied(permission, f"projects/{self.project.id}")
        self.used.add((caller, permission))

    @property
    def writes(self) -> list[Recorded]:
        """The requests that change something, in order."""
        return [request for request in self.requests if request.writes]

    def unknown(self) -> list[Recorded]:
        """Return the requests that were no valid call of a described and emulated method."""
        return [r for r in self.requests if not r.valid or r.status == 501]


class _Handler(http.server.BaseHTTPRequestHandler):
    emulator: Emulator
    protocol_version = "HTTP/1.1"
    host = ""

    def do_CONNECT(self) -> None:
        self.host = self.path.rsplit(":", 1)[0]
        self.send_response(200, "Connection established")
        self.end_headers()
        try:
            self.connection = self.emulator.authority.context.wrap_socket(self.connection, server_side=True)
        except (ssl.SSLError, OSError):
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def _request(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self._chunks() if "chunked" in self.headers.get("transfer-encoding", "") else self.rfile.read(length)
        if self.host.endswith(".run.app"):
            self._forward(body)
            return
        headers = {key.lower(): value for key, value in self.headers.items()}
        # A container comes without the proxy, by STORAGE_EMULATOR_HOST.
        host = self.host or "storage.googleapis.com"
        self._reply(self.emulator.answer(host, self.command, self.path, headers, body))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _request

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _reply(self, reply: Raw) -> None:
        try:
            self.send_response(reply.status)
            for key, value in ({"Content-Type": "application/json"} | reply.headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(reply.data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.data)
        except OSError:
            self.close_connection = True  # the caller was killed

    def _forward(self, body: bytes) -> None:
        """Pass a request on to the revision that serves this host, as Cloud Run's front end does."""
        address = self.emulator.run.address_of(self.host)
        if address is None:
            self._reply(Raw(b"<h1>404 Page not found</h1>", {"Content-Type": "text/html"}, 404))
            return
        connection = http.client.HTTPConnection(*address, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            hop = {"connection", "transfer-encoding", "content-length", "proxy-connection", "keep-alive"}
            for key, value in self.headers.items():
                if key.lower() not in hop | {"x-forwarded-proto", "x-forwarded-for"}:
                    connection.putheader(key, value)
            connection.putheader("X-Forwarded-Proto", "https")
            connection.putheader("X-Forwarded-For", "127.0.0.1")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in hop:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except (OSError, http.client.HTTPException) as error:
            self._reply(Raw(f"upstream: {error}".encode(), {"Content-Type": "text/plain"}, 503))
        finally:
            connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args
