"""MLflow's own way and the short way, on one database: for tests that hold one against the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlencode

from mlflow.server import app as flask_app
from mlflow.server import handlers
from mlflow.server.fastapi_app import app as fastapi_app
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import make_url

from gatehouse.database.connections import Connections
from gatehouse.database.layer import ShortWayLayer
from gatehouse.database.reads import requests as reading
from gatehouse.database.shortway import ShortWay, arguments
from gatehouse.database.writes import requests as writing
from gatehouse.dispatch.dispatcher import Dispatcher
from gatehouse.operations.router import Router
from gatehouse.request.context import Context, Handler


class Ways:
    """MLflow's own way and ours, on one database."""

    def __init__(self, uri: str) -> None:
        self.store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
        self._before, handlers._tracking_store = handlers._tracking_store, self.store
        self._client = flask_app.test_client()
        self._loop = asyncio.new_event_loop()
        self.connections = Connections(lambda: arguments(make_url(uri)), 2, 5.0, 60.0)
        self._router = Router(fastapi_app, flask_app)
        self._layer = ShortWayLayer(
            self._never,
            [
                ShortWay(self.connections, reading.query, frozenset(reading.OPERATIONS)),
                ShortWay(self.connections, writing.statement, frozenset(writing.OPERATIONS), writes=True),
            ],
        )
        self.mlflow = Dispatcher(fastapi_app, flask_app)
        self.runs: list[str] = []
        self.experiments: list[str] = []
        self.declined = 0

    async def _never(self, _context: Context, _send: object) -> None:
        raise LookupError

    def close(self) -> None:
        handlers._tracking_store = self._before
        self.store.engine.dispose()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def send(
        self, method: str, path: str, query: str = "", body: bytes = b"", handler: Handler | None = None, **headers: str
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
        """Return status, headers and body of a handler's answer (ours by default); None if it hands on."""
        fields = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
            "root_path": "", "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1), "http_version": "1.1",
        }  # fmt: skip
        sent: list[dict[str, Any]] = []

        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the client stays
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        context = Context(scope, receive, route=self._router.find(scope), body=body)
        try:
            self.run((handler or self._layer)(context, send))
        except LookupError:
            return None
        return sent[0]["status"], sent[0]["headers"], b"".join(message.get("body", b"") for message in sent[1:])

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run something in the event loop that the connections live in."""

        async def wait() -> Any:
            return await awaitable

        return self._loop.run_until_complete(wait())

    def select(self, expression: str, kind: str, value: object) -> str:
        """Return what SQL makes of the value ``v``."""
        statement = f"SELECT {expression} FROM (SELECT $1 AS v) AS one"
        return str(self.run(self.connections.fetch(statement, kind, [value]))[0][0])

    def compare(self, method: str, path: str, fields: dict[str, Any]) -> bytes:
        """Ask both; return the answer. What MLflow answers with 200 may not be left to it."""
        query = urlencode(fields, doseq=True) if method == "GET" else ""
        body = b"" if method == "GET" else json.dumps(fields).encode()
        theirs = self._client.open(f"{path}?{query}", method=method, data=body, content_type="application/json")
        ours = self.send(method, path, query, body)
        if ours is None:
            # Only a refusal is left to MLflow: if it has an answer, we have it too.
            assert theirs.status_code != 200, f"declined: {fields}"
            self.declined += 1
            return bytes(theirs.data)
        assert (ours[0], unordered(ours[2])) == (theirs.status_code, unordered(theirs.data)), fields
        return ours[2]


def unordered(body: bytes) -> bytes:
    """Return an answer with the tags of datasets in one order: MLflow reads them in none (``_get_run_inputs``)."""
    if b'"dataset_inputs"' not in body:
        return body
    document = json.loads(body)
    for run in [*document.get("runs", []), *([document["run"]] if "run" in document else [])]:
        for dataset in run["inputs"].get("dataset_inputs", []):
            dataset.get("tags", []).sort(key=lambda tag: tag["key"])
        run["inputs"].get("dataset_inputs", []).sort(key=lambda dataset: dataset["dataset"]["name"])
    return json.dumps(document, indent=2).encode()
