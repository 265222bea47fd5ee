"""The set-ups that are compared: the plain one as people copy it, the same at its best, and Gatehouse."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests

from bench import environments
from local.proxy_binary import ROOT, find_or_build
from local.run import CLIENT_ID
from tests.support import COOKIE_SECRET, Provider, free_port

READY_LIMIT_S = 120
FASTTRACKML = "FastTrackML"


@dataclass
class SetUp:
    """One way to run MLflow behind oauth2-proxy: a command and its environment."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def start(self, log: Path, token: str) -> float:
        """Start it; return the seconds until the first authenticated 200 of a call that reads the database."""
        started = time.perf_counter()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        process = self.process
        if self.answers(token, started + READY_LIMIT_S, lambda: process.poll() is None):
            return time.perf_counter() - started
        raise RuntimeError(f"{self.name} isn't ready after {READY_LIMIT_S} s\n{log.read_text()[-3000:]}")

    def answers(self, token: str, deadline: float, is_alive: Callable[[], bool]) -> bool:
        """Wait for the first authenticated 200 of a call that reads the database; tell whether it came.

        ``deadline`` is in seconds of time.perf_counter(); ``is_alive`` tells whether waiting makes sense.
        """
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {token}"
        while time.perf_counter() < deadline:
            try:
                answer = session.get(f"{self.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=10)
                if answer.status_code == 200:
                    return True
            except requests.RequestException:
                pass
            if not is_alive():
                return False
            time.sleep(0.01)
        return False

    def processes(self) -> set[int]:
        """Return the ids of its processes."""
        if self.process is None:
            return set()
        listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
        found = {self.process.pid}
        while more := {pid for pid, parent in pairs if parent in found} - found:
            found |= more
        return found

    @property
    def is_gatehouse(self) -> bool:
        """Whether it is Gatehouse, which has an image of its own and can be reached without its proxy."""
        return bool(self.command) and self.command[0].endswith("start.sh")

    def run_directory(self) -> Path:
        """Return the private folder of a running Gatehouse, where MLflow's socket and the proxy's proof are."""
        for pid in self.processes():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"--run-directory" in words:
                return Path(os.fsdecode(words[words.index(b"--run-directory") + 1]))
        raise RuntimeError(f"{self.name} has no process of gatehouse")

    def proof(self) -> bytes:
        """Return the value by which oauth2-proxy proves itself to MLflow's side."""
        name = b"OAUTH2_PROXY_BASIC_AUTH_PASSWORD="
        for pid in self.processes():
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(name):
                    return entry.removeprefix(name)
        raise RuntimeError(f"{self.name} has no process of oauth2-proxy")

    def memory(self) -> float:
        """Return the proportional set size of all its processes, in MiB (proc(5), smaps_rollup)."""
        total = 0
        for pid in self.processes():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def stop(self) -> None:
        """End every process of it."""
        pids = self.processes()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        # Only then are its ports free, and nothing of it answers any more.
        while any(is_running(pid) for pid in pids):
            time.sleep(0.02)
        self.process = None


def is_running(pid: int) -> bool:
    """Tell whether a process is there and holds anything: one that waits to be reaped doesn't (proc(5), stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def fasttrackml(database: str, folder: Path) -> SetUp:
    """Return FastTrackML, a tracking server in Go with MLflow's API of version 2:

    without a proxy, and so without a sign-in.
    """
    port = free_port()
    program = environments.install("fasttrackml") / "fml"
    options = [
        f"--database-uri={database.replace('postgresql:', 'postgres:')}?sslmode=disable",
        f"--listen-address=127.0.0.1:{port}",
        f"--default-artifact-root={folder / 'artifacts'}",
        "--log-level=warn",
    ]
    return SetUp(
        FASTTRACKML, [str(program), "server", *options], {"HOME": str(folder), "PATH": os.environ["PATH"]}, port
    )


def proxy_settings(provider: Provider, port: int) -> dict[str, str]:
    """Return the proxy's settings, the same for every set-up: discovery is skipped for all."""
    return {
        "OAUTH2_PROXY_PROVIDER": "oidc",
        "OAUTH2_PROXY_OIDC_ISSUER_URL": provider.issuer,
        "OAUTH2_PROXY_SKIP_OIDC_DISCOVERY": "true",
        "OAUTH2_PROXY_LOGIN_URL": f"{provider.issuer}/oauth2/authorize",
        "OAUTH2_PROXY_REDEEM_URL": f"{provider.issuer}/oauth2/token",
        "OAUTH2_PROXY_OIDC_JWKS_URL": f"{provider.issuer}/jwks",
        "OAUTH2_PROXY_CLIENT_ID": CLIENT_ID,
        "OAUTH2_PROXY_CLIENT_SECRET": "local",
        "OAUTH2_PROXY_COOKIE_SECRET": COOKIE_SECRET,
        "OAUTH2_PROXY_COOKIE_SECURE": "false",
        "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
        "OAUTH2_PROXY_SKIP_JWT_BEARER_TOKENS": "true",
        "OAUTH2_PROXY_REQUEST_LOGGING": "false",
        "OAUTH2_PROXY_AUTH_LOGGING": "false",
        "OAUTH2_PROXY_HTTP_ADDRESS": f"127.0.0.1:{port}",
        "OAUTH2_PROXY_REDIRECT_URL": f"http://localhost:{port}/oauth2/callback",
    }


def base_environment(programs: Path) -> dict[str, str]:
    """Return what every set-up needs to find its programs: Python's, the proxy, the system's."""
    proxy = find_or_build(lambda _: None)
    path = os.pathsep.join([str(programs), str(proxy.parent), os.environ["PATH"]])
    return {"PATH": path, "HOME": "/tmp", "LANG": "C.UTF-8"}


def plain(name: str, options: str, database: str, folder: Path, provider: Provider, **environment: str) -> SetUp:
    """Return the plain set-up."""
    port, upstream = free_port(), free_port()
    settings = {
        **base_environment(environments.install("plain")),
        **proxy_settings(provider, port),
        "PORT": str(port),
        "MLFLOW_PORT": str(upstream),
        "BACKEND_STORE_URI": database.replace("postgresql:", "postgresql+psycopg2:"),
        "ARTIFACTS": str(folder / "artifacts"),
        "MLFLOW_OPTIONS": options,
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost:{port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **environment,
    }
    return SetUp(name, ["bash", str(ROOT / "bench" / "plain.sh")], settings, port)


def gatehouse(name: str, workers: int | None, database: str, folder: Path, provider: Provider) -> SetUp:
    """Return Gatehouse, with as many workers as it chooses by itself unless a number is given."""
    port = free_port()
    settings = {
        **base_environment(environments.install_gatehouse()),
        **proxy_settings(provider, port),
        "PORT": str(port),
        "PUBLIC_URL": f"http://localhost:{port}",
        "BACKEND_STORE_URI": database,
        "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
    }
    if workers is not None:
        settings["WORKERS"] = str(workers)
    return SetUp(name, [str(ROOT / "start.sh")], settings, port)
