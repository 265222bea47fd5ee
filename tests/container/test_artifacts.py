"""A file that is larger than the container's memory goes up and down through it, with the unmodified SDK.

ARTIFACT_MIB is its size in MiB (640). The figures of the 4 GiB that docs/artifacts.md tells of are those of
ARTIFACT_MIB=4096, for which the object store, which keeps all in memory, takes some 16 GiB.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.artifacts.google_server import GoogleServer
from tests.container.parts import Engine, Site, address_on_bridge, socket_mount, socket_url
from tests.support import Postgres

MIB = 1024 * 1024
SIZE = int(os.environ.get("ARTIFACT_MIB", "640")) * MIB
MOST_GROWTH = 64 * MIB

# Prints the seconds and the SHA-256 of the way up, and of the way down. sys.argv: a folder, the size in bytes.
CLIENT = """
import hashlib, json, os, sys, time, warnings
warnings.simplefilter("ignore")
import mlflow
folder, size = sys.argv[1], int(sys.argv[2])
def sha(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
path = os.path.join(folder, "large.bin")
with open(path, "wb") as file:
    block = os.urandom(1 << 20)
    for number in range(size >> 20):
        file.write(number.to_bytes(8, "big") + block[8:])
sent = sha(path)
with mlflow.start_run() as run:
    started = time.perf_counter()
    mlflow.log_artifact(path)
    up = time.perf_counter() - started
os.remove(path)
started = time.perf_counter()
got = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="large.bin", dst_path=folder)
down = time.perf_counter() - started
print(json.dumps({"up": up, "down": down, "sent": sent, "got": sha(got)}))
os.remove(got)
"""


@pytest.fixture
def google(docker_client: object) -> Iterator[GoogleServer]:
    """An object store that containers can reach."""
    server = GoogleServer(listen=address_on_bridge(docker_client))
    yield server
    server.kill()


def run_client(site: Site, folder: Path, size: int) -> dict[str, str]:
    """Run the SDK; return what it found."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MLFLOW_TRACKING_URI": site.url,
        "MLFLOW_TRACKING_TOKEN": site.token(),
    }
    command = [sys.executable, "-c", CLIENT, str(folder), str(size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + site.log()
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory(site: Site) -> int:
    """Return the bytes that all of the container's processes hold (proportional set size)."""
    total = 0
    for row in site.box.container.top()["Processes"]:
        with contextlib.suppress(OSError):  # ended meanwhile, as the health check does
            found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{row[1]}/smaps_rollup").read_text(), re.M)
            total += int(found[1]) if found else 0
    return total * 1024


def test_a_file_larger_than_the_memory_goes_up_and_down(
    engine: Engine, google: GoogleServer, postgres: Postgres, tmp_path: Path
) -> None:
    name = f"large-{secrets.token_hex(4)}"
    postgres.create(name)
    environment = {"BACKEND_STORE_URI": socket_url(name), **google.environment}
    site = Site(engine, environment=environment, mounts=[socket_mount(postgres)])
    run_client(site, tmp_path, 5 * MIB)  # loads what is loaded at first use
    before = memory(site)
    seen = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.append(memory(site))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = run_client(site, tmp_path, SIZE)
    finally:
        done.set()
        watcher.join()
    growth = max(seen) - before
    print({**found, "MiB": SIZE // MIB, "before_mib": before // MIB, "growth_mib": growth // MIB})
    assert found["got"] == found["sent"]
    assert growth <= MOST_GROWTH
    assert not site.box.state()["OOMKilled"]
