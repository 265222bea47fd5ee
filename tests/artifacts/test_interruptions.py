"""Whoever is killed, slow or out of room in the middle of a transfer:

nothing under the name, others unharmed, a retry works.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests

from gatehouse.artifacts.layer import TRANSFERS
from gatehouse.artifacts.stores import open_store
from gatehouse.exit_codes import Exit
from tests.artifacts.conftest import ARTIFACTS, Stored, files_below
from tests.artifacts.google_server import GoogleServer
from tests.support import Gate, Provider, missing, running, wait_for

MIB = 1024 * 1024
DISK_MIB = 48
LIMIT_S = 2


def begin(gate: Gate, path: str, length: int, sent: bytes = b"") -> socket.socket:
    """Begin an upload and send some of its body; return the connection."""
    connection = socket.create_connection(("localhost", gate.port), timeout=60)
    head = f"PUT {path} HTTP/1.1\r\nHost: localhost:{gate.port}\r\nContent-Length: {length}\r\n"
    head += f"Authorization: Bearer {gate.provider.token()}\r\n\r\n"
    connection.sendall(head.encode() + sent)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """Return what comes until the connection is closed, or the answer's body has begun."""
    received = b""
    with contextlib.suppress(OSError):
        while b"}" not in received and (data := connection.recv(65_536)):
            received += data
    return received


