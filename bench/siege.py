"""`python -m bench.siege`: does a viewer that means harm hold up anybody else? SECONDS=60, CONNECTIONS=200, SEED=…, ONLY=….

The image with one CPU and 512 MiB, oauth2-proxy in it, PostgreSQL beside it. Two people work through it: one trains,
one looks, as scripts and the UI do, with a short pause between two requests. What they wait is measured for a third of
the time by themselves, and then beside CONNECTIONS connections of a viewer that sends the worst that it may
(:mod:`bench.attackers`). Attackers, PostgreSQL, gate and those who are measured share this machine's processors.

ONLY=graphql,trickle sends these alone, which shows what each costs.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import docker
import requests

from bench import data
from local.proxy_binary import ROOT
from tests.container.parts import Engine, Site, build_images, connect, opened, socket_mount, socket_url
from tests.support import Postgres

ATTACKER, LOOKER, TRAINER = "carol", "alice", "bob"
#: Seconds between two requests of those who are measured.
PAUSE_S = 0.05
TIMEOUT_S = 120
DATABASE = "siege"


@dataclass
class Waits:
    """What somebody waited for each kind of request, in seconds, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)

    def all(self) -> list[float]:
        """Return all of them, sorted."""
        return sorted(wait for kind in self.seconds.values() for wait in kind)


def quantile(waits: list[float], share: float) -> float:
    """Return the wait that a share of all is at most as long as, in seconds."""
    ordered = sorted(waits)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Person:
    """Sends one request after the other, and notes what each took."""

    def __init__(self, site: Site, who: str, calls: dict[str, Callable[[requests.Session], requests.Response]]) -> None:
        self._session = site.session(who)
        self._calls = calls

    def work(self, waits: Waits, done: threading.Event) -> None:
        """Go on until ``done``."""
        while not done.is_set():
            for name, call in self._calls.items():
                began = time.perf_counter()
                try:
                    answer = call(self._session)
                    if answer.status_code != 200:
                        waits.failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")
                except requests.RequestException as error:
                    waits.failures.append(f"{name}: {error}")
                waits.seconds[name].append(time.perf_counter() - began)
                if done.wait(PAUSE_S):
                    return


