"""What the tests of the container are made of: the engine, containers of the image, the provider in one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import requests
from docker.models.containers import Container

from local.provider import email
from local.proxy_binary import ROOT
from local.run import CLIENT_ID
from local.token import identity_token
from tests.support import Postgres, free_port, missing, wait_for

GATEHOUSE = "gatehouse:dev"
PROVIDER = "gatehouse-provider:dev"
PORT = 8080
BUILD_LIMIT_S = 1200
START_LIMIT_S = 120
FIX = "tests/container/engine.sh up, as root on Debian; elsewhere, install Docker"
#: What engine.sh had to make.
MADE = ROOT / ".build" / "engine"

#: Linux's request for an interface's IPv4 address (netdevice(7)).
SIOCGIFADDR = 0x8915

#: Where Cloud Run mounts a Cloud SQL instance's socket.
CLOUD_SQL = "/cloudsql/project:region:instance"
#: A user that the image knows nothing of.
SOME_USER = "54321:54321"
#: The least that a platform gives, and the most that it takes away.
HARDENED: dict[str, Any] = {
    "user": SOME_USER,
    "read_only": True,
    "tmpfs": {"/tmp": "size=64m"},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "mem_limit": "512m",
    "memswap_limit": "512m",
    "nano_cpus": 10**9,
}


def connect() -> Any:
    """Return the engine's client; without an engine, skip on a laptop and fail on CI."""
    try:
        engine = docker.from_env(timeout=120)
        engine.ping()
    except docker.errors.DockerException as error:
        missing(f"a Docker engine ({error})", FIX)
    return engine


def address_on_bridge(engine: Any) -> str:
    """Return this machine's address on the engine's default network, at which its containers reach it.

    The interface has it always; the network's own description lacks the gateway after an engine's very first start.
    """
    options = engine.networks.get("bridge").attrs["Options"]
    name = options["com.docker.network.bridge.name"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
    return socket.inet_ntoa(answer[20:24])


def base_image() -> str:
    """Return the base image to build on where the pinned one can't be pulled, else the empty string."""
    made = MADE / "base"
    return os.environ.get("DEBIAN") or (made.read_text().strip() if made.exists() else "")


def build_images() -> None:
    """Build Gatehouse's image and the provider's. Where their layers are cached, that takes a second or two."""
    base = base_image()
    provider = ["docker", "build", "--file", "local/Dockerfile", "--tag", PROVIDER]
    provider += ["--build-arg", f"DEBIAN={base}"] if base else []
    for command in (["make", "--silent", "image", f"IMAGE={GATEHOUSE}"], [*provider, "."]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
        assert done.returncode == 0, (
            f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}\nfix, where no image can be pulled: {FIX}"
        )


def inside(script: str) -> str:
    """Return the text of a script that runs in a container."""
    return (Path(__file__).parent / "inside" / f"{script}.py").read_text()


def settings(**environment: str) -> dict[str, str]:
    """Return settings with Google as the provider: no network is needed. An empty value takes one away."""
    defaults = {
        "PUBLIC_URL": "https://mlflow.example.com",
        "ARTIFACTS_DESTINATION": "/tmp/artifacts",
        "OAUTH2_PROXY_CLIENT_ID": "client",
        "OAUTH2_PROXY_CLIENT_SECRET": "client-" + secrets.token_hex(8),
        "OAUTH2_PROXY_COOKIE_SECRET": secrets.token_hex(16),
        "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
    }
    return {name: value for name, value in {**defaults, **environment}.items() if value}


def socket_mount(postgres: Postgres) -> docker.types.Mount:
    """Return the mount that shows a PostgreSQL's socket as Cloud Run shows Cloud SQL's."""
    return docker.types.Mount(CLOUD_SQL, str(postgres.folder), type="bind", read_only=True)


def socket_url(database: str, user: str = "gatehouse:unused") -> str:
    """Return the URL of a database behind that socket; ``user`` is a name and a password, quoted."""
    return f"postgresql+psycopg2://{user}@/{database}?host={CLOUD_SQL}"


@dataclass
class Box:
    """A container of the image, from `docker run` to its end."""

    container: Container
    url: str = ""
    secrets: list[str] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        self.container.reload()
        return dict(self.container.attrs["State"])

    def log(self) -> str:
        return bytes(self.container.logs()).decode(errors="replace")

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> Box:
        """Wait until the public port answers; fail with the log if the container ends instead."""

        def ready() -> bool:
            state = self.state()
            assert state["Status"] in {"created", "running"}, f"ended with {state['ExitCode']}\n{self.log()}"
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.url}/ping", timeout=2).ok
            return False

        wait_for(ready, "the container to be ready", limit_s, self.log)
        return self

    def wait_end(self, limit_s: float = START_LIMIT_S) -> int:
        """Wait until it has ended; return the exit code."""
        wait_for(lambda: self.state()["Status"] == "exited", "the container to end", limit_s, self.log)
        return int(self.state()["ExitCode"])

    def run(self, *command: str, user: str = "") -> str:
        """Run a command in the running container; return what it prints."""
        done = self.container.exec_run(list(command), user=user)
        output = b"".join([done.output] if isinstance(done.output, bytes) else done.output).decode(errors="replace")
        assert done.exit_code == 0, f"{command}: {done.exit_code}\n{output}"
        return output

    def process(self, name: str) -> int:
        """Return the process id, as the container counts, of the first process that ``name`` is part of."""
        return int(self.run("python3", "-c", inside("process"), name))

    def listening(self) -> set[tuple[str, int]]:
        """Return the address and port of every TCP socket that listens in the container's network."""
        found = set()
        for line in self.run("bash", "-c", "cat /proc/net/tcp /proc/net/tcp6").splitlines():
            match = re.match(r"\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ 0A ", line)
            if match:
                found.add((match[1], int(match[2], 16)))
        return found


