"""deploy/server's Caddyfile as it is, by a real Caddy with an authority of its own, in front of a real gate."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from local.proxy_binary import ROOT
from tests.support import Gate, Provider, free_port, missing, running, wait_for

SERVER = ROOT / "deploy" / "server"


@dataclass
class Host:
    """A server as compose.yaml describes it: an https address, the authority that vouches for it, the gate behind it."""

    url: str
    authority: Path
    gate: Gate


@pytest.fixture(scope="session")
def caddy_host(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Caddy and a gate that trusts its one hop."""
    if not shutil.which("caddy"):
        missing("Caddy", "apt-get install caddy")
    folder = tmp_path_factory.mktemp("caddy")
    port, plain = free_port(), free_port()
    url = f"https://localhost:{port}"
    gate = Gate(folder / "gate", provider, PUBLIC_URL=url, TRUSTED_HOPS="1")
    authority = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "DOMAIN": f"localhost:{port}",
        "CADDY_TLS": "internal",
        "UPSTREAM": f"127.0.0.1:{gate.port}",
    }
    # The one line more that a machine with other people on port 80 needs.
    text = (
        (SERVER / "Caddyfile")
        .read_text()
        .replace("{\n\tadmin off", f"{{\n\thttp_port {plain}\n\tskip_install_trust\n\tadmin off", 1)
    )
    (folder / "Caddyfile").write_text(text)
    with running(gate), (folder / "caddy.log").open("w") as log:
        command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
        caddy = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

        def answers() -> bool:
            assert caddy.poll() is None, (folder / "caddy.log").read_text()
            try:
                return requests.get(f"{url}/ping", verify=str(authority), timeout=2).ok
            except (requests.RequestException, OSError):
                return False

        try:
            wait_for(answers, "Caddy", 60, (folder / "caddy.log").read_text)
            yield Host(url, authority, gate)
        finally:
            caddy.terminate()
            caddy.wait(20)
