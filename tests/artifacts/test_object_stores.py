"""What S3 and Azure both promise, against real servers:

whole artifacts or none, constant memory, errors that say the fix.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timezone
from itertools import islice
from typing import Any

import pytest
import requests

from gatehouse.artifacts.stores.azure import BLOCK, MOST_BLOCKS, AzureStore
from gatehouse.artifacts.stores.base import Damaged, Denied, Entry, Full, NotFound, Store, StoreError
from gatehouse.artifacts.stores.parts import LARGEST_PART, MIB, part_sizes
from gatehouse.artifacts.stores.s3 import MOST_PARTS, PART, S3Store
from tests.artifacts.object_stores import Meddler, Server, azure_server, s3_server

KINDS: dict[str, Any] = {"s3": s3_server, "azure": azure_server}
STORES: dict[str, Any] = {"s3": S3Store, "azure": AzureStore}
LIFE_S = 300


@dataclass
class Place:
    """A store, its server, and a way to the server that tests may meddle with."""

    kind: str
    server: Server
    store: Store
    meddler: Meddler

    def through_the_meddler(self) -> Store:
        environment = {
            name: value.replace(f":{self.server.port}", f":{self.meddler.port}")
            for name, value in self.server.environment.items()
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            store: Store = STORES[self.kind](self.server.destination)
            return store


@pytest.fixture(scope="module", params=["s3", "s3 with whole checksums", "azure"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Each kind of store; S3 as other makers' stores have it, and as Amazon's."""
    kind, _, whole = request.param.partition(" ")
    with KINDS[kind](tmp_path_factory.mktemp(kind)) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        if whole:
            patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
        meddler = Meddler(server.port)
        yield Place(kind, server, STORES[kind](server.destination), meddler)
        meddler.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.store


def put(store: Store, path: str, data: bytes, known: bool = True) -> str:
    sink = store.create(path, len(data) if known else None)
    for start in range(0, len(data), 700_000):
        sink.write(data[start : start + 700_000])
    return sink.commit().etag


def get(store: Store, path: str, *span: Any) -> bytes:
    source = store.open(path, *span)
    try:
        return b"".join(iter(source.read, b""))
    finally:
        source.close()


def noise(size: int, start: bytes = b"") -> bytes:
    return start + os.urandom(size - len(start))


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART, 3 * PART + 17])
def test_what_was_written_is_read_back_with_its_size_and_tag(store: Store, size: int, known: bool) -> None:
    data = noise(size)
    tag = put(store, "back/model.bin", data, known)
    found = store.stat("back/model.bin")
    assert (found.size, found.etag) == (size, tag)
    assert found.modified is not None
    assert found.modified.tzinfo is timezone.utc, "the only one that HTTP's dates take"
    assert get(store, "back/model.bin") == data


@pytest.mark.parametrize("size", [10, 2 * PART + 1], ids=["in one request", "in parts"])
def test_the_old_artifact_stays_until_the_new_one_is_whole(store: Store, size: int) -> None:
    old, new = noise(100), noise(size)
    put(store, "swap/model.bin", old)
    sink = store.create("swap/model.bin", size)
    sink.write(new)
    assert get(store, "swap/model.bin") == old
    sink.commit()
    assert get(store, "swap/model.bin") == new


@pytest.mark.parametrize("size", [10, 2 * PART + 1], ids=["in one request", "in parts"])
def test_an_upload_that_is_given_up_leaves_nothing(store: Store, size: int) -> None:
    sink = store.create("given-up/model.bin", size)
    sink.write(noise(size))
    sink.abort()
    assert list(store.list("given-up")) == []
    with pytest.raises(NotFound):
        store.stat("given-up/model.bin")


def test_an_upload_shorter_than_announced_is_refused(store: Store) -> None:
    sink = store.create("short/model.bin", 11)
    sink.write(b"ten bytes!")
    with pytest.raises(Damaged, match="10 bytes came, and 11 were announced"):
        sink.commit()
    assert list(store.list("short")) == []


@pytest.mark.parametrize("size", [1000, 2 * PART], ids=["in one request", "in parts"])
def test_bytes_that_change_on_the_way_up_are_never_stored(place: Place, size: int) -> None:
    store = place.through_the_meddler()
    place.meddler.up = (b"gatehouse-mark", b"gatehouse-MARK")
    try:
        # Azure says Md5Mismatch, and Azurite InvalidOperation.
        with pytest.raises(Damaged if place.kind == "s3" else StoreError):
            put(store, "up/model.bin", noise(size, b"gatehouse-mark"))
    finally:
        place.meddler.up = None
    assert list(place.store.list("up")) == []


@pytest.mark.parametrize("place", ["s3 with whole checksums", "azure"], indirect=True)
def test_bytes_that_change_on_the_way_down_never_end_cleanly(place: Place) -> None:
    store = place.through_the_meddler()
    put(store, "down/model.bin", noise(1000, b"gatehouse-mark"))
    place.meddler.down = (b"gatehouse-mark", b"gatehouse-MARK")
    try:
        with pytest.raises(StoreError):
            get(store, "down/model.bin")
    finally:
        place.meddler.down = None


