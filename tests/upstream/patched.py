"""What the patches of docs/upstream change in MLflow, looked at in whichever MLflow this is run with.

Prints a JSON object: the patch's name, and whether MLflow does what the patch promises.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar


def migrations_shared_connection() -> bool:
    """Each connection has a database of its own: only what is done on the given one is there."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    with create_engine("sqlite://", poolclass=NullPool).connect() as connection:
        InitialBase.metadata.create_all(connection)
        config = _get_alembic_config("sqlite://")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "heads")
        except SQLAlchemyError:
            return False
        return "trace_info" in inspect(connection).get_table_names()


def host_header() -> bool:
    """Letters of any case are one name, and bytes that are no UTF-8 are refused."""
    from mlflow.server.fastapi_security import HostValidationMiddleware
    from mlflow.server.security_utils import is_allowed_host_header

    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(message["status"]))

    allowed = ["mlflow.example.com", "*.corp.example"]
    scope = {"type": "http", "path": "/", "headers": [(b"host", b"\xff")]}
    try:
        asyncio.run(HostValidationMiddleware(None, allowed)(scope, None, send))
    except UnicodeDecodeError:
        return False
    names = [is_allowed_host_header(allowed, name) for name in ("MLflow.Example.com", "A.Corp.example", "evil.example")]
    return statuses == [403] and names == [True, True, False]


def localhost_origins() -> bool:
    """Whoever names origins names all of them."""
    from mlflow.server.security_utils import should_block_cors_request

    local = "http://localhost:1"
    told = should_block_cors_request(local, "POST", ["https://mlflow.example.com"])
    return bool(told) and not should_block_cors_request(local, "POST", [])


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Answers ``/expired/…`` by a page, as a sign-in does, and ``/moved/…`` by 307.

    Keeps what is put to ``/here/…``.
    """

    stored: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        """Store, or lead elsewhere."""
        content = self.rfile.read(int(self.headers["content-length"] or 0))
        if self.path.startswith("/here/"):
            self.stored[self.path] = content
            self.answer(200)
        elif self.path.startswith("/moved/"):
            self.answer(307, self.path.replace("/moved/", "/here/"))
        else:
            self.answer(302, "/sign_in")

    def do_GET(self) -> None:
        """Give the page."""
        self.answer(200)

    def answer(self, status: int, location: str = "") -> None:
        """Answer without a body."""
        self.send_response(status)
        if location:
            self.send_header("location", location)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def redirected_writes() -> bool:
    """A redirect that loses the artifact is an error; one that keeps it is followed."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from requests.exceptions import HTTPError

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.bin")
            file.write_bytes(b"whole")
            base = f"http://127.0.0.1:{server.server_port}"
            HttpArtifactRepository(f"{base}/moved").log_artifact(str(file))
            if Redirecting.stored != {"/here/model.bin": b"whole"}:
                return False
            try:
                HttpArtifactRepository(f"{base}/expired").log_artifact(str(file))
            except HTTPError:
                return True
            return False
    finally:
        server.shutdown()
        server.server_close()


def otlp_event_loop() -> bool:
    """Spans are made in another thread than the event loop's."""
    from fastapi import HTTPException
    from mlflow.server import otel_api
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    export = ExportTraceServiceRequest()
    export.resource_spans.add().scope_spans.add().spans.add(name="one")
    threads: list[int] = []

    class Request:
        """The body alone."""

        async def body(self) -> bytes:
            """Return it."""
            return bytes(export.SerializeToString())

    class Span:
        """Notes where it was made, and ends the request."""

        @staticmethod
        def from_otel_proto(*_: object, **__: object) -> None:
            """Take a span."""
            threads.append(threading.get_ident())
            raise ValueError

    otel_api.Span = Span
    exported = otel_api.export_traces(Request(), "0", None, "application/x-protobuf", None, None, None)
    try:
        asyncio.run(exported)
    except HTTPException as error:
        return error.status_code == 422 and threads != [threading.get_ident()]
    return False


def gcs_signed_parts() -> bool:
    """Credentials without a key sign by the IAM API, and are asked before an upload is begun."""
    import datetime

    import google.auth.credentials
    import google.resumable_media.requests as resumable
    from google.cloud import storage
    from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

    class OfMetadataServer(google.auth.credentials.Credentials):  # type: ignore[misc]
        """As google.auth.compute_engine.Credentials: an address, a token, and no key."""

        service_account_email = "default"

        def refresh(self, _request: object) -> None:
            """Take what the metadata server would say."""
            self.token = "of-this-hour"
            self.expiry = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(
                hours=1
            )
            self.service_account_email = "run@project.iam.gserviceaccount.com"

    class Container:
        """An upload that has begun."""

        upload_id = "1"

        def __init__(self, *_: object, **__: object) -> None: ...

        def initiate(self, **_: object) -> None:
            """Begin."""

    given: list[dict[str, Any]] = []

    def sign(_blob: object, **options: Any) -> str:
        given.append(options)
        return "https://storage.example"

    resumable.XMLMPUContainer = Container
    storage.Blob.generate_signed_url = sign
    client = storage.Client("project", OfMetadataServer())
    GCSArtifactRepository("gs://bucket/mlflow", client).create_multipart_upload("model.bin", 1)
    options = given[0]
    return (options.get("service_account_email"), options.get("access_token")) == (
        "run@project.iam.gserviceaccount.com",
        "of-this-hour",
    )


CHECKS: tuple[Callable[[], bool], ...] = (
    migrations_shared_connection,
    host_header,
    localhost_origins,
    redirected_writes,
    otlp_event_loop,
    gcs_signed_parts,
)

if __name__ == "__main__":
    found = {f"mlflow-{check.__name__.replace('_', '-')}.patch": check() for check in CHECKS}
    json.dump(found, sys.stdout)
