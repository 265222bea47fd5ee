"""What a request may carry, told at the real gate:

refused in MLflow's shape, at once, and nobody else waits or loses data.
"""

from __future__ import annotations

import gzip
import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.access.conftest import TIMEOUT_S, Client
from tests.access.test_identity import proof, socket_folder, straight
from tests.support import Gate, run_sdk

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SEARCH = "/api/2.0/mlflow/runs/search"
JSON = {"Content-Type": "application/json"}
SPANS = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}


def refused(answer: requests.Response, status: int) -> str:
    """Return the message of a refusal, which is in MLflow's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    document = answer.json()
    assert set(document) == {"error_code", "message"}
    return str(document["message"])


# --- Bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"5", 400),
        (b"[]", 400),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
        (b'{"a":[' + b"{}," * 30_000 + b"{}]}", 413),
        (b'{"a":"' + b"x" * 2**20 + b'"}', 413),
        (b'"' + b"\\\\" * 1000 + b'"', 400),
    ],
    ids=["a number", "a list", "deep", "many values", "large", "a text"],
)
def test_a_viewers_body_is_bounded_and_the_connection_goes_on(carol: Client, body: bytes, status: int) -> None:
    answer = carol.call("POST", SEARCH, data=body, headers=JSON)
    refused(answer, status)
    assert carol.call("POST", SEARCH, json={"experiment_ids": ["0"]}).ok


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"7",
        b'{"query": "{ test( "}',
        b'{"query": "{' + b"a " * 2000 + b'}"}',
        b'{"query": 1}',
        b'{"query": "{ __typename }", "variables": "x"}',
        b'{"query": "{ __typename }", "variables": [1]}',
        b'{"query": "{ __typename }", "operationName": {"a": 1}}',
        b'[{"query": "{ __typename }"}]',
    ],
)
def test_a_graphql_query_that_cant_be_read_is_refused(carol: Client, body: bytes) -> None:
    refused(carol.call("POST", "/graphql", data=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "document",
    [
        {"query": "{ __typename }", "variables": None, "operationName": None},
        {"query": "{ __typename } # \ud800", "variables": {"a": "\ud800"}},
        {"query": "query ($a: [[Int]]) { __typename }", "variables": {"a": [["x"]], "b": {}}},
        {"query": "query a { __typename } query b { __typename }", "operationName": "c"},
        {"query": "{ __typename ...a } fragment a on Query { ...a }"},
        {"query": "{ a: __typename @skip(if: 1) @nothing(b: $c) }"},
    ],
)
def test_an_odd_graphql_request_is_no_failure_of_the_server(carol: Client, document: dict[str, Any]) -> None:
    answer = carol.call("POST", "/graphql", json=document)
    assert answer.status_code in {200, 400}, answer.text


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("runs/set-tag", {"key": "a", "value": "x\0"}),
        ("runs/log-parameter", {"key": "a\0", "value": "x"}),
        ("runs/log-batch", {"params": [{"key": "a", "value": "\0"}]}),
        ("runs/update", {"run_name": "a\0b"}),
    ],
)
def test_a_nul_that_no_database_keeps_is_the_clients_fault(bob: Client, path: str, document: dict[str, Any]) -> None:
    """The SDK repeats a 500 for minutes."""
    assert "NUL" in refused(bob.post(path, run_id=bob.run(), **document), 400)


def test_a_nul_in_the_address_is_too(bob: Client) -> None:
    path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=a%00b"
    assert "NUL" in refused(bob.call("GET", path), 400)


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"") * 100_000, gzip.compress(bytes(40 * 2**20)), gzip.compress(b"x" * 1000)[:-9]],
    ids=["many parts", "grows", "cut off"],
)
def test_compressed_spans_are_unpacked_within_the_same_limits(bob: Client, body: bytes) -> None:
    refused(bob.call("POST", "/v1/traces", data=body, headers={**SPANS, "Content-Encoding": "gzip"}), 400)


def test_spans_without_end_in_a_small_body_are_refused(bob: Client) -> None:
    def field(inner: bytes) -> bytes:
        size, length = len(inner), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return length + bytes([size]) + inner

    body = b"\x0a" + field(b"\x12" + field(b"\x12\x00" * 300_000))
    refused(bob.call("POST", "/v1/traces", data=body, headers=SPANS), 413)


# --- Headers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Digest", "Content-Digest", "Repr-Digest", "If-None-Match", "Range", "Accept", "Referer"]
)
def test_a_long_header_is_refused(bob: Client, name: str) -> None:
    """40,000 letters in a digest took 39 s of everybody's time."""
    answer = bob.call("PUT", f"{ARTIFACTS}/0/long.txt", data=b"x", headers={name: "a" * 40_000})
    assert name.lower() in refused(answer, 431)


