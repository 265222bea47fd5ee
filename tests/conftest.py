"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import Gate, Postgres, Provider, running

_numbers = itertools.count(1)

#: Fixtures that need what a contributor's machine may lack, or that take long to make. A test that has one of them is
#: marked `slow` here, and `make test-fast` leaves it out.
SLOW = {
    "docker_client": "a Docker engine, and both images",
    "gcloud_folder": "gcloud, in a thousand commands",
    "browser": "Chromium",
    "chromium": "Chromium",
    "clone": "a fresh clone's set-up",
    "make_gate": "a gate of the test's own: some seconds each",
    "store": "object stores that are built first",
    "stored": "object stores that are built first",
    "place": "object stores that are built first",
    "server": "an object store that is built first, or a server of the test's own",
    "wire": "an object store that is built first",
    "google_store": "an object store that is built first",
    "watched": "a gate of two workers that Prometheus scrapes",
    "signed_bucket": "an object store that is built first",
    "direct": "an object store that is built first",
    "site": "gates behind a front end",
    "small_disk": "a file system of its own: root",
    "machine": "training scripts in processes of their own: seconds each",
    "copy": "a copy of the sources, checked by tools",
    "answers": "every answer of MLflow, twice",
    "older_python": "an older MLflow",
    "caddy_host": "Caddy, and a gate of the test's own",
    "chart_tools": "Helm, which is built first",
    "neighbour": "other programs' libraries, in an environment of their own",
    "heavy_neighbour": "other programs' libraries, in an environment of their own",
    "wheel": "a built distribution, in environments of its own",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test-fast` leaves out."""
    for item in items:
        if not SLOW.keys().isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """The local OpenID provider."""
    part = Provider()
    yield part
    part.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    part = Postgres()
    yield part
    part.remove()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgres.create(f"test{next(_numbers)}")


@pytest.fixture(scope="session")
def gate(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A running gate on PostgreSQL, shared: tests make experiments of their own and leave the rest alone."""
    folder = tmp_path_factory.mktemp("gate")
    with running(Gate(folder, provider, BACKEND_STORE_URI=postgres.create("shared"))) as part:
        yield part


@pytest.fixture
def make_gate(provider: Provider, tmp_path: Path) -> Iterator[Callable[..., Gate]]:
    """Make gates of the test's own (not started yet); they are stopped at the end."""
    made: list[Gate] = []

    def make(**environment: str) -> Gate:
        made.append(Gate(tmp_path / f"gate{len(made)}", provider, **environment))
        return made[-1]

    yield make
    for part in made:
        part.stop()
