"""Real object stores for the tests: an S3 server (versitygw), and Azurite, Microsoft's own emulator of Azure's blobs.

Each is built once, from its pin in ``servers/``, and kept in ``.build``.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.node import node, packages
from tests.support import free_port, go_program, wait_for

SERVERS = Path(__file__).parent / "servers"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw"
BUCKET = "artifacts"
#: An account of Azurite, with a key made anew each time.
ACCOUNT = "devstoreaccount1"
#: What a developer's machine has of its own must not decide a test.
NOTHING_ELSE = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def versitygw() -> Path:
    """Return the S3 server's program, built once for each state of its pins."""
    return go_program("versitygw", VERSITYGW, SERVERS / "s3")


def azurite() -> list[str]:
    """Return the command of Azurite, which npm installs in half a minute."""
    made = packages("azurite", SERVERS / "azure", "--omit=dev")
    return [str(node()), str(made / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js")]


@dataclass
class Server:
    """A running object store: where artifacts go, and the environment that Gatehouse reaches it with."""

    command: list[str]
    port: int
    folder: Path
    destination: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the same port and with the same data as before, and wait until it listens."""
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output, cwd=self.folder)

        def listens() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended with {self.process.returncode}\n{log.read_text()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        wait_for(listens, self.command[0], 60, log.read_text)

    def names(self) -> list[str]:
        """Return the names of all blobs, by the account's own key."""
        from azure.storage.blob import ContainerClient

        text = self.environment["AZURE_STORAGE_CONNECTION_STRING"]
        with ContainerClient.from_connection_string(text, BUCKET) as container:
            return [blob.name for blob in container.list_blobs()]

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    server.folder.mkdir(parents=True, exist_ok=True)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Run an S3 server with a bucket; its data are plain files in ``folder/data``."""
    port, access, secret = free_port(), "gatehouse", secrets.token_hex(16)
    (folder / "data" / BUCKET).mkdir(parents=True)
    (folder / "iam").mkdir()
    command = [str(versitygw()), "--access", access, "--secret", secret, "--port", f"127.0.0.1:{port}", "--keep-alive"]
    command += ["--iam-dir", str(folder / "iam"), "--iam-cache-disable", "posix", str(folder / "data")]
    destination = f"s3://{BUCKET}/mlflow"
    environment = {
        **NOTHING_ELSE,
        "ARTIFACTS_DESTINATION": destination,
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    with _running(Server(command, port, folder, destination, environment)) as server:
        yield server


@contextlib.contextmanager
def azure_server(folder: Path, tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Run Azurite with a container.

    With a certificate and its key it serves TLS, and takes tokens as well as its account's key.
    """
    from azure.storage.blob import BlobServiceClient

    port, key = free_port(), base64.b64encode(secrets.token_bytes(32)).decode()
    data = folder / "data"
    data.mkdir(parents=True)
    command = [*azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(data)]
    if tls:
        command += ["--oauth", "basic", "--cert", str(tls[0]), "--key", str(tls[1])]
    command += ["--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    scheme = "https" if tls else "http"
    endpoint = f"{scheme}://127.0.0.1:{port}/{ACCOUNT}"
    text = f"DefaultEndpointsProtocol={scheme};AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint}"
    destination = f"wasbs://{BUCKET}@{ACCOUNT}.blob.core.windows.net/mlflow"
    environment = {"ARTIFACTS_DESTINATION": destination, "AZURE_STORAGE_CONNECTION_STRING": text}
    server = Server(["env", f"AZURITE_ACCOUNTS={ACCOUNT}:{key}", *command], port, folder, destination, environment)
    with _running(server):
        with BlobServiceClient.from_connection_string(text, connection_verify=str(tls[0]) if tls else True) as client:
            client.create_container(BUCKET)
        yield server


class Meddler:
    """A way to a server that isn't true: it changes bytes to the server, or from it, or cuts the connection."""

    def __init__(self, port: int) -> None:
        self.up: tuple[bytes, bytes] | None = None
        self.down: tuple[bytes, bytes] | None = None
        #: Bytes that the next answers together may have before the connection is cut, once.
        self.cut_after: int | None = None
        self.cuts = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                change = self.down if down else self.up
                target.sendall(data.replace(*change) if change else data)
                if down and self.cut_after is not None:
                    self.cut_after -= len(data)
                    if self.cut_after <= 0:
                        self.cut_after, self.cuts = None, self.cuts + 1
                        break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


if __name__ == "__main__":
    # All that tests of artifacts need, made before them: `.ci/run` does, and so no test waits for a compiler.
    from tests.artifacts.google_server import find_or_build

    for made in (find_or_build(), versitygw(), azurite()[-1]):
        print(made)
