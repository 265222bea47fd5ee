"""The same set-ups as containers: the images' sizes, and a cold start with one CPU and 512 MiB."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.setups import SetUp
from local.proxy_binary import ROOT
from tests.container.parts import GATEHOUSE, base_image

PLAIN = "gatehouse-bench-plain:dev"
CPUS, MEMORY = 1, "512m"
READY_LIMIT_S = 60


def engine() -> Any:
    """Return the Docker engine's client, or None if there is none."""
    import docker

    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except docker.errors.DockerException:
        return None
    return client


def build() -> None:
    """Build both images on the same base."""
    base = base_image()
    arguments = ["--build-arg", f"DEBIAN={base}"] if base else []
    plain = ["docker", "build", "--quiet", "--file", "bench/plain.Dockerfile", "--tag", PLAIN, *arguments, "."]
    # The plain one takes the proxy from Gatehouse's image, so that comes first.
    for command in (["make", "--silent", "image", f"IMAGE={GATEHOUSE}"], plain):
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def image_size(client: Any, setup: SetUp) -> float:
    """Return the size of a set-up's image in MB (10^6 bytes), unpacked."""
    return float(client.images.get(image(setup)).attrs["Size"]) / 1e6


def image(setup: SetUp) -> str:
    """Return the image that a set-up runs from."""
    return GATEHOUSE if setup.is_gatehouse else PLAIN


def cold_start(client: Any, setup: SetUp, folder: Path, token: str) -> float:
    """Return the seconds from `docker start` to the first authenticated 200, or infinity if the container dies first.

    The container's start by the engine is part of it, and the same for all.
    """
    own = {name: value for name, value in setup.environment.items() if name not in {"PATH", "HOME", "LANG"}}
    container = client.containers.create(
        image(setup),
        environment=own,
        network_mode="host",
        mem_limit=MEMORY,
        memswap_limit=MEMORY,
        nano_cpus=CPUS * 10**9,
        user="0",
        volumes={str(folder): {"bind": str(folder)}},
    )

    def is_alive() -> bool:
        container.reload()
        return str(container.status) != "exited"

    try:
        started = time.perf_counter()
        container.start()
        came = setup.answers(token, started + READY_LIMIT_S, is_alive)
        return time.perf_counter() - started if came else math.inf
    finally:
        container.remove(force=True)