@dataclass
class Engine:
    """Starts containers, and removes every one of them at the end."""

    client: Any
    boxes: list[Box] = field(default_factory=list)
    volumes: list[Any] = field(default_factory=list)

    def start(self, *command: str, environment: dict[str, str], image: str = GATEHOUSE, **options: Any) -> Box:
        """Start a container, by default with $PORT published on a free port of loopback."""
        environment = {"PORT": str(PORT), **environment}
        if "network_mode" not in options:
            options.setdefault("ports", {f"{environment['PORT']}/tcp": ("127.0.0.1", None)})
        container = self.client.containers.create(image, list(command), environment=environment, **options)
        box = Box(container)
        self.boxes.append(box)
        box.secrets = [value for name, value in environment.items() if "SECRET" in name]
        container.start()
        container.reload()
        bindings = container.attrs["NetworkSettings"]["Ports"].get(f"{environment['PORT']}/tcp")
        if bindings:
            box.url = f"http://localhost:{bindings[0]['HostPort']}"
        return box

    def volume(self) -> str:
        """Return the name of a new volume."""
        volume = self.client.volumes.create()
        self.volumes.append(volume)
        return str(volume.name)

    def remove(self, since: int = 0) -> None:
        """Remove the containers made since there were ``since`` of them."""
        # The last first: a container must go before the one whose network it shares.
        while len(self.boxes) > since:
            with contextlib.suppress(docker.errors.NotFound):
                self.boxes.pop().container.remove(force=True, v=True)

    def close(self) -> None:
        self.remove()
        for volume in self.volumes:
            volume.remove(force=True)


class Site:
    """A gate with a real sign-in: the image next to the local provider, in one network.

    The issuer has to be the same address for the browser outside and the proxy inside, so the gate joins the
    provider's network, and localhost is one place. compose.yaml does the same.
    """

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.gate_port, self.issuer_port = free_port(), free_port()
        self.issuer = f"http://localhost:{self.issuer_port}"
        self.url = f"http://localhost:{self.gate_port}"
        self.provider = engine.start(
            "--port",
            str(self.issuer_port),
            image=PROVIDER,
            environment={},
            ports={
                f"{PORT}/tcp": ("127.0.0.1", self.gate_port),
                f"{self.issuer_port}/tcp": ("127.0.0.1", self.issuer_port),
            },
        )
        wait_for(self.provider_answers, "the provider", 60, self.provider.log)
        self.environment = settings(
            **{
                "PUBLIC_URL": self.url,
                "OAUTH2_PROXY_PROVIDER": "oidc",
                "OAUTH2_PROXY_OIDC_ISSUER_URL": self.issuer,
                "OAUTH2_PROXY_CLIENT_ID": CLIENT_ID,
                **options.pop("environment", {}),
            }
        )
        network = f"container:{self.provider.container.id}"
        self.box = engine.start(environment=self.environment, network_mode=network, **{**HARDENED, **options})
        self.box.url = self.url
        self.box.wait_ready()

    def provider_answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.issuer}/.well-known/openid-configuration", timeout=2).ok
        return False

    def log(self) -> str:
        return self.box.log()

    def token(self, person: str = "alice") -> str:
        """Return an identity token of a person for this gate."""
        return identity_token(self.issuer, CLIENT_ID, email(person))

    def session(self, person: str = "alice") -> requests.Session:
        """Return an HTTP session that sends a person's token."""
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.token(person)}"
        return session


@contextlib.contextmanager
def opened(client: Any) -> Iterator[Engine]:
    """Yield an engine; remove what it made."""
    engine = Engine(client)
    try:
        yield engine
    finally:
        engine.close()
