"""Pass TCP connections on: ``forward.py LISTEN PORT TO PORT``.

An issuer over plain http has to be localhost, for the gate as for everybody; so localhost leads to the provider, in each pod
and on the machine.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until one side ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def forward(listener: socket.socket, address: tuple[str, int]) -> None:
    """Serve until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(address, 10)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()


if __name__ == "__main__":
    forward(socket.create_server((sys.argv[1], int(sys.argv[2]))), (sys.argv[3], int(sys.argv[4])))
