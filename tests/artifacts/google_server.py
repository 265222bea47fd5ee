"""A real object-store server that speaks Cloud Storage's JSON API: fake-gcs-server, built with Go at the version that
servers/go.mod pins."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.support import free_port, go_program, wait_for

MODULE = "github.com/fsouza/fake-gcs-server"
FOLDER = Path(__file__).parent / "servers"


def find_or_build() -> Path:
    """Return the server's program, built once for each state of its pins."""
    return go_program("fake-gcs-server", MODULE, FOLDER)


class GoogleServer:
    """The server with one bucket, ``artifacts``; its objects are in memory."""

    def __init__(self, listen: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.url = f"http://{listen}:{self.port}"
        self.destination = "gs://artifacts/mlflow"
        self.log = tempfile.NamedTemporaryFile(prefix="fake-gcs-")  # noqa: SIM115 - as long as the server
        self._command = [str(find_or_build()), "-scheme", "http", "-host", listen, "-port", str(self.port)]
        self._command += ["-backend", "memory", "-data", "", "-log-level", "error"]
        self.process = self._start()

    @property
    def environment(self) -> dict[str, str]:
        """What the server of artifacts needs in its environment."""
        return {"ARTIFACTS_DESTINATION": self.destination, "STORAGE_EMULATOR_HOST": self.url}

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdout=self.log, stderr=self.log)
        api = f"{self.url}/storage/v1/b"

        def answers() -> bool:
            assert process.poll() is None, Path(self.log.name).read_text()
            with contextlib.suppress(requests.RequestException):
                return requests.get(api, timeout=2).ok
            return False

        wait_for(answers, "fake-gcs-server")
        requests.post(api, json={"name": "artifacts"}, timeout=10).raise_for_status()
        return process

    def names(self) -> list[str]:
        """Return the names of all objects."""
        found = requests.get(f"{self.url}/storage/v1/b/artifacts/o", timeout=10).json()
        return [item["name"] for item in found.get("items", [])]

    def kill(self) -> None:
        """Kill -9: all that it had in memory is gone."""
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> None:
        """Start it again on the same port, empty."""
        self.process = self._start()


@contextlib.contextmanager
def google_server() -> Iterator[GoogleServer]:
    """Run the server; stop it at the end."""
    server = GoogleServer()
    try:
        yield server
    finally:
        server.kill()
