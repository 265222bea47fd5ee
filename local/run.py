"""`make run`: the gate on this machine, with SQLite, a local artifact folder and the local OpenID provider.

It runs the container's own start.sh. State lives in DATA (.gatehouse); Ctrl-C stops all of it.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from local import provider
from local.go_program import ROOT, NoProgramError
from local.listener_binary import find_or_build_listener
from local.proxy_binary import find_or_build
from local.set_up import INTERRUPTED

CLIENT_ID = "gatehouse-local"
STATE = "run.json"


def say(message: str) -> None:
    """Print a line of progress."""
    print(message, file=sys.stderr, flush=True)


def data_folder() -> Path:
    """Return the folder of the local state."""
    return Path(os.environ.get("DATA") or ROOT / ".gatehouse").resolve()


def cookie_secret(data: Path) -> str:
    """Return this installation's cookie secret, made on the first run, so that sessions survive a restart."""
    path = data / "cookie-secret"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text()


def free_port(preferred: int) -> int:
    """Return ``preferred`` if nothing listens there on loopback, else any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def start_provider(port: int) -> tuple[subprocess.Popen[str], str]:
    """Start the local provider in a session of its own; return it and its issuer.

    It outlives Ctrl-C until the gate has stopped, so that nobody is signed in half.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "local.provider", "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        issuer = process.stdout.readline().strip() if process.stdout else ""
    except KeyboardInterrupt:
        process.terminate()
        raise
    if not issuer:
        raise RuntimeError("the local OpenID provider didn't start: see its message above")
    return process, issuer


def gate_environment(data: Path, port: int, issuer: str, proxy: Path) -> dict[str, str]:
    """Return the environment for start.sh; a variable that is set already wins."""
    folders = [str(Path(sys.executable).parent), str(proxy.parent)]
    if os.environ.get("HTTP2") == "true":
        folders.append(str(find_or_build_listener(say).parent))
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    defaults = {
        "PUBLIC_URL": f"http://localhost:{port}",
        "BACKEND_STORE_URI": f"sqlite:///{data / 'mlflow.db'}",
        "ARTIFACTS_DESTINATION": str(data / "artifacts"),
        "OAUTH2_PROXY_PROVIDER": "oidc",
        "OAUTH2_PROXY_PROVIDER_DISPLAY_NAME": "the local provider",
        "OAUTH2_PROXY_OIDC_ISSUER_URL": issuer,
        "OAUTH2_PROXY_CLIENT_ID": CLIENT_ID,
        # The local provider accepts any; it proves nothing on one's own machine.
        "OAUTH2_PROXY_CLIENT_SECRET": "local",
        "OAUTH2_PROXY_COOKIE_SECRET": cookie_secret(data),
        "OAUTH2_PROXY_EMAIL_DOMAINS": provider.DOMAIN,
        "ACCESS_POLICY": str(ROOT / "local" / "access.yaml"),
        # One click signs in, so nobody but this machine may knock.
        "OAUTH2_PROXY_HTTP_ADDRESS": f"127.0.0.1:{port}",
        # One line per request would bury what matters here.
        "OAUTH2_PROXY_REQUEST_LOGGING": "false",
        "OAUTH2_PROXY_AUTH_LOGGING": "false",
        "OAUTH2_PROXY_STANDARD_LOGGING": "false",
    }
    return {**defaults, **os.environ, "PATH": path, "PORT": str(port)}


def answers(port: int) -> bool:
    """Tell whether the gate answers on its port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def welcome(port: int, provider_issuer: str) -> str:
    """Return what a newcomer needs to know."""
    url = f"http://localhost:{port}"
    return f"""
Gatehouse is ready: {url}

  Sign in      open {url}, choose alice (admin), bob (editor) or carol (viewer) @example.com: one click
  SDK          export MLFLOW_TRACKING_URI={url} MLFLOW_TRACKING_TOKEN=$(make -s token)
               .venv/bin/python examples/train.py
  curl         curl -H "Authorization: Bearer $(make -s token)" "{url}/api/2.0/mlflow/experiments/search?max_results=5"
  Another one  make -s token USER=bob   (the local provider is {provider_issuer})

Ctrl-C stops all of it. Data stays in {data_folder()}.
"""


def wait_until_ready(gate: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the gate answers (True) or has ended (False); start.sh itself keeps the time limit."""
    while gate.poll() is None:
        if answers(port):
            return True
        time.sleep(0.05)
    return False


def handle(stop: Callable[[int, FrameType | None], None]) -> None:
    """Call ``stop`` on Ctrl-C and TERM."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def give_up(_signum: int, _frame: FrameType | None) -> None:
    """Leave, before there is a gate to stop."""
    raise KeyboardInterrupt


def run(port: int) -> int:
    """Start provider and gate, wait for the gate's end, stop the provider; return the gate's exit code."""
    data = data_folder()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    proxy = find_or_build(say)
    provider_process, issuer = start_provider(free_port(port + 1))
    state = data / STATE
    gate = None
    try:
        say("starting MLflow ...")
        gate = subprocess.Popen([str(ROOT / "start.sh")], env=gate_environment(data, port, issuer, proxy))
        # Ctrl-C reaches start.sh by itself too; the second signal changes nothing there.
        handle(lambda *_: gate.send_signal(signal.SIGTERM))
        if wait_until_ready(gate, port):
            state.write_text(json.dumps({"issuer": issuer, "client_id": CLIENT_ID, "port": port}))
            print(welcome(port, issuer), flush=True)
        return gate.wait()
    finally:
        if gate is not None:
            gate.terminate()
            gate.wait()
        state.unlink(missing_ok=True)
        provider_process.terminate()
        provider_process.wait(10)


def main() -> int:
    """Run until stopped."""
    port = os.environ.get("PORT") or "4180"
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        say(f"make run: error: PORT is {port!r}, which isn't a port number\n    fix: make run PORT=4180")
        return 78
    handle(give_up)
    try:
        return run(int(port))
    except KeyboardInterrupt:
        say("make run: stopped")
        return INTERRUPTED
    except (NoProgramError, OSError, RuntimeError) as error:
        say(f"make run: error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
