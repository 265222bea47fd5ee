"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import Gate, Postgres, Provider, running

_numbers = itertools.count(1)


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
