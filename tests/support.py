"""The real parts that tests start: PostgreSQL, the local OpenID provider, and the gate itself by its start.sh."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from local import provider as local_provider
from local.go_program import ROOT, build, digest
from local.listener_binary import find_or_build_listener
from local.proxy_binary import find_or_build
from local.run import CLIENT_ID
from local.token import identity_token

ON_CI = os.environ.get("CI") == "true"
START_LIMIT_S = 90
COOKIE_SECRET = "0123456789abcdef0123456789abcdef"


def missing(part: str, fix: str) -> None:
    """Fail on CI, where every part must be there; skip on a laptop, with the way to get it."""
    if ON_CI:
        pytest.fail(f"{part} is missing, and CI must have it")
    pytest.skip(f"{part} is missing; fix: {fix}")


def go_program(name: str, package: str, folder: Path) -> Path:
    """Return a program that tests need, built once for each state of the pins in ``folder``."""
    target = ROOT / ".build" / f"{name}-{digest([folder / 'go.mod', folder / 'go.sum'])}" / name
    if not target.exists() and not shutil.which("go"):
        missing(f"Go, which builds {name}", "install Go 1.26 or newer")
    return build(name, package, folder, target, lambda _: None)


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = 30, logs: Callable[[], str] = str) -> Any:
    """Return the first true value of ``condition``; fail with the logs once ``limit_s`` seconds have passed."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {limit_s} s for {what}\n{logs()}")


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Provider:
    """The local OpenID provider, as `make run` starts it."""

    def __init__(self, token_life_s: int = 3600) -> None:
        command = [sys.executable, "-m", "local.provider", "--token-life", str(token_life_s)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.issuer = self.process.stdout.readline().strip()
        assert self.issuer, "the local provider didn't start"

    def token(self, person: str = "alice", audience: str = CLIENT_ID) -> str:
        """Return an identity token of a person, by default for the gate's client."""
        return self.token_of(local_provider.email(person), audience)

    def token_of(self, subject: str, audience: str = CLIENT_ID) -> str:
        """Return an identity token of any subject."""
        return identity_token(self.issuer, audience, subject)

    def claims(self, subject: str, **claims: object) -> None:
        """Set what the provider says of a subject; ``exp`` and the like replace the token's own."""
        answer = requests.put(f"{self.issuer}/users/{subject}", json=claims, timeout=10)
        answer.raise_for_status()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class Postgres:
    """A PostgreSQL server of the tests' own, on a Unix socket and a free port of loopback."""

    def __init__(self) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        if not binaries and not shutil.which("initdb"):
            missing("PostgreSQL", "apt-get install postgresql")
        self.bin = binaries[-1] if binaries else Path(str(shutil.which("initdb"))).parent
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self.port = free_port()
        # PostgreSQL refuses to run as root; Debian's package brings a user for it.
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
        self.folder.chmod(0o755)
        self._run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "gatehouse",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C.UTF-8",
        )
        # Cloud SQL's socket has PostgreSQL's usual name, whatever its port: so has this one, for containers that mount
        # it.
        (self.folder / ".s.PGSQL.5432").symlink_to(f".s.PGSQL.{self.port}")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self.bin / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        options = (
            f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200 -c "
            "unix_socket_permissions=0777"
        )
        # Without its own output, so that the server keeps no pipe of ours open.
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run SQL as the superuser; return the rows, fields separated by ``|``."""
        return self._run(
            "psql",
            "-h",
            str(self.folder),
            "-p",
            str(self.port),
            "-U",
            "gatehouse",
            "-d",
            database,
            "-v",
            "ON_ERROR_STOP=1",
            "-At",
            "-c",
            statement,
        ).rstrip("\n")

    def create(self, name: str) -> str:
        """Create an empty database; return its URL over TCP."""
        self.sql(f'CREATE DATABASE "{name}"')
        return f"postgresql://gatehouse:unused@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


class Gate:
    """start.sh in a process of its own, with its log in a file."""

    def __init__(self, folder: Path, issuer: Provider, **environment: str) -> None:
        self.provider = issuer
        self.folder = folder
        port = environment.get("PORT", "")
        self.port = int(port) if port.isdigit() else free_port()
        self.url = f"http://localhost:{self.port}"
        self.log_path = folder / "gate.log"
        folder.mkdir(parents=True, exist_ok=True)
        programs = [Path(sys.executable), find_or_build(lambda _: None)]
        if environment.get("HTTP2") == "true":
            programs.append(find_or_build_listener(lambda _: None))
        defaults = {
            "PATH": os.pathsep.join([*(str(program.parent) for program in programs), os.environ["PATH"]]),
            "HOME": str(folder),
            "PORT": str(self.port),
            "PUBLIC_URL": self.url,
            "BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "OAUTH2_PROXY_PROVIDER": "oidc",
            "OAUTH2_PROXY_OIDC_ISSUER_URL": issuer.issuer,
            "OAUTH2_PROXY_CLIENT_ID": CLIENT_ID,
            "OAUTH2_PROXY_CLIENT_SECRET": "local",
            "OAUTH2_PROXY_COOKIE_SECRET": COOKIE_SECRET,
            "OAUTH2_PROXY_EMAIL_DOMAINS": local_provider.DOMAIN,
            "OAUTH2_PROXY_HTTP_ADDRESS": f"127.0.0.1:{self.port}",
        }
        # An empty value takes a default away.
        self.environment = {name: value for name, value in {**defaults, **environment}.items() if value}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Gate:
        """Start it without waiting."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [str(ROOT / "start.sh")],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        return self

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> Gate:
        """Wait until the public port answers; fail with the log if it ends instead."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the gate ended with {self.process.returncode}\n{self.log()}"
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.url}/ping", timeout=2).ok
            return False

        wait_for(ready, "the gate", limit_s, self.log)
        return self

    def wait_end(self, limit_s: float = START_LIMIT_S) -> int:
        """Wait until it has ended; return the exit code."""
        assert self.process is not None
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the gate is still there after {limit_s} s\n{self.log()}") from None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def children(self) -> dict[str, int]:
        """Return the process ids of start.sh's children by the part's name; MLflow's first worker is the ``server``."""
        assert self.process is not None
        listing = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        found: dict[str, int] = {}
        workers = -1
        for line in listing.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            if "gatehouse serve" in command:
                workers += 1
                found[f"worker {workers}" if workers else "server"] = int(pid)
            elif "gatehouse monitor" in command:
                found["monitor"] = int(pid)
            elif "mlflow.server.jobs" in command:
                found["runner"] = int(pid)
            elif "gatehouse-listener" in command:
                found["listener"] = int(pid)
            elif "oauth2-proxy" in command:
                found["proxy"] = int(pid)
        return found

    def session(self, person: str = "alice") -> requests.Session:
        """Return an HTTP session that sends a person's token."""
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.provider.token(person)}"
        return session

    def sign_in(self, person: str = "alice") -> requests.Session:
        """Sign a person in as a browser does, but for its rules on cookies.

        Return a session that sends what the gate set.
        """
        origin = self.environment.get("PUBLIC_URL", self.url)
        session = requests.Session()
        session.headers["Host"] = urlsplit(origin).netloc
        start = session.get(f"{self.url}/oauth2/start?rd=%2F", allow_redirects=False, timeout=20)
        assert start.status_code == 302, f"{start.status_code} {start.text}\n{self.log()}"
        form = {"sub": local_provider.email(person)}
        back = requests.post(start.headers["location"], data=form, allow_redirects=False, timeout=20)
        callback = back.headers["location"].replace(origin, self.url, 1)
        done = session.get(callback, headers={"Cookie": _cookie_header(start)}, allow_redirects=False, timeout=20)
        assert done.status_code == 302, f"{done.status_code} {done.text}\n{self.log()}"
        session.headers["Cookie"] = _cookie_header(done)
        session.cookies.clear()
        return session

    def stop(self) -> int:
        """Send TERM if it still runs; return the exit code. Nothing of its process group outlives this."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in self.children().values():
                os.kill(pid, signal.SIGKILL)
            self.process.kill()
            raise AssertionError(f"the gate didn't stop\n{self.log()}") from None


def _cookie_header(answer: requests.Response) -> str:
    """Return what an answer sets, as the Cookie header of the next request; what it deletes is left out."""
    lines = answer.raw.headers.getlist("set-cookie")
    pairs = [line.partition(";")[0] for line in lines]
    return "; ".join(pair for pair in pairs if pair.partition("=")[2])


def run_sdk(
    gate: Gate,
    script: str,
    folder: Path,
    *arguments: str,
    token: str | None,
    variables: Mapping[str, str] = MappingProxyType({}),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a script with MLflow's unmodified SDK, in a process, a folder and a home of its own.

    Args:
        token: what it sends, or None to come as a stranger.
        variables: of its environment, beside the server's address.
        check: whether it must end well.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "MLFLOW_TRACKING_URI": gate.url, **variables}
    if token is not None:
        environment["MLFLOW_TRACKING_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr + gate.log()
    return done


@contextlib.contextmanager
def running(gate: Gate) -> Iterator[Gate]:
    """Start a gate, wait until it is ready, stop it at the end."""
    try:
        yield gate.start().wait_ready()
    finally:
        gate.stop()
