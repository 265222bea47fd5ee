"""What holds on Azure alone: rights and credentials by name, identities, addresses."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jwt
import pytest
import requests
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from gatehouse.artifacts.stores.azure import BLOCK, AzureStore
from gatehouse.artifacts.stores.base import CannotSign, Denied, StoreError
from tests.artifacts.object_stores import ACCOUNT, BUCKET, Server, azure_server

CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
IDENTITY_SECRET = "of-the-platform"
LIFE_S = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with azure_server(tmp_path_factory.mktemp("azure")) as part:
        yield part


@pytest.fixture
def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> AzureStore:
    monkeypatch.setenv(CONNECTION, server.environment[CONNECTION])
    return AzureStore(server.destination)


def connection(server: Server) -> dict[str, str]:
    return dict(part.split("=", 1) for part in server.environment[CONNECTION].split(";"))


def with_signature(server: Server, permission: ContainerSasPermissions) -> str:
    """Return a connection string that may do only what ``permission`` says."""
    token = generate_container_sas(
        ACCOUNT,
        BUCKET,
        account_key=connection(server)["AccountKey"],
        permission=permission,
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )
    return f"BlobEndpoint={connection(server)['BlobEndpoint']};SharedAccessSignature={token}"


def test_a_look_at_the_rights_writes_nothing(store: AzureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AzureStore, "create", lambda *_: pytest.fail("an object was written"))
    before = list(store.list(""))
    store.check()
    assert list(store.list("")) == before


@pytest.mark.parametrize(
    ("granted", "right"),
    [
        (ContainerSasPermissions(write=True, delete=True, read=True), "blobs/read"),
        (ContainerSasPermissions(list=True, write=True, read=True), "blobs/delete"),
        (ContainerSasPermissions(list=True, delete=True, read=True), "blobs/write"),
        (ContainerSasPermissions(list=True, delete=True, write=True), "blobs/read"),
    ],
    ids=["list", "delete", "write", "read"],
)
def test_a_missing_right_is_found_and_named_and_nothing_is_left(
    granted: ContainerSasPermissions, right: str, server: Server, store: AzureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(store.list(""))
    monkeypatch.setenv(CONNECTION, with_signature(server, granted))
    with pytest.raises(Denied, match=rf"may not Microsoft\.Storage.*{right} on the container {BUCKET}"):
        AzureStore(server.destination).check()
    assert list(store.list("")) == before


def test_a_shared_access_signature_serves_and_cant_sign(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ContainerSasPermissions(list=True, read=True, write=True, delete=True, create=True)
    monkeypatch.setenv(CONNECTION, with_signature(server, everything))
    store = AzureStore(server.destination)
    store.check()
    with pytest.raises(CannotSign, match="through the server"):
        store.sign_download("model.bin", LIFE_S)
    with pytest.raises(CannotSign, match="through the server"):
        store.begin_multipart("model.bin", 2, LIFE_S)


def test_a_wrong_key_is_named_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = base64.b64encode(b"another key").decode()
    right = connection(server)["AccountKey"]
    monkeypatch.setenv(CONNECTION, server.environment[CONNECTION].replace(right, wrong))
    with pytest.raises(Denied, match="check AZURE_STORAGE_CONNECTION_STRING") as caught:
        AzureStore(server.destination).check()
    assert wrong not in str(caught.value)
    assert right not in str(caught.value)


@pytest.mark.parametrize("text", ["nonsense", "AccountKey=c2VjcmV0", "BlobEndpoint"])
def test_a_malformed_connection_string_is_refused_and_never_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION, text)
    with pytest.raises(StoreError, match="isn't a connection string") as caught:
        AzureStore(f"wasbs://{BUCKET}@account.blob.core.windows.net/mlflow")
    assert text not in str(caught.value)


def test_a_container_that_isnt_there_is_named(server: Server, store: AzureStore) -> None:  # noqa: ARG001
    with pytest.raises(StoreError, match="There is no container nowhere; create it"):
        AzureStore(server.destination.replace(BUCKET, "nowhere")).check()


@pytest.mark.parametrize("destination", ["wasbs://container/path", "abfss://@account.dfs.core.windows.net/x"])
def test_an_address_without_container_or_account_is_refused_with_its_form(destination: str) -> None:
    with pytest.raises(StoreError, match=r"://CONTAINER@ACCOUNT\.(blob|dfs)\.core\.windows\.net/PATH"):
        AzureStore(destination)


@pytest.mark.parametrize(
    ("destination", "address"),
    [
        ("wasbs://c@account.blob.core.windows.net/a/b", "https://account.blob.core.windows.net/c/a/b/model%201.bin"),
        ("abfss://c@account.dfs.core.windows.net/a/b", "https://account.blob.core.windows.net/c/a/b/model%201.bin"),
        ("wasbs://c@account.blob.core.chinacloudapi.cn", "https://account.blob.core.chinacloudapi.cn/c/model%201.bin"),
    ],
)
def test_an_artifact_lies_where_mlflow_would_put_it(
    destination: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CONNECTION, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", base64.b64encode(b"key").decode())
    signed = AzureStore(destination).sign_download("model 1.bin", LIFE_S)
    assert signed.url.partition("?")[0] == address
    assert "spr=https" in signed.url, "a signed address holds over TLS alone"


def test_blocks_of_an_interrupted_upload_are_nobodys_artifact(server: Server, store: AzureStore) -> None:
    sink = store.create("interrupted.bin")
    sink.write(bytes(2 * BLOCK + 1))
    sink.abort()
    assert "interrupted.bin" not in [entry.name for entry in store.list("")]
    with BlobServiceClient.from_connection_string(server.environment[CONNECTION]) as client:
        blob = client.get_blob_client(BUCKET, "mlflow/interrupted.bin")
        committed, waiting = blob.get_block_list("all")
    assert (len(committed), len(waiting)) == (0, 2), "the service alone drops them"


# A managed identity, as a platform gives it: an address in the environment that hands out tokens.


class Identity(BaseHTTPRequestHandler):
    """The token endpoint of App Service and Container Apps
    (learn.microsoft.com/azure/app-service/overview-managed-identity).
    """

    def do_GET(self) -> None:
        allowed = self.headers.get("X-IDENTITY-HEADER") == IDENTITY_SECRET
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/11111111-1111-1111-1111-111111111111/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
            "oid": "22222222-2222-2222-2222-222222222222",
            "tid": "11111111-1111-1111-1111-111111111111",
        }
        token = jwt.encode(claims, "a key that Azurite doesn't look at, long enough", algorithm="HS256")
        answer = {
            "access_token": token,
            "expires_on": str(now + 3600),
            "resource": claims["aud"],
            "token_type": "Bearer",
        }
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer if allowed else {}).encode())

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""


@pytest.fixture(scope="module")
def identity() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Identity) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{endpoint.server_port}/token"
        endpoint.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of loopback and its key: tokens are sent over TLS alone."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def guarded(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Azurite with TLS, which takes tokens."""
    with azure_server(tmp_path_factory.mktemp("guarded"), tls=certificate) as part:
        yield part