def test_trailers_are_nobodys_headers(gate: Gate) -> None:
    """Straight at the socket: the proxy passes none on."""
    name, value = proof(gate, "carol@example.com")
    head = f"GET /gatehouse/whoami HTTP/1.1\r\nHost: localhost:{gate.port}\r\n{name}: {value}\r\n"
    body = "Transfer-Encoding: chunked\r\n{}\r\n0\r\nX-Forwarded-Email: alice@example.com\r\n\r\n"
    for announced in ("", "Trailer: X-Forwarded-Email\r\n", "X-Forwarded-Email: carol@example.com\r\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(socket_folder(gate) / "mlflow.sock"))
            connection.sendall((head + body.format(announced)).encode())
            answer = connection.recv(65536).decode()
        assert '"email": "alice' not in answer
        assert answer.split()[1] == ("200" if announced.startswith("X-") else "401"), answer
    status, text = straight(gate, (name, value), ("X-Forwarded-Email", "carol@example.com"), ("Trailer", "X"))
    assert (status, "trailers" in str(text)) == (400, True)


# --- The address -----------------------------------------------------------------------------------------------


def test_no_spelling_of_an_upload_empties_or_loses_an_artifact(bob: Client, gate: Gate) -> None:
    """A redirect would be followed with an empty body: the SDK would say nothing, and the artifact would be lost."""
    run = bob.run()
    folder = f"{ARTIFACTS}/0/{run}/artifacts"
    assert bob.call("PUT", f"{folder}/x.txt", data=b"kept").ok
    for name in (
        "d/%2e%2e%2fx.txt",
        "a%2f%2fb.txt",
        "d//c.txt",
        "d/../x.txt",
        "https%3A%2F%2Fexample.com%2Fa.html",
        "./e.txt",
        "what?.txt",
    ):
        request = requests.Request("PUT", gate.url, data=b"whole").prepare()
        request.url = f"{gate.url}{folder}/{name}"
        request.headers.update({"Authorization": str(bob.session.headers["Authorization"])})
        with requests.Session() as session:
            answer = session.send(request, timeout=TIMEOUT_S, allow_redirects=True)
        assert not answer.history, (name, answer.history)
        assert answer.status_code in {200, 400, 404}, (name, answer.text)
    stored = {
        path.name: path.read_bytes() for path in (gate.folder / "artifacts" / "0" / run).rglob("*") if path.is_file()
    }
    assert stored.pop("x.txt") == b"kept"
    assert set(stored.values()) == {b"whole"}, stored
    assert {"b.txt", "c.txt"} <= set(stored), "what has another spelling of a good name is stored whole"


SDK = """
import mlflow, os, sys
from mlflow.exceptions import MlflowException
from requests import HTTPError
mlflow.set_experiment("spelled")
with mlflow.start_run() as run:
    os.makedirs("d"); open("x.txt", "w").write("kept"); mlflow.log_artifact("x.txt")
    for name, folder in (("https%3A%2F%2Fexample.com%2Fa.html", "d"), ("%2e%2e%2fx.txt", "d"), ("a%2f%2fb.txt", None), ("what?.txt", None)):
        open(name, "w").write("whole")
        try:
            mlflow.log_artifact(name, folder)
        except (MlflowException, HTTPError):
            pass
print(run.info.run_id)
"""


def test_the_sdk_stores_whole_or_says_that_it_doesnt(gate: Gate, tmp_path: Path) -> None:
    done = run_sdk(
        gate, SDK, tmp_path, token=gate.provider.token("bob"), variables={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    )
    run = done.stdout.split()[-1]
    roots = [path for path in (gate.folder / "artifacts").rglob(run) if path.is_dir()]
    stored = {path.name: path.read_text() for path in roots[0].rglob("*") if path.is_file()}
    assert stored.pop("x.txt") == "kept"
    assert set(stored.values()) <= {"whole"}, stored


@pytest.mark.parametrize("path", ["/api/2.0//mlflow/experiments/search", "/get-artifact/", "/api/2.0/mlflow/%2e/x"])
def test_no_redirect_answers_a_path_of_the_api(carol: Client, path: str) -> None:
    answer = carol.call("GET", path, allow_redirects=False)
    assert answer.status_code in {400, 404}, (answer.status_code, answer.headers)


def test_a_host_in_another_spelling_is_the_same_host(gate: Gate, carol: Client) -> None:
    for host in (f"LOCALHOST:{gate.port}", f"localhost.:{gate.port}"):
        answer = carol.call("POST", SEARCH, json={"experiment_ids": ["0"]}, headers={"Host": host})
        assert answer.status_code == 200, answer.text
    answer = carol.call("POST", SEARCH, json={"experiment_ids": ["0"]}, headers={"Host": "evil.example"})
    assert answer.status_code == 403


def test_a_digest_is_compared_in_each_of_its_forms(bob: Client) -> None:
    import base64
    import hashlib

    good, other = (base64.b64encode(hashlib.sha256(data).digest()).decode() for data in (b"x", b"y"))
    for headers, status in (
        ({"Digest": f"unixsum=1, SHA-256={good}"}, 200),
        ({"Digest": f"sha-256={other}"}, 400),
        ({"Content-Digest": f"sha-256=:{good}:"}, 200),
        ({"Repr-Digest": f"sha-512=:AAAA:, sha-256=:{good}:"}, 400),
        ({"Digest": f"sha-256={good},sha-256={other}"}, 400),
        ({"Digest": "nonsense"}, 200),
    ):
        answer = bob.call("PUT", f"{ARTIFACTS}/0/digest.txt", data=b"x", headers=headers)
        assert answer.status_code == status, (headers, answer.text)
