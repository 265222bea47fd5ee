"""Asking the process that adds up what it has: for the page of status, and for ``gatehouse status`` beside it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from gatehouse.monitoring.notes import STATE_SOCKET_NAME

PATIENCE_S = 5.0


class NoFigures(Exception):
    """There are none; the text says why, and what to do."""


def ask(run_directory: Path) -> dict[str, Any]:
    """Return the state (:meth:`gatehouse.monitoring.sums.Sums.state`) of the start that has this folder.

    Raises:
        NoFigures: if nobody answers.
    """
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(str(run_directory / STATE_SOCKET_NAME))
        connection.request("GET", "/")
        state: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoFigures(f"the process that has the figures doesn't answer: {error}") from None
    finally:
        connection.close()
    return state


def running() -> Path:
    """Return the folder of the gate that runs in this container, as this user.

    Raises:
        NoFigures: if there is none with figures.
    """
    parent = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    folders = sorted(parent.glob("gatehouse.*/" + STATE_SOCKET_NAME), key=lambda path: path.stat().st_mtime)
    mine = [path.parent for path in folders if path.stat().st_uid == os.getuid()]
    if not mine:
        what = f"no gate that has figures runs here as this user, with its folder in {parent}"
        raise NoFigures(f"{what}; set METRICS at the gate, and TMPDIR as the gate has it")
    return mine[-1]
