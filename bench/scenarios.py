"""What is measured of a set-up: its start, the load on it, an SDK loop, memory."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.load import BUSY, FEW, LARGE, READS, SEARCH, Requests
from bench.setups import SetUp

#: How long a scenario of one set-up may take, in seconds: a slow one on a busy machine ends nobody's patience.
LIMITS_S = {"reads": 150.0, "large": 60.0}
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SDK_LOOP = """
import mlflow, time
mlflow.set_experiment("bench")
started = time.perf_counter()
with mlflow.start_run():
    for step in range(100):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
print(time.perf_counter() - started)
"""


def sdk_environment(setup: SetUp, token: str, home: str | Path) -> dict[str, str]:
    """Return the environment of a training script that comes to a set-up."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MLFLOW_TRACKING_URI": setup.url,
        "MLFLOW_TRACKING_TOKEN": token,
    }


def sdk_loop(setup: SetUp, token: str) -> float:
    """Return the seconds of an SDK loop: start a run, 100 × log_metric, end it."""
    environment = sdk_environment(setup, token, tempfile.gettempdir())
    done = subprocess.run(
        [sys.executable, "-c", SDK_LOOP], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return float(re.findall(r"^[\d.]+$", done.stdout, re.M)[-1])


@contextlib.contextmanager
def watched(look: Callable[[], float], pause_s: float) -> Iterator[list[float]]:
    """Yield a list that fills with what ``look`` returns, until the block's end; ``pause_s`` seconds between looks."""
    seen = [look()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(pause_s):
            seen.append(look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def drop_page_cache() -> bool:
    """Empty the system's page cache, where this user may."""
    if not os.access(DROP_CACHES, os.W_OK):
        return False
    os.sync()
    DROP_CACHES.write_text("3")
    return True


def reads(
    setup: SetUp, calls: Requests, token: str, these: tuple[str, ...], limit_s: float
) -> Iterator[tuple[str, float]]:
    """Yield (figure, value) for each call at one connection and at eight, as long as the time suffices."""
    ends = time.monotonic() + limit_s
    for call in these:
        if time.monotonic() > ends:
            print(f"{setup.name}: {call} and what follows isn't measured: {limit_s:.0f} s are over", file=sys.stderr)
            return
        calls.load(setup, token, call, 8, 1)
        alone, together = calls.load(setup, token, call, 1), calls.load(setup, token, call, 8)
        if together["failed"] == 100:
            continue  # it hasn't this call
        yield f"{call}: p50 at 1 connection, ms", alone["p50"]
        yield f"{call}: requests/s at 8", together["rps"]
        yield f"{call}: p95 at 8, ms", together["p95"]
        if together["failed"]:
            yield f"{call}: failed at 8, %", together["failed"]


def measure(setup: SetUp, calls: Requests, token: str, chosen: set[str], log: Path) -> Iterator[tuple[str, float]]:
    """Start a set-up, yield (figure, value) for each scenario, stop it."""
    if "disk" in chosen and drop_page_cache():
        try:
            yield "cold start, page cache dropped, s", setup.start(log, token)
        finally:
            setup.stop()
    try:
        yield "cold start, s", setup.start(log, token)
        time.sleep(3)  # what still loads after readiness belongs to the idle memory
        if "memory" in chosen:
            yield "idle memory, MiB", setup.memory()
        if "latency" in chosen:
            for call in FEW:
                calls.load(setup, token, call, 1, 1)
                figures = calls.load(setup, token, call, 1)
                yield f"{call}: p50 at 1 connection, ms", figures["p50"]
                yield f"{call}: p99 at 1 connection, ms", figures["p99"]
        if "throughput" in chosen:
            for call in FEW:
                calls.load(setup, token, call, 8)  # each worker's first request takes seconds in the plain set-up
                for connections in (8, 32):
                    figures = calls.load(setup, token, call, connections)
                    yield f"{call}: requests/s at {connections}", figures["rps"]
                    if figures["failed"]:
                        yield f"{call}: failed at {connections}, %", figures["failed"]
        for scenario, these in (("reads", READS), ("large", LARGE)):
            if scenario in chosen:
                yield from reads(setup, calls, token, these, LIMITS_S[scenario])
        if "memory" in chosen:
            # Apart from the throughput, which watching would disturb.
            with watched(setup.memory, 1) as seen:
                for call in (*BUSY, SEARCH):
                    calls.load(setup, token, call, 32)
            yield "peak memory under load, MiB", max(seen)
        if "sdk" in chosen:
            yield "SDK loop of 100 metrics, s", sdk_loop(setup, token)
        if "proxy" in chosen and setup.is_gatehouse:
            for call in BUSY:
                yield f"{call}: through the proxy / straight, at 8", calls.through_and_straight(setup, token, call)
    finally:
        setup.stop()
