"""A load balancer in front of several gates: haproxy, each request to the next of those that are up."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.support import free_port, missing, wait_for

#: Answers say in this header which gate they are from.
SERVED_BY = "X-Served-By"

CONFIG = """
defaults
  mode http
  timeout connect 2s
  timeout client 120s
  timeout server 120s
  retries 3
  option redispatch
frontend public
  bind 127.0.0.1:{port}
  default_backend gates
backend gates
  balance roundrobin
  option httpchk GET /ping
  http-response set-header {served_by} %s
{servers}
"""


@contextlib.contextmanager
def balanced(gate_ports: list[int], folder: Path, port: int | None = None) -> Iterator[str]:
    """Yield the address of a balancer in front of the gates on these ports of loopback, once all of them are up."""
    if not shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin"):
        missing("haproxy", "apt-get install haproxy")
    port = port or free_port()
    servers = "\n".join(f"  server gate{n} 127.0.0.1:{p} check inter 250ms fall 1" for n, p in enumerate(gate_ports))
    config, log = folder / "haproxy.cfg", folder / "haproxy.log"
    config.write_text(CONFIG.format(port=port, served_by=SERVED_BY, servers=servers))
    with log.open("ab") as output:
        command = [shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin") or "haproxy", "-db", "-f", str(config)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://localhost:{port}"

    def all_answer() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(requests.RequestException):
            answers = [requests.get(f"{url}/ping", timeout=5) for _ in gate_ports]
            return {answer.headers.get(SERVED_BY) for answer in answers if answer.ok} == {
                f"gate{number}" for number in range(len(gate_ports))
            }
        return False

    try:
        wait_for(all_answer, "the balancer to reach every gate", 30, log.read_text)
        yield url
    finally:
        process.kill()
        process.wait(10)
