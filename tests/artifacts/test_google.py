"""Cloud Storage on a bad day: missing rights are named, and what was damaged is neither stored nor passed on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatehouse.artifacts.stores import open_store
from gatehouse.artifacts.stores.base import Damaged, Denied, Store, StoreError
from gatehouse.exit_codes import Exit
from tests.artifacts.wire import Wire
from tests.support import Gate, free_port, wait_for


@pytest.fixture(scope="module")
def shared_wire() -> Iterator[Wire]:
    """A wire to a store of its own."""
    part = Wire()
    yield part
    part.stop()


@pytest.fixture
def wire(shared_wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """A wire that does no harm yet."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", shared_wire.url)
    shared_wire.refused = set()
    shared_wire.damage = bytes
    return shared_wire


def flip(data: bytes) -> bytes:
    """Return the bytes with one bit changed."""
    return data[:-1] + bytes([data[-1] ^ 1]) if data else data


def store(data: bytes, path: str, to: Store, known: bool) -> None:
    sink = to.create(path, len(data) if known else None)
    try:
        for at in range(0, len(data), 300_000):
            sink.write(data[at : at + 300_000])
        sink.commit()
    except BaseException:
        sink.abort()
        raise


def test_with_all_rights_the_look_leaves_nothing_behind(wire: Wire) -> None:
    open_store("gs://artifacts/mlflow").check()
    assert wire.store.names() == []


@pytest.mark.parametrize("right", ["create", "get", "list", "delete"])
def test_each_missing_right_is_named(wire: Wire, right: str) -> None:
    wire.refused = {f"storage.objects.{right}"}
    with pytest.raises(Denied, match=rf"needs the permission storage\.objects\.{right} on gs://artifacts"):
        open_store("gs://artifacts/mlflow").check()
    assert wire.store.names() == []


def test_the_doctor_and_the_server_name_it_too(wire: Wire, make_gate: Callable[..., Gate]) -> None:
    wire.refused = {"storage.objects.delete"}
    gate = make_gate(ARTIFACTS_DESTINATION="gs://artifacts/mlflow", STORAGE_EMULATOR_HOST=wire.url).start()
    command = ["gatehouse", "doctor", "--json", "--wait", "1"]
    done = subprocess.run(command, env=gate.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != Exit.OK, done.stdout + done.stderr
    wrong = {finding["part"]: finding["text"] for finding in json.loads(done.stdout) if not finding["ok"]}
    assert "storage.objects.delete" in wrong["artifacts"]
    # Some seconds after readiness, so that the first requests don't wait for the store's library.
    said = "gatehouse serve: error: artifacts can't be stored or read: "
    wait_for(lambda: said in gate.log(), "the server to say so", 60, gate.log)
    assert "needs the permission storage.objects.delete on gs://artifacts" in gate.log()


def test_a_missing_bucket_and_missing_credentials_are_said(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="There is no bucket gs://another"):
        open_store("gs://another/mlflow").check()
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent.json")
    with pytest.raises(StoreError, match="no usable Google credentials"):
        open_store("gs://artifacts/mlflow")
    assert wire.store.names() == []


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
def test_an_upload_that_was_damaged_is_not_stored(wire: Wire, known: bool) -> None:
    to = open_store("gs://artifacts/mlflow")
    wire.damage = flip
    with pytest.raises(Damaged, match="Nothing was stored"):
        store(os.urandom(5_000_000), "large.bin", to, known)
    assert wire.store.names() == []


def test_a_download_that_was_damaged_never_looks_complete(wire: Wire) -> None:
    to = open_store("gs://artifacts/mlflow")
    data = os.urandom(1_000_000)
    store(data, "a.bin", to, known=True)
    wire.damage = flip
    source = to.open("a.bin")
    got: list[bytes] = []
    with pytest.raises(Damaged):
        got.extend(iter(source.read, b""))
    source.close()
    assert len(b"".join(got)) < len(data)
    to.delete("a.bin")


def test_a_store_that_cannot_be_reached_is_said_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("gatehouse.artifacts.stores.google.RETRY_S", 0.5)
    to = open_store("gs://artifacts/mlflow")
    with pytest.raises(StoreError, match="can't be reached") as raised:
        to.stat("a")
    assert raised.value.status == 503
    assert not list(tmp_path.iterdir())
