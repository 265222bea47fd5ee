"""A large artifact up and down by the unmodified SDK: time, and the memory that it takes at the server.

The server's temporary folder is in memory here, as it is on Cloud Run, and counts: a server that writes an artifact to
a temporary file first needs its whole size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.scenarios import sdk_environment, watched
from bench.setups import SetUp
from tests.artifacts.google_server import google_server

MIB = 1024 * 1024
SIZE = 256 * MIB
#: A file system in memory, on Linux.
IN_MEMORY = Path("/dev/shm")
TRANSFER = """
import hashlib, os, sys, tempfile, time
import mlflow
way, folder, name, run = sys.argv[1:]
client = mlflow.MlflowClient()
started = time.perf_counter()
if way == "up":
    client.log_artifact(run, os.path.join(folder, name))
else:
    path = client.download_artifacts(run, name, folder)
print("seconds", time.perf_counter() - started)
if way == "down":
    digest = lambda file: hashlib.file_digest(open(file, "rb"), "sha256").hexdigest()
    assert digest(path) == sys.stdin.readline().strip(), "another content came back"
"""
NEW_RUN = """
import mlflow
client = mlflow.MlflowClient()
print(client.create_run("0").info.run_id)
"""


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder, whichever vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).stat().st_size
    return total


def measure(setup: SetUp, token: str, log: Path) -> Iterator[tuple[str, float]]:
    """Measure a set-up with a local folder and with Cloud Storage's API (fake-gcs-server); yield (figure, value)."""
    before = dict(setup.environment)
    try:
        yield from measure_store(setup, "a folder", token, log)
        with google_server() as server:
            setup.environment |= {**server.environment, "ARTIFACTS": server.destination}
            yield from measure_store(setup, "gs://", token, log)
    finally:
        setup.environment = before


def measure_store(setup: SetUp, store: str, token: str, log: Path) -> Iterator[tuple[str, float]]:
    """Start a set-up, yield (figure, value), stop it."""
    temporary = Path(tempfile.mkdtemp(prefix="bench", dir=IN_MEMORY))
    files = Path(tempfile.mkdtemp(prefix="bench"))
    setup.environment["TMPDIR"] = str(temporary)
    client = {**sdk_environment(setup, token, files), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}

    def held() -> float:
        return setup.memory() + folder_size(temporary) / MIB

    def run(code: str, *arguments: str, stdin: str = "") -> str:
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        done = subprocess.run(
            command, env=client, input=stdin, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{setup.name}: {done.stdout}{done.stderr}")
        return done.stdout.strip().rpartition(" ")[2].splitlines()[-1]

    try:
        setup.start(log, token)
        content = os.urandom(SIZE)
        digest = hashlib.sha256(content).hexdigest()
        for name, size in (("small", MIB), ("large", SIZE)):
            (files / name).write_bytes(content[:size])
        del content
        run_id = run(NEW_RUN)
        run(TRANSFER, "up", str(files), "small", run_id)  # loads what is loaded at first use
        for way, words in (("up", "upload"), ("down", "download")):
            with watched(held, 0.1) as seen:
                seconds = float(run(TRANSFER, way, str(files), "large", run_id, stdin=digest))
            yield f"{store}: {words} of 256 MiB, MiB/s", SIZE / MIB / seconds
            yield f"{store}: {words} of 256 MiB, memory, MiB", max(seen)
    finally:
        setup.stop()
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(files, ignore_errors=True)
