"""``gatehouse health``: exit with 0 if the gate answers, and every worker of MLflow's behind it.

For a container's HEALTHCHECK.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import socket
import sys

from gatehouse.exit_codes import Exit
from gatehouse.public.readiness import PATH

#: Longer than MLflow's side takes to find out that one of its workers doesn't answer (gatehouse/start/output.py).
TIMEOUT_S = 4.5
#: Addresses that mean any interface, and the one of them to ask.
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def connection(address: str) -> http.client.HTTPConnection:
    """Return a connection, not yet made, to where the proxy listens.

    Args:
        address: as OAUTH2_PROXY_HTTP_ADDRESS has it: ``HOST:PORT``, ``http://HOST:PORT`` or ``unix://PATH``.

    Raises:
        ValueError: if it is none of these.
    """
    if address.startswith("unix:"):
        return _SocketConnection(re.sub(r"^unix:(//)?", "", address).partition(",")[0])
    host, _, port = re.sub(r"^https?://", "", address).rpartition(":")
    if not port.isdigit():
        raise ValueError(f"OAUTH2_PROXY_HTTP_ADDRESS is {address!r}, which has no port")
    host = host.strip("[]")
    return http.client.HTTPConnection(_ANY.get(host, host), int(port), timeout=TIMEOUT_S)


def main(argv: list[str]) -> int:
    """Ask MLflow through the proxy, on a path that needs no identity; return an exit code."""
    argparse.ArgumentParser(prog="gatehouse health", description=__doc__).parse_args(argv)
    address = os.environ.get("OAUTH2_PROXY_HTTP_ADDRESS") or f"127.0.0.1:{os.environ.get('PORT') or '4180'}"
    try:
        gate = connection(address)
    except ValueError as error:
        print(f"gatehouse health: error: {error}\n    fix: give HOST:PORT, or unset it", file=sys.stderr)
        return Exit.SETTINGS
    try:
        gate.request("GET", PATH)
        status = gate.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"gatehouse health: error: nothing answers at {address}: {error}", file=sys.stderr)
        return Exit.UNAVAILABLE
    finally:
        gate.close()
    if status != 200:
        what = "a worker of MLflow's doesn't answer" if status == 503 else f"it answers with status {status}"
        print(f"gatehouse health: error: {address}: {what}", file=sys.stderr)
        return Exit.UNAVAILABLE
    return Exit.OK
