"""Uploads in parts: what is buffered, and how many parts are under way, over all uploads of a store."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from gatehouse.stores.base import Damaged, Sink, Stat, StoreError

MIB = 1024 * 1024
#: Parts that all uploads of a store together may have under way besides the one that each fills, so that a fast client isn't
#: held up by each part's answer.
PARTS_AHEAD = 2
#: Of glibc's malloc.h: larger pieces have a mapping of their own.
M_MMAP_THRESHOLD = -3


def part_sizes(size: int | None, least: int, most_parts: int) -> Iterator[int]:
    """Yield the bytes of each part: all the same for a known size; for an unknown one they double every tenth of the parts.

    The last one may come out smaller. Parts of one size are what some S3-compatible stores insist on (Cloudflare's R2).
    """
    if size is not None:
        same = max(least, -(-size // most_parts // MIB) * MIB)
        while same * most_parts < size:
            same += MIB
        for _ in range(most_parts):
            yield same
    else:
        for number in range(most_parts):
            yield least << (10 * number // most_parts)


def give_freed_parts_back() -> None:
    """Have the C library return a part's memory to the system when it is freed.

    It would keep it instead, in an area of each thread: twice the memory with eight uploads at once (mallopt(3)).
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MIB)


class Lane:
    """Sends parts in the background while there is room, and in the caller's thread when there is none."""

    def __init__(self) -> None:
        give_freed_parts_back()
        self._places = threading.BoundedSemaphore(PARTS_AHEAD)
        self._pool = ThreadPoolExecutor(PARTS_AHEAD, thread_name_prefix="gatehouse-part")

    def send(self, task: Callable[[], str]) -> Future[str]:
        """Return the future of a part's tag; it has ended already if the caller's thread had to do it."""
        if self._places.acquire(blocking=False):
            future = self._pool.submit(task)
            future.add_done_callback(lambda _: self._places.release())
            return future
        future = Future()
        try:
            future.set_result(task())
        except Exception as error:
            future.set_exception(error)
        return future


class PartedSink(Sink):
    """An upload that is one request if it fits into a part, and otherwise parts which the store joins at the end."""

    def __init__(self, lane: Lane, size: int | None, least: int, most_parts: int) -> None:
        self._lane = lane
        self._expected = size
        self._sizes = part_sizes(size, least, most_parts)
        self._room = next(self._sizes)
        self._buffer = bytearray()
        self._tags: list[Future[str]] = []
        self._over = False
        self.size = 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if len(self._buffer) == self._room:
                self._flush()
            taken = rest[: self._room - len(self._buffer)]
            self._buffer += taken
            rest = rest[len(taken) :]
        self.size += len(data)

    def commit(self) -> Stat:
        try:
            if self._expected is not None and self.size != self._expected:
                raise Damaged(f"{self.size} bytes came, and {self._expected} were announced. Nothing was stored.")
            if not self._tags:
                stat = self._put_whole(self._buffer)
            else:
                if self._buffer:
                    self._send()
                stat = self._join([tag.result() for tag in self._tags])
        except BaseException:
            self.abort()
            raise
        self._over = True
        return stat

    def abort(self) -> None:
        if self._over:
            return
        self._over = True
        self._buffer = bytearray()
        for tag in self._tags:
            tag.cancel()
        # A part that arrives after the upload was thrown away would stay, and cost money.
        wait(self._tags)
        if self._tags:
            with contextlib.suppress(StoreError):
                self._discard()

    def _flush(self) -> None:
        for tag in self._tags:
            if tag.done():
                tag.result()
        self._send()
        try:
            self._room = next(self._sizes)
        except StopIteration:
            raise StoreError("The artifact is larger than this store takes in parts.") from None

    def _send(self) -> None:
        if not self._tags:
            self._begin()
        part, self._buffer = self._buffer, bytearray()
        self._tags.append(self._lane.send(partial(self._put_part, len(self._tags) + 1, part)))

    @abstractmethod
    def _begin(self) -> None:
        """Begin an upload in parts."""

    @abstractmethod
    def _put_part(self, number: int, data: bytearray) -> str:
        """Send a part, counted from 1; return what the store needs to join it."""

    @abstractmethod
    def _join(self, tags: list[str]) -> Stat:
        """Put the parts under the artifact's name."""

    @abstractmethod
    def _put_whole(self, data: bytearray) -> Stat:
        """Put an artifact of one part under its name."""

    @abstractmethod
    def _discard(self) -> None:
        """Throw the parts away."""
