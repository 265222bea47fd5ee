"""``gatehouse health``: exit with 0 if the gate answers on its port, for a container's HEALTHCHECK.

The gate opens its port only when MLflow is ready, and closes it when MLflow ends, so one question asks both.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys

from gatehouse.exit_codes import Exit

TIMEOUT_S = 3


def main(argv: list[str]) -> int:
    """Ask oauth2-proxy's liveness path, which needs no identity."""
    argparse.ArgumentParser(prog="gatehouse health", description=__doc__).parse_args(argv)
    port = os.environ.get("PORT") or "4180"
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/ping")
        status = connection.getresponse().status
    except OSError as error:
        print(f"gatehouse health: error: nothing answers on port {port}: {error}", file=sys.stderr)
        return Exit.UNAVAILABLE
    finally:
        connection.close()
    if status != 200:
        print(f"gatehouse health: error: port {port} answers with status {status}", file=sys.stderr)
        return Exit.UNAVAILABLE
    return Exit.OK
