"""Eight transfers at once take the memory of a few pieces each, whatever the artifacts' size."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.artifacts.conftest import Stored

MIB = 1024 * 1024
AT_ONCE = 8
SIZE = int(os.environ.get("ARTIFACT_MIB") or 64) * MIB
MOST_GROWTH = 64 * MIB


def memory(stored: Stored) -> int:
    """Return the bytes that the server and the proxy hold (proportional set size)."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in stored.gate.children().values()]
    return 1024 * sum(int(found[1]) for text in rollups if (found := re.search(r"^Pss: +(\d+)", text, re.M)))


class Zeros:
    """A body of zeros that takes no memory at the client."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[bytes]:
        return iter([bytes(MIB)] * (SIZE // MIB))


def peak(stored: Stored, transfer: Callable[[int], object]) -> int:
    """Run eight transfers at once; return the most memory that was seen meanwhile."""
    seen = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            seen.append(memory(stored))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(transfer, range(AT_ONCE)))
    finally:
        done.set()
        watcher.join()
    return max(seen)


def test_eight_at_once_take_64_mib_at_most(stored: Stored) -> None:
    def upload(number: int) -> None:
        with stored.gate.session() as session:
            answer = session.put(stored.url(f"zeros{number}"), data=Zeros(), timeout=600)
            assert answer.status_code == 200, answer.text

    def download(number: int) -> None:
        with stored.gate.session() as session, session.get(stored.url(f"zeros{number}"), stream=True) as answer:
            assert sum(map(len, answer.iter_content(MIB))) == SIZE

    stored.session.put(stored.url("first"), data=bytes(5 * MIB), timeout=20)  # loads what is loaded at first use
    before = memory(stored)
    grown = {transfer.__name__: (peak(stored, transfer) - before) // MIB for transfer in (upload, download)}
    stored.session.delete(f"{stored.url('')}".rstrip("/"), timeout=60)
    print("growth in MiB:", grown)
    assert max(grown.values()) * MIB <= MOST_GROWTH, grown