def people(site: Site, experiment: int, run: str, training: str) -> list[Person]:
    """Return those who are measured."""
    api = f"{site.url}/api/2.0/mlflow"
    artifact = f"{site.url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/model.bin"

    def post(path: str, document: Callable[[], Any]) -> Callable[[requests.Session], requests.Response]:
        return lambda session: session.post(f"{api}/{path}", json=document(), timeout=TIMEOUT_S)

    def get(address: str) -> Callable[[requests.Session], requests.Response]:
        return lambda session: session.get(address, timeout=TIMEOUT_S)

    def batch() -> dict[str, Any]:
        now = time.time_ns() // 1_000_000
        metrics = [{"key": f"m{n}", "value": n / 7, "timestamp": now, "step": now} for n in range(20)]
        return {"run_id": training, "metrics": metrics}

    looks = {
        "page": get(f"{site.url}/"),
        "runs/search (100)": post("runs/search", lambda: {"experiment_ids": [str(experiment)], "max_results": 100}),
        "runs/get": get(f"{api}/runs/get?run_id={run}"),
        "experiments/search": post("experiments/search", lambda: {"max_results": 25}),
        "artifacts/list": get(f"{api}/artifacts/list?run_id={training}"),
        "registered-models/search": get(f"{site.url}/ajax-api/2.0/mlflow/registered-models/search?max_results=10"),
    }
    trains = {
        "log-batch (20 metrics)": post("runs/log-batch", batch),
        "create run": post(
            "runs/create", lambda: {"experiment_id": str(experiment + 1), "start_time": time.time_ns() // 10**6}
        ),
        "upload 64 KiB": lambda session: session.put(artifact, data=bytes(64 * 1024), timeout=TIMEOUT_S),
        "download 64 KiB": get(artifact),
    }
    return [Person(site, LOOKER, looks), Person(site, TRAINER, trains)]


@contextmanager
def working(persons: list[Person], waits: Waits) -> Iterator[None]:
    """Let the people work meanwhile."""
    done = threading.Event()
    threads = [threading.Thread(target=person.work, args=(waits, done)) for person in persons]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@dataclass(frozen=True)
class Result:
    """What a siege was like."""

    before: Waits
    during: Waits
    #: Answers that the attacker got, by what it sent and their status.
    statuses: dict[str, int]
    #: Bytes that the container's processes and page cache took at most; the limit.
    memory: int
    limit: int
    #: The container's end, if it ended, and how often the kernel killed one of its processes.
    ended: str
    killed: int

    def table(self) -> str:
        """Return the figures as text."""
        lines = [f"{'milliseconds':28}{'by themselves':>24}{'beside the attacker':>24}{'requests':>10}"]
        lines.append(f"{'':28}" + f"{'p50':>8}{'p99':>8}{'max':>8}" * 2)
        kinds = sorted(self.during.seconds)
        for name, before, during in [
            *((kind, self.before.seconds[kind], self.during.seconds[kind]) for kind in kinds),
            ("all", self.before.all(), self.during.all()),
        ]:
            cells = [1000 * figure for waits in (before, during) for figure in _figures(waits)]
            lines.append(f"{name:28}" + "".join(f"{cell:8.0f}" for cell in cells) + f"{len(during):10}")
        lines.append(f"attacker: {sum(self.statuses.values())} answers; {json.dumps(self.statuses)}")
        lines.append(
            f"memory at most {self.memory / 2**20:.0f} MiB of {self.limit / 2**20:.0f}; killed {self.killed}; {self.ended}"
        )
        return "\n".join(lines)


def _figures(waits: list[float]) -> tuple[float, float, float]:
    return (
        statistics.median(waits) if waits else float("nan"),
        quantile(waits, 0.99),
        max(waits, default=float("nan")),
    )


class Siege:
    """A gate with runs in it, and people who work through it.

    Args:
        seed: from which the order of the attacker's requests follows.
    """

    def __init__(self, engine: Engine, postgres: Postgres, seed: int) -> None:
        postgres.create(DATABASE)
        policy = docker.types.Mount("/policy.yaml", str(ROOT / "local" / "access.yaml"), type="bind", read_only=True)
        environment = {
            "BACKEND_STORE_URI": socket_url(DATABASE),
            "ARTIFACTS_DESTINATION": "/data/artifacts",
            "ACCESS_POLICY": "/policy.yaml",
        }
        volumes = {engine.volume(): {"bind": "/data"}}
        self.site = Site(engine, environment=environment, mounts=[socket_mount(postgres), policy], volumes=volumes)
        self._seed = seed
        self._seeded = data.seed(f"postgresql://gatehouse:unused@127.0.0.1:{postgres.port}/{DATABASE}", data.MLFLOW)
        run, training = self._seeded.runs[0], self._seeded.training[0]
        self._persons = people(self.site, self._seeded.experiment, run, training)
        self.work(3)

    def work(self, seconds: float) -> Waits:
        """Let the people work by themselves."""
        waits = Waits()
        with working(self._persons, waits):
            time.sleep(seconds)
        return waits

    def attack(self, seconds: float, connections: int, only: str = "") -> Result:
        """Let the people work by themselves for a third of the time, and then beside the attacker.

        Args:
            connections: the attacker's.
            only: names of the requests that it sends, separated by commas; all of them by default.
        """
        before, during = self.work(seconds / 3), Waits()
        command = [
            sys.executable, "-m", "bench.attackers", self.site.url, str(self._seeded.experiment), self._seeded.runs[0],
            f"--seconds={seconds}", f"--connections={connections}", f"--seed={self._seed}", f"--only={only}",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(self.site.token(ATTACKER) + "\n")
            process.stdin.flush()
            process.stdout.readline()
            with working(self._persons, during):
                said = process.stdout.readline()
        finally:
            process.kill()
            process.wait()
        state = self.site.box.state()
        ended = "still running" if state["Status"] == "running" else f"ended with {state['ExitCode']}"
        return Result(before, during, json.loads(said), *_memory(self.site), ended, _killed(self.site))


def _memory(site: Site) -> tuple[int, int]:
    """Return the most bytes that the container's control group held, and its limit."""
    for peak, limit in (
        ("memory.peak", "memory.max"),
        ("memory/memory.max_usage_in_bytes", "memory/memory.limit_in_bytes"),
    ):
        if said := _read(site, peak):
            return int(said), int(_read(site, limit))
    raise AssertionError("the container's control group says nothing of its memory")


def _killed(site: Site) -> int:
    """Return how many processes of the container the kernel killed for want of memory."""
    for name in ("memory.events", "memory/memory.oom_control"):
        for line in _read(site, name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _read(site: Site, name: str) -> str:
    """Return what a file of the container's control group says, or nothing if there is none."""
    return site.box.run("sh", "-c", f"cat /sys/fs/cgroup/{name} 2>/dev/null || true")


def main() -> None:
    """Run the siege, and print what it was like."""
    seconds, connections = float(os.environ.get("SECONDS") or 60), int(os.environ.get("CONNECTIONS") or 200)
    seed = int(os.environ.get("SEED") or secrets.randbits(32))
    if not os.environ.get("NO_BUILD"):
        build_images()
    postgres = Postgres()
    try:
        with opened(connect()) as engine:
            print(f"SEED={seed}, {connections} connections for {seconds:g} s", flush=True)
            result = Siege(engine, postgres, seed).attack(seconds, connections, os.environ.get("ONLY", ""))
            print(result.table())
            for failure in sorted(set(result.during.failures))[:20]:
                print(f"failed: {failure}")
            sys.exit(0 if result.ended == "still running" and not result.during.failures else 1)
    finally:
        postgres.remove()


if __name__ == "__main__":
    main()
