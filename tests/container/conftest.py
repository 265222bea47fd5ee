"""The real image on a real Docker engine. engine.sh gets one where there is none."""

from __future__ import annotations

import fcntl
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container.parts import (
    Engine,
    Site,
    build_images,
    connect,
    opened,
    settings,
    socket_mount,
    socket_url,
)
from tests.support import Postgres


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001
    """Show the logs of the containers that a failed test had."""
    report = yield
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.when == "call" and report.failed and isinstance(engine, Engine):
        for box in engine.boxes:
            report.sections.append((f"log of container {box.container.short_id}", box.log()[-8000:]))
    return report


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Any]:
    """The engine's client, with both images built: once, also if several test processes come at a time."""
    client = connect()
    with (Path(tempfile.gettempdir()) / "gatehouse-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_images()
    yield client
    client.close()


@pytest.fixture(scope="module")
def shared_engine(docker_client: Any) -> Iterator[Engine]:
    """The engine for containers that the tests of one module share."""
    with opened(docker_client) as engine:
        yield engine


@pytest.fixture
def engine(docker_client: Any) -> Iterator[Engine]:
    """The engine for containers of one test."""
    with opened(docker_client) as engine:
        yield engine


@pytest.fixture(scope="module")
def site(shared_engine: Engine, postgres: Postgres) -> Site:
    """A hardened gate with the local sign-in and PostgreSQL behind a socket, shared by one module's tests."""
    name = f"site-{secrets.token_hex(4)}"
    postgres.create(name)
    environment = {"BACKEND_STORE_URI": socket_url(name), "ARTIFACTS_DESTINATION": "/data/artifacts"}
    mounts = [socket_mount(postgres)]
    return Site(
        shared_engine,
        environment=environment,
        mounts=mounts,
        volumes={shared_engine.volume(): {"bind": "/data"}},
    )


@pytest.fixture
def plain_settings(database: str) -> dict[str, str]:
    """Settings of a gate on an empty database of its own; the container needs ``socket_mount(postgres)``."""
    return settings(BACKEND_STORE_URI=socket_url(database.rpartition("/")[2]))