@pytest.fixture
def with_identity(
    guarded: Server, identity: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The environment of a server that has nothing but its platform's identity."""
    monkeypatch.setenv(CONNECTION, f"BlobEndpoint={connection(guarded)['BlobEndpoint']}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    monkeypatch.setenv("IDENTITY_ENDPOINT", identity)
    monkeypatch.setenv("IDENTITY_HEADER", IDENTITY_SECRET)
    return monkeypatch


@pytest.mark.usefixtures("with_identity")
def test_a_managed_identity_reads_and_writes_without_any_key(guarded: Server) -> None:
    AzureStore(guarded.destination).check()


@pytest.mark.usefixtures("with_identity")
def test_a_managed_identity_signs_in_its_own_name(guarded: Server, certificate: tuple[Path, Path]) -> None:
    store = AzureStore(guarded.destination)
    upload = store.begin_multipart("signed.bin", 2, LIFE_S)
    for part in upload.parts:
        assert requests.put(part.url, data=b"half", verify=str(certificate[0]), timeout=30).status_code == 201
    store.complete_multipart("signed.bin", upload.upload_id, ["", ""])
    signed = store.sign_download("signed.bin", LIFE_S)
    assert "skoid=22222222" in signed.url, "signed by a user delegation key"
    answer = requests.get(signed.url, verify=str(certificate[0]), timeout=30)
    assert (answer.status_code, answer.content) == (200, b"halfhalf")


def test_an_identity_that_the_platform_refuses_is_said(guarded: Server, with_identity: pytest.MonkeyPatch) -> None:
    with_identity.setattr("gatehouse.artifacts.stores.azure.RETRIES", 0)
    with_identity.setenv("IDENTITY_HEADER", "wrong")
    with pytest.raises(Denied, match="no Azure credentials that can be used"):
        AzureStore(guarded.destination).check()
