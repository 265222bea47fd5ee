"""One gate with METRICS for all of this folder's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from local.go_program import ROOT
from tests.monitoring.parts import Receiver, Watched
from tests.support import Gate, Postgres, Provider, free_port


@pytest.fixture(scope="package")
def watched(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    receiver = Receiver()
    policy = folder / "policy.yaml"
    shutil.copy(ROOT / "local" / "access.yaml", policy)
    address = f"127.0.0.1:{free_port()}"
    gate = Gate(
        folder / "gate",
        provider,
        BACKEND_STORE_URI=postgres.create("watched"),
        ACCESS_POLICY=str(policy),
        WORKERS="2",
        METRICS=address,
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=receiver.url,
        OTEL_METRIC_EXPORT_INTERVAL="500",
    )
    try:
        gate.start().wait_ready()
        yield Watched(gate, address, receiver, policy)
    finally:
        gate.stop()
        receiver.server.shutdown()
