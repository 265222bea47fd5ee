"""Any request at all, by somebody who may only look: never a write, never an error of Gatehouse's own.

Each run has a seed of its own, which a failure tells: `make fuzz SEED=…` sends the same requests again. `make fuzz
MINUTES=30` goes on for so long, with a new seed for each round.

The requests go to MLflow's socket with the proxy's proof, so that nothing of them is tidied up on the way.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gatehouse.operations.classes import Access
from gatehouse.operations.table import GRAPHQL, GRAPHQL_FIELDS, OPERATIONS
from tests.access.conftest import Snapshot
from tests.access.test_identity import proof, socket_folder
from tests.access.test_roles import ASKS_THE_INTERNET
from tests.access.test_routes import METHODS, REGISTERED, SPELLINGS, fill
from tests.support import Gate

#: Enough to meet each route several times; about a minute.
EXAMPLES = 1500
PATHS = sorted({template for _, template, operation in REGISTERED if operation != ASKS_THE_INTERNET})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
known = st.sampled_from(
    ["experiment_id", "run_id", "name", "key", "value", "tags", "user_id", "query", "mlflow.user", "trace", "version"]
)
documents = st.dictionaries(known, json_values, max_size=5) | json_values
queries = st.builds(
    lambda kind, field, rest: {"query": f"{kind} {{ {field} {rest} }}"},
    st.sampled_from(["query", "mutation", "subscription", "fragment f on Mutation", ""]),
    st.sampled_from([name.partition(".")[2] for name in GRAPHQL_FIELDS] + ["deleteRun", "...f", "a: b"]),
    st.text(max_size=12),
)
bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    documents.map(lambda document: json.dumps(document).encode()),
    documents.map(lambda document: json.dumps(json.dumps(document)).encode("utf-16")),
    queries.map(lambda document: json.dumps(document).encode()),
)
content_types = st.sampled_from(
    [
        "application/json",
        "application/x-protobuf",
        "text/plain",
        "application/json; charset=utf-16",
        "multipart/form-data",
        "",
    ]
)
extra_headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["X-Forwarded-Groups", "X-Forwarded-Preferred-Username", "X-HTTP-Method-Override", "Content-Encoding", "Accept",
             "X-Cloud-Trace-Context", "traceparent", "Cookie", "Range", "Origin", "X-MLFLOW-WORKSPACE", "User-Agent",
             "x-mlflow-experiment-id", "X-Forwarded-For", "If-None-Match", "Transfer-Encoding-X"]
        ),
        st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30),
    ),
    max_size=3,
    unique_by=lambda header: header[0],
)  # fmt: skip


def send(gate: Gate, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> int:
    """Send a request as carol; return the status, or 0 if the server hung up on nonsense."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(socket_folder(gate) / "mlflow.sock"))
    try:
        connection.putrequest(method, path, skip_accept_encoding=True, skip_host=True)
        connection.putheader("Host", f"localhost:{gate.port}")
        for name, value in headers:
            connection.putheader(name, value.encode("latin-1"))
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        answer.read()
    except (http.client.HTTPException, ConnectionError):
        return 0
    else:
        return answer.status
    finally:
        connection.close()


def own_errors(log: str) -> list[str]:
    """Return the tracebacks of the log whose last frame is in Gatehouse."""
    found = []
    for block in re.split(r"(?=^Traceback )", log, flags=re.MULTILINE)[1:]:
        frames = re.findall(r'^  +[|+]? *File "([^"]+)"', block, flags=re.MULTILINE)
        if frames and "/gatehouse/" in frames[-1] and "site-packages" not in frames[-1]:
            found.append(block)
    return found


def test_no_request_of_a_viewer_writes_or_breaks_a_layer(gate: Gate, snapshot: Snapshot) -> None:
    assert {operation for _, _, operation in REGISTERED} - {GRAPHQL} == set(OPERATIONS)
    carol = [proof(gate, "carol@example.com"), ("X-Forwarded-Email", "carol@example.com")]
    before = snapshot.take()
    until = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES") or 0)
    number = int(os.environ.get("FUZZ_SEED") or secrets.randbits(32))
    rounds = 0
    while not rounds or time.monotonic() < until:
        print(f"make fuzz SEED={number}", flush=True)
        statuses = fuzz_once(gate, carol, number)
        replay = f"{statuses}; replay it: make fuzz SEED={number}"
        assert snapshot.take() == before, replay
        assert own_errors(gate.log()) == [], replay
        # The fuzzing got through to where it matters.
        assert statuses.get(403, 0) > EXAMPLES / 20, replay
        assert statuses.get(200, 0) > 10, replay
        assert statuses.get(401, 0) < EXAMPLES / 5, replay
        rounds, number = rounds + 1, secrets.randbits(32)
    with contextlib.suppress(FileNotFoundError):
        assert not list(Path(gate.folder / "artifacts").rglob("x1"))
    assert sum(access is Access.READ for access in OPERATIONS.values()) > 50


def fuzz_once(gate: Gate, who: list[tuple[str, str]], number: int) -> dict[int, int]:
    """Send EXAMPLES requests that follow from a number; return how many answers had which status."""
    statuses: dict[int, int] = {}

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.sampled_from(METHODS),
        st.sampled_from(PATHS).map(fill) | st.text(alphabet="abc/%.2eé<>;?#", max_size=20).map(lambda text: "/" + text),
        st.sampled_from(SPELLINGS),
        extra_headers,
        content_types,
        bodies,
    )
    def fuzz(
        method: str, path: str, spell: Any, headers: list[tuple[str, str]], content_type: str, body: bytes
    ) -> None:
        target = re.sub(r"[^!-~]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), spell(path))
        status = send(gate, method, target, [*who, *headers, ("Content-Type", content_type)], body)
        statuses[status] = statuses.get(status, 0) + 1

    fuzz()
    return statuses
