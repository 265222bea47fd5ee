"""obstore beside our own stores: docs/decisions/0016 has the figures and what was decided.

``uv run --with obstore==0.12.1 python -m bench.spikes.obstore_stores [MIB]`` in a checkout whose ``.venv`` is ready.
Each figure is of a process of its own that moves one object to and from the tests' own servers, in pieces of 256 KiB as
the layer does.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

PIECE = 256 * 1024


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def pieces(mib: int) -> int:
    return mib * 1024 * 1024 // PIECE


class Broken(Exception):
    """The client went away in the middle."""


def ours(mib: int) -> dict[str, Any]:
    """Move an object with Gatehouse's store of ARTIFACTS_DESTINATION."""
    from gatehouse.artifacts.stores import open_store

    began = time.perf_counter()
    store = open_store(os.environ["ARTIFACTS_DESTINATION"])
    found: dict[str, Any] = {"load_s": time.perf_counter() - began}
    piece = os.urandom(PIECE)

    def put(path: str, count: int, fail_at: int | None = None) -> None:
        sink = store.create(path, count * PIECE)
        try:
            for number in range(count):
                if number == fail_at:
                    raise Broken
                sink.write(piece)
            sink.commit()
        except BaseException:
            sink.abort()
            raise

    def get(path: str) -> int:
        source, size = store.open(path), 0
        while data := source.read():
            size += len(data)
        source.close()
        return size

    return measure(found, mib, put, get)


def theirs(mib: int) -> dict[str, Any]:
    """Move an object with obstore, as its asynchronous interface takes bytes."""
    began = time.perf_counter()
    store = their_store()
    import obstore

    found: dict[str, Any] = {"load_s": time.perf_counter() - began}
    piece = os.urandom(PIECE)
    # Its default is 12 parts of 5 MiB ahead; ours sends one after the other.
    ahead = int(os.environ.get("AHEAD", "12"))

    async def send(path: str, count: int, fail_at: int | None) -> None:
        async def body() -> AsyncIterator[bytes]:
            for number in range(count):
                if number == fail_at:
                    raise Broken
                yield piece

        await obstore.put_async(store, path, body(), max_concurrency=ahead)

    def put(path: str, count: int, fail_at: int | None = None) -> None:
        asyncio.run(send(path, count, fail_at))

    def get(path: str) -> int:
        return sum(len(chunk) for chunk in obstore.get(store, path).stream(min_chunk_size=PIECE))

    return measure(found, mib, put, get)


def their_store() -> Any:
    """Return obstore's store for the same place."""
    from obstore.store import AzureStore, GCSStore, S3Store

    destination, plain = os.environ["ARTIFACTS_DESTINATION"], {"allow_http": True}
    if destination.startswith("gs:"):
        # With skip_signature alone it still asks the metadata server for a token.
        return GCSStore(
            "artifacts",
            prefix="theirs",
            base_url=os.environ["STORAGE_EMULATOR_HOST"],
            credential_provider=lambda: {"token": "none", "expires_at": None},
            client_options=plain,
        )
    if destination.startswith("s3:"):
        return S3Store(
            "artifacts",
            prefix="theirs",
            endpoint=os.environ["MLFLOW_S3_ENDPOINT_URL"],
            access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region="us-east-1",
            client_options=plain,
            checksum_algorithm="SHA256",
        )
    parts = dict(part.split("=", 1) for part in os.environ["AZURE_STORAGE_CONNECTION_STRING"].split(";"))
    return AzureStore(
        "artifacts",
        prefix="theirs",
        account_name=parts["AccountName"],
        account_key=parts["AccountKey"],
        endpoint=parts["BlobEndpoint"],
        client_options=plain,
    )


def measure(
    found: dict[str, Any], mib: int, put: Callable[[str, int, int | None], None], get: Callable[[str], int]
) -> dict[str, Any]:
    """Return the figures of one object up and down, and what a client that goes away leaves."""
    put("small", 4, None)  # what is loaded at the first use
    before = peak_mib()
    began = time.perf_counter()
    put("large", pieces(mib), None)
    found["up_mib_s"] = mib / (time.perf_counter() - began)
    found["up_grew_mib"] = peak_mib() - before
    before, began = peak_mib(), time.perf_counter()
    found["whole"] = get("large") == mib * 1024 * 1024
    found["down_mib_s"] = mib / (time.perf_counter() - began)
    found["down_grew_mib"] = peak_mib() - before
    # An upload over an artifact that is there breaks off, early and late.
    for when, fail_at in (("early", 2), ("late", pieces(mib) - 1)):
        try:
            put("small", pieces(mib), fail_at)
        except Broken:
            found[f"broken_{when}"] = "raised"
        except Exception as error:
            found[f"broken_{when}"] = f"raised {type(error).__name__}"
        else:
            found[f"broken_{when}"] = "STORED"
        size = get("small")
        found[f"broken_{when}"] += ", old one kept" if size == 4 * PIECE else f", {size} bytes under the name"
    return found


def main() -> int:
    """Run both on each store, in processes of their own; print a line of JSON for each."""
    if len(sys.argv) > 2:
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](int(sys.argv[2]))))
        return 0
    mib = sys.argv[1] if len(sys.argv) > 1 else "256"
    from tests.artifacts.google_server import google_server
    from tests.artifacts.object_stores import azure_server, s3_server

    wanted = os.environ.get("STORES", "google s3 azure").split()
    with tempfile.TemporaryDirectory(prefix="obstore-") as place:
        servers: dict[str, Any] = {
            "google": google_server,
            "s3": lambda: s3_server(Path(place) / "s3"),
            "azure": lambda: azure_server(Path(place) / "azure"),
        }
        for name in wanted:
            with servers[name]() as server:
                for which, ahead in (("ours", ""), ("theirs", "12"), ("theirs", "1")):
                    environment = {**os.environ, **server.environment, "AHEAD": ahead}
                    command = [sys.executable, "-m", "bench.spikes.obstore_stores", which, mib]
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                    text = done.stdout.strip() or done.stderr.strip()[-2000:]
                    print(name, which, ahead and f"{ahead} ahead", text, flush=True)
                remains(name, server)
    return 0


def remains(name: str, server: Any) -> None:
    """Print what the broken uploads left at the store where one can see it."""
    if name == "s3":
        left = [path for path in (server.folder / "data").rglob("*") if path.is_file() and "multipart" in str(path)]
        print(name, "parts left behind:", len(left), sum(path.stat().st_size for path in left) // 1024 // 1024, "MiB")


if __name__ == "__main__":
    sys.exit(main())