def test_a_download_goes_on_where_the_connection_broke(place: Place) -> None:
    data = noise(3 * PART)
    put(place.store, "broken/model.bin", data)
    store = place.through_the_meddler()
    source = store.open("broken/model.bin")
    cuts = place.meddler.cuts
    place.meddler.cut_after = PART
    assert b"".join(iter(source.read, b"")) == data
    assert place.meddler.cuts == cuts + 1


def test_ranges_are_exact(store: Store) -> None:
    data = noise(2 * PART)
    put(store, "range/model.bin", data)
    for start, stop in [(0, 1), (5, 100), (PART - 3, PART + 3), (2 * PART - 1, 2 * PART), (0, 2 * PART), (7, None)]:
        assert get(store, "range/model.bin", start, stop) == data[start:stop]
    assert store.open("range/model.bin", 5, 9).stat.size == len(data), "the size is the whole artifact's"


def test_one_version_is_read_or_none(store: Store) -> None:
    first = put(store, "version/model.bin", noise(3 * PART))
    assert get(store, "version/model.bin", 0, 10, first)
    source = store.open("version/model.bin", 0, None, first)
    source.read()
    second = put(store, "version/model.bin", noise(3 * PART))
    assert second != first
    with pytest.raises(NotFound, match="replaced by another version"):
        store.open("version/model.bin", 0, None, first).read()
    source.close()


@pytest.mark.parametrize("path", ["missing/model.bin", "folder"])
def test_what_is_no_artifact_is_not_found(store: Store, path: str) -> None:
    put(store, "folder/model.bin", b"x")
    with pytest.raises(NotFound):
        store.stat(path)
    with pytest.raises(NotFound):
        store.open(path)


def test_a_folder_is_listed_one_level_deep_by_name(store: Store) -> None:
    names = ["b", "a-b", "a/deep/er", "ä ö/☃.txt", "100%25.txt", "+plus&=?#", "a/z"]
    for name in names:
        put(store, f"listed/{name}", name.encode())
    found = list(store.list("listed"))
    assert found == [
        Entry("+plus&=?#", False, 9),
        Entry("100%25.txt", False, 10),
        Entry("a", True),
        Entry("a-b", False, 3),
        Entry("b", False, 1),
        Entry("ä ö", True),
    ]
    assert [entry.name for entry in store.list("listed/a")] == ["deep", "z"]
    assert list(store.list("listed/nothing")) == []
    assert "listed" in [entry.name for entry in store.list("")]
    assert all(get(store, f"listed/{name}") == name.encode() for name in names)


def test_a_folder_is_deleted_with_all_in_it_and_nothing_beside_it(store: Store) -> None:
    for name in ["run1/a", "run1/b/c", "run10/a", "run1.txt"]:
        put(store, f"deleted/{name}", b"x")
    store.delete("deleted/run1")
    assert [entry.name for entry in store.list("deleted")] == ["run1.txt", "run10"]
    store.delete("deleted/run1.txt")
    store.delete("deleted/run1.txt")
    assert [entry.name for entry in store.list("deleted")] == ["run10"]


def test_the_root_is_never_deleted(store: Store) -> None:
    with pytest.raises(Denied):
        store.delete("")


def test_the_check_passes_and_leaves_nothing(store: Store) -> None:
    before = list(store.list(""))
    store.check()
    assert list(store.list("")) == before


def test_two_uploads_to_one_name_never_mix(store: Store) -> None:
    contents = [noise(3 * PART), noise(3 * PART)]
    sinks = [store.create("race/model.bin", 3 * PART) for _ in contents]
    for start in range(0, 3 * PART, PART):
        for sink, data in zip(sinks, contents, strict=True):
            sink.write(data[start : start + PART])
    sinks[0].commit()
    with contextlib.suppress(StoreError):  # Azure drops the blocks of all others, and the loser is told
        sinks[1].commit()
    assert get(store, "race/model.bin") in contents


#: Uploads without an end, and says so once something is at the store.
ENDLESS = """
import sys
from gatehouse.artifacts.stores.{module} import {store}
sink = {store}(sys.argv[1]).create("killed/model.bin")
while True:
    sink.write(bytes(1 << 20))
    if sink.size == 16 << 20:
        print("under way", flush=True)
"""


def test_a_killed_server_leaves_nothing_under_the_name_and_a_retry_works(place: Place) -> None:
    program = ENDLESS.format(module=place.kind, store=STORES[place.kind].__name__)
    with subprocess.Popen(
        [sys.executable, "-c", program, place.server.destination], stdout=subprocess.PIPE, text=True
    ) as upload:
        assert upload.stdout is not None
        assert upload.stdout.readline() == "under way\n"
        upload.send_signal(signal.SIGKILL)
    assert list(place.store.list("killed")) == []
    data = noise(2 * PART)
    put(place.store, "killed/model.bin", data)
    assert get(place.store, "killed/model.bin") == data


