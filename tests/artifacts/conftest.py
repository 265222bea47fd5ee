"""A gate for each kind of artifact store, shared by the tests: each test keeps to a folder of its own."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from local.proxy_binary import ROOT
from tests.artifacts.google_server import GoogleServer, google_server
from tests.artifacts.object_stores import BUCKET, azure_server, s3_server
from tests.support import Gate, Provider, running

_numbers = itertools.count(1)
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Stored:
    """A gate, its store, and a folder in it that nothing else uses."""

    gate: Gate
    session: requests.Session
    names: Callable[[], list[str]]
    folder: str = ""

    def url(self, path: str) -> str:
        """Return the address of an artifact in the test's folder."""
        return f"{self.gate.url}{ARTIFACTS}/{self.folder}/{path}"

    def inside(self) -> list[str]:
        """Return the names in the test's folder, by the store's own account."""
        return sorted(name.split(f"{self.folder}/", 1)[1] for name in self.names() if f"{self.folder}/" in name)


def files_below(folder: Path) -> list[str]:
    """Return the paths of all files below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="session")
def google() -> Iterator[GoogleServer]:
    """A server that speaks Cloud Storage's API."""
    with google_server() as server:
        yield server


@contextlib.contextmanager
def gate_on(provider: Provider, folder: Path, names: Callable[[], list[str]], **environment: str) -> Iterator[Stored]:
    """Run a gate where alice administers."""
    environment = {"ACCESS_POLICY": str(ROOT / "local" / "access.yaml"), **environment}
    with running(Gate(folder, provider, **environment)) as gate, gate.session() as session:
        yield Stored(gate, session, names)


@pytest.fixture(scope="session")
def local_store(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """A running gate on a local folder."""
    folder = tmp_path_factory.mktemp("local")
    with gate_on(provider, folder, lambda: files_below(folder / "artifacts")) as part:
        yield part


@pytest.fixture(scope="session")
def google_store(
    provider: Provider, google: GoogleServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    """A running gate on Cloud Storage."""
    with gate_on(provider, tmp_path_factory.mktemp("google"), google.names, **google.environment) as part:
        yield part


@pytest.fixture(scope="session")
def s3_store(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """A running gate on S3, whose objects are files at its server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        objects = server.folder / "data" / BUCKET / "mlflow"
        folder = tmp_path_factory.mktemp("s3-gate")
        with gate_on(provider, folder, lambda: files_below(objects), **server.environment) as part:
            yield part


@pytest.fixture(scope="session")
def azure_store(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """A running gate on Azure."""
    with azure_server(tmp_path_factory.mktemp("azure")) as server:
        folder = tmp_path_factory.mktemp("azure-gate")
        with gate_on(provider, folder, server.names, **server.environment) as part:
            yield part


@pytest.fixture(scope="session", params=["local", "google", "s3", "azure"])
def store(request: pytest.FixtureRequest) -> Stored:
    """A running gate on each kind of store."""
    found: Stored = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def stored(store: Stored) -> Stored:
    """The gate on each kind of store, with a folder of the test's own."""
    return Stored(store.gate, store.session, store.names, f"test{next(_numbers)}")


@pytest.fixture
def sdk(stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """MLflow's own SDK, unmodified, signed in as alice."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", stored.gate.provider.token())
    monkeypatch.setenv("HOME", str(tmp_path))
    # MLflow puts what `set_tracking_uri` says into the environment, too, for processes that it starts.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stored.gate.url)
    import mlflow

    mlflow.set_tracking_uri(stored.gate.url)
    mlflow.set_experiment(stored.folder)
    return mlflow


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001
    """Show the log of the gate that a failed test had."""
    report = yield
    stored = getattr(item, "funcargs", {}).get("stored")
    if report.when == "call" and report.failed and isinstance(stored, Stored):
        report.sections.append(("the gate's log", stored.gate.log()[-6000:]))
    return report