def uploads_aside(folder: Path) -> list[str]:
    """Return what a local store has not given a name yet."""
    aside = folder / ".gatehouse-uploads"
    return sorted(path.name for path in aside.iterdir()) if aside.exists() else []


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 48 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    if os.geteuid() != 0:
        missing("a disk that can be filled", "run the tests as root, who can mount one")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def tight(provider: Provider, small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with little patience, on a small disk."""
    folder = tmp_path_factory.mktemp("tight")
    with running(Gate(folder, provider, ARTIFACTS_DESTINATION=str(small_disk), ARTIFACT_TIMEOUT=str(LIMIT_S))) as gate:
        yield gate


def test_a_client_that_dies_leaves_the_old_artifact(stored: Stored) -> None:
    stored.session.put(stored.url("a"), data=b"the old one", timeout=20)
    path = f"{ARTIFACTS}/{stored.folder}/a"
    before = stored.names()
    begin(stored.gate, path, 10 * MIB, bytes(5 * MIB)).close()
    given_up = f"PUT {stored.folder}/a: the client went away"
    wait_for(lambda: given_up in stored.gate.log(), "the upload to be given up", 20, stored.gate.log)
    assert stored.session.get(stored.url("a"), timeout=20).content == b"the old one"
    assert stored.names() == before
    assert stored.session.put(stored.url("a"), data=b"the new one", timeout=20).status_code == 200
    assert stored.session.get(stored.url("a"), timeout=20).content == b"the new one"


def test_a_store_that_dies_is_said_to_be_down(google_store: Stored, google: GoogleServer) -> None:
    store = google_store
    url = f"{store.gate.url}{ARTIFACTS}/dies"
    data = os.urandom(40 * MIB)
    assert store.session.put(f"{url}/there", data=data, timeout=60).status_code == 200
    with store.gate.session() as reader:
        download = reader.get(f"{url}/there", stream=True, timeout=60)
        assert len(download.raw.read(MIB)) == MIB
        upload = begin(store.gate, f"{ARTIFACTS}/dies/new", 20 * MIB, bytes(8 * MIB))
        google.kill()
        try:
            # A download in the middle is cut off: the client can't take it for whole.
            with pytest.raises((requests.RequestException, OSError)):
                for _ in download.iter_content(MIB):
                    pass
            with contextlib.suppress(OSError):
                upload.sendall(bytes(12 * MIB))
            got = answer_of(upload)
            assert not got or b" 503 " in got.splitlines()[0], got
            with ThreadPoolExecutor(4) as pool:
                calls = [
                    pool.submit(
                        requests.request, method, f"{url}/there", data=body, headers=dict(store.session.headers)
                    )
                    for method, body in (("GET", None), ("PUT", b"x"), ("HEAD", None))
                ]
                listing = {"path": "dies"}
                calls.append(pool.submit(store.session.get, f"{store.gate.url}{ARTIFACTS}", params=listing))
            for call in calls:
                answer = call.result()
                assert answer.status_code == 503, answer.text
                assert answer.headers["Content-Type"] == "application/json"
                if answer.request.method != "HEAD":
                    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        finally:
            google.restart()
    assert google.names() == []
    assert store.session.put(f"{url}/new", data=data, timeout=60).status_code == 200
    assert store.session.get(f"{url}/new", timeout=60).content == data


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(tight: Gate, small_disk: Path) -> None:
    # Of a body that is nearly there (256 KiB), the proxy itself would wait for the rest before it passes an answer on.
    slow = begin(tight, f"{ARTIFACTS}/slow", MIB)
    done = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            while not done.wait(0.1):
                slow.sendall(b"x")

    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        with tight.session() as others:
            assert others.put(f"{tight.url}{ARTIFACTS}/quick", data=bytes(MIB), timeout=20).status_code == 200
            assert len(others.get(f"{tight.url}{ARTIFACTS}/quick", timeout=20).content) == MIB
        answer = answer_of(slow)
    finally:
        done.set()
        sender.join()
        slow.close()
    assert b" 408 " in answer.splitlines()[0], answer
    assert b'"DEADLINE_EXCEEDED"' in answer
    assert sorted(files_below(small_disk)) == ["quick"]


def test_a_client_that_stops_reading_is_cut_off(tight: Gate) -> None:
    size = 24 * MIB  # more than the buffers on the way hold
    with tight.session() as session:
        assert session.put(f"{tight.url}{ARTIFACTS}/large", data=bytes(size), timeout=20).status_code == 200
        with session.get(f"{tight.url}{ARTIFACTS}/large", stream=True, timeout=20) as answer:
            wait_for(lambda: "cut off" in tight.log(), "the reader to be cut off", 30, tight.log)
            with pytest.raises((requests.RequestException, OSError)):
                for _ in answer.iter_content(MIB):
                    pass
    with tight.session() as session:
        assert len(session.get(f"{tight.url}{ARTIFACTS}/large", timeout=20).content) == size


def test_transfers_beyond_the_limit_wait_and_then_hear_503(tight: Gate, small_disk: Path) -> None:
    chunk = bytes(64 * 1024)
    done = threading.Event()

    def go_on(number: int) -> None:
        with begin(tight, f"{ARTIFACTS}/busy{number}", 8 * MIB, chunk) as connection:
            while not done.wait(LIMIT_S / 4):
                connection.sendall(chunk)

    with tight.session() as session:
        session.put(f"{tight.url}{ARTIFACTS}/quick", data=b"x", timeout=20).raise_for_status()
    senders = [threading.Thread(target=go_on, args=[number], daemon=True) for number in range(TRANSFERS)]
    for sender in senders:
        sender.start()
    wait_for(lambda: len(uploads_aside(small_disk)) == TRANSFERS, "the transfers to begin", 20, tight.log)
    try:
        with tight.session() as session:
            # Quick calls, and what needs no transfer, go on.
            assert session.head(f"{tight.url}{ARTIFACTS}/quick", timeout=20).status_code == 200
            answer = session.put(f"{tight.url}{ARTIFACTS}/late", data=b"x", timeout=20)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10"), answer.text
    finally:
        done.set()
        for sender in senders:
            sender.join()
    with tight.session() as session:
        url = f"{tight.url}{ARTIFACTS}/late"
        wait_for(lambda: session.put(url, data=b"x", timeout=20).ok, "a place to be free again", 20, tight.log)


def test_a_full_disk_is_507_and_nothing_half_written(tight: Gate, small_disk: Path) -> None:
    before = files_below(small_disk)
    size = (DISK_MIB + 16) * MIB
    with tight.session() as session:
        for body in (bytes(size), iter([bytes(MIB)] * (size // MIB))):
            try:
                answer = session.put(f"{tight.url}{ARTIFACTS}/full", data=body, timeout=60)
            except requests.ConnectionError:
                continue  # the server answered and closed before all was sent; some clients miss the answer
            assert (answer.status_code, answer.json()["error_code"]) == (507, "RESOURCE_EXHAUSTED")
        wait_for(lambda: not uploads_aside(small_disk), "the upload to be given up", 20, tight.log)
        assert files_below(small_disk) == before
        assert session.put(f"{tight.url}{ARTIFACTS}/small", data=b"x", timeout=20).status_code == 200
    assert " 507 " in tight.log()


def test_a_server_that_is_killed_leaves_nothing_under_the_name(tight: Gate, small_disk: Path) -> None:
    with begin(tight, f"{ARTIFACTS}/killed", 10 * MIB, bytes(5 * MIB)):
        wait_for(lambda: uploads_aside(small_disk), "the upload to begin", 20, tight.log)
        os.kill(tight.children()["server"], signal.SIGKILL)
        assert tight.wait_end() == Exit.SERVER_ENDED
    assert "killed" not in files_below(small_disk)
    # What is left lies aside, and is swept up once it is old enough.
    left = open_store(f"file://{small_disk}")
    now = datetime.now(timezone.utc)
    assert list(left.sweep(now - timedelta(hours=1), dry_run=False)) == []
    [(path, size)] = left.sweep(now + timedelta(seconds=1), dry_run=True)
    assert 0 <= size <= 5 * MIB
    assert list(left.sweep(now + timedelta(seconds=1), dry_run=False)) == [(path, size)]
    assert uploads_aside(small_disk) == []
    tight.start().wait_ready()
    with tight.session() as session:
        assert session.put(f"{tight.url}{ARTIFACTS}/killed", data=b"whole", timeout=20).status_code == 200
        assert session.get(f"{tight.url}{ARTIFACTS}/killed", timeout=20).content == b"whole"