def test_a_signed_address_downloads_one_artifact_and_does_nothing_else(store: Store) -> None:
    put(store, "signed/ü 1.bin", b"some bytes")
    signed = store.sign_download("signed/ü 1.bin", LIFE_S)
    answer = requests.get(signed.url, headers=signed.headers, timeout=30)
    assert (answer.status_code, answer.content) == (200, b"some bytes")
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''%C3%BC%201.bin"
    assert answer.headers["Content-Type"] == "application/octet-stream", "a page in the bucket isn't shown as one"
    assert (
        requests.put(signed.url, data=b"other", headers={"x-ms-blob-type": "BlockBlob"}, timeout=30).status_code == 403
    )
    assert requests.delete(signed.url, timeout=30).status_code == 403
    assert requests.get(signed.url.replace("1.bin", "2.bin"), timeout=30).status_code == 403
    assert get(store, "signed/ü 1.bin") == b"some bytes"


def test_a_signed_upload_in_parts_appears_when_it_is_completed(store: Store) -> None:
    parts = [noise(PART), noise(PART), noise(100)]
    upload = store.begin_multipart("direct/model.bin", len(parts), LIFE_S)
    tags = []
    for target, data in zip(upload.parts, parts, strict=True):
        answer = requests.put(target.url, data=data, headers=target.headers, timeout=60)
        assert answer.ok, answer.text
        tags.append(answer.headers.get("ETag", ""))
    assert list(store.list("direct")) == []
    store.complete_multipart("direct/model.bin", upload.upload_id, tags)
    assert get(store, "direct/model.bin") == b"".join(parts)


def test_a_signed_upload_that_is_given_up_leaves_nothing(store: Store) -> None:
    upload = store.begin_multipart("direct-given-up/model.bin", 2, LIFE_S)
    assert requests.put(upload.parts[0].url, data=noise(PART), timeout=60).ok
    store.abort_multipart("direct-given-up/model.bin", upload.upload_id)
    store.abort_multipart("direct-given-up/model.bin", upload.upload_id)
    assert list(store.list("direct-given-up")) == []


@pytest.mark.parametrize("upload", ["nonsense", "../../x", "0" * 32])
def test_an_upload_that_was_never_begun_cant_be_completed(store: Store, upload: str) -> None:
    with pytest.raises(StoreError):
        store.complete_multipart("never/model.bin", upload, ["0" * 32])
    assert list(store.list("never")) == []


@pytest.mark.parametrize("parts", [0, -1, 10_001])
def test_the_number_of_signed_parts_is_bounded(store: Store, parts: int) -> None:
    with pytest.raises(StoreError, match="10000 parts"):
        store.begin_multipart("bounded/model.bin", parts, LIFE_S)


def test_a_store_that_is_down_is_named_and_works_again_when_it_is_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pauses between attempts are the library's; their number is what takes the time.
    monkeypatch.setattr("gatehouse.artifacts.stores.s3.ATTEMPTS", 2)
    monkeypatch.setattr("gatehouse.artifacts.stores.azure.RETRIES", 0)
    store: Store = STORES[place.kind](place.server.destination)
    sink = store.create("outage/lost.bin")
    sink.write(b"y")
    place.server.kill()
    actions: list[Callable[[], object]] = [lambda: store.stat("outage/model.bin"), sink.commit]
    for action in actions:
        with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{place.server.port} can't be used") as caught:
            action()
        assert caught.value.status == 503
    place.server.start()
    put(store, "outage/model.bin", b"x")
    assert [entry.name for entry in store.list("outage")] == ["model.bin"]


@pytest.mark.parametrize(("least", "most"), [(PART, MOST_PARTS), (BLOCK, MOST_BLOCKS)], ids=["s3", "azure"])
def test_every_size_fits_into_the_parts_that_a_store_allows(least: int, most: int) -> None:
    largest = most * LARGEST_PART
    for size in [0, 1, least, most * least - 1, most * least, most * least + 1, 100 << 30, largest]:
        sizes = list(part_sizes(size, least, most))
        assert len(sizes) <= most
        assert sum(sizes) >= size
        assert len(set(sizes)) == 1, "stores like R2 take parts of one size only"
        assert least <= sizes[0] <= LARGEST_PART
        assert sizes[0] % MIB == 0
    with pytest.raises(Full, match="GiB, the most that goes through this server"):
        part_sizes(largest + 1, least, most)


def test_an_announced_size_alone_takes_no_memory(store: Store) -> None:
    with pytest.raises(Full):
        store.create("huge.bin", 1 << 60)


def test_parts_of_an_unknown_size_grow_late() -> None:
    sizes = list(part_sizes(None, PART, MOST_PARTS))
    assert len(sizes) == MOST_PARTS
    assert sum(sizes) >= 100 << 30
    assert set(islice(sizes, 1000)) == {PART}, "the first 5 GB take no more memory than an upload of known size"
    assert all(PART <= size <= LARGEST_PART for size in sizes)
