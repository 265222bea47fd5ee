"""Uploads in parts: what is buffered, and how many parts are under way, over all uploads of a store."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from gatehouse.artifacts.stores.base import Damaged, Full, Sink, Stat, StoreError

MIB = 1024 * 1024
#: Parts that all uploads of a store together may have in memory, the one that each fills included: a fast client isn't
#: held up by each part's answer as long as few others are there.
PARTS_IN_MEMORY = 6
#: Bytes of a part at most: a client's announcement decides how much an upload buffers.
LARGEST_PART = 16 * MIB
#: Of glibc's malloc.h: larger pieces have a mapping of their own.
M_MMAP_THRESHOLD = -3


def part_sizes(size: int | None, least: int, most_parts: int) -> Iterator[int]:
    """Return the bytes of each part: all the same for a known size.

    For an unknown one they double every tenth of the parts.

    The last one may come out smaller. Parts of one size are what some S3-compatible stores insist on (Cloudflare's R2).

    Raises:
        Full: if the artifact is too large for parts that a server can hold.
    """
    if size is None:
        return (min(least << (10 * number // most_parts), LARGEST_PART) for number in range(most_parts))
    same = max(least, -(-size // (most_parts * MIB)) * MIB)
    if same > LARGEST_PART:
        raise Full(
            f"The artifact is larger than {most_parts * LARGEST_PART >> 30} GiB, the most that goes through this "
            "server."
        )
    return itertools.repeat(same, most_parts)


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
        self._lock = threading.Lock()
        self._uploads = 0
        self._ahead = 0
        self._pool = ThreadPoolExecutor(PARTS_IN_MEMORY, thread_name_prefix="gatehouse-part")

    def join(self, uploads: int) -> None:
        """Count an upload that begins, or one that ends (-1)."""
        with self._lock:
            self._uploads += uploads

    def send(self, task: Callable[[], str]) -> Future[str]:
        """Return the future of a part's tag; it has ended already if the caller's thread had to do it."""
        with self._lock:
            room = self._uploads + self._ahead < PARTS_IN_MEMORY
            self._ahead += room
        if room:
            future = self._pool.submit(task)
            future.add_done_callback(self._arrived)
            return future
        future = Future()
        try:
            future.set_result(task())
        except Exception as error:
            future.set_exception(error)
        return future

    def _arrived(self, _: Future[str]) -> None:
        with self._lock:
            self._ahead -= 1


class PartedSink(Sink):
    """An upload that is one request if it fits into a part, and otherwise parts which the store joins at the end."""

    def __init__(self, lane: Lane, size: int | None, least: int, most_parts: int) -> None:
        self._lane = lane
        self._expected = size
        self._sizes = part_sizes(size, least, most_parts)
        self._buffer = bytearray()
        self._filled = 0
        self._tags: list[Future[str]] = []
        self._over = False
        self.size = 0
        lane.join(1)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        if self._expected is not None and self.size + len(rest) > self._expected:
            raise Damaged(f"More than the {self._expected} bytes that were announced came. Nothing was stored.")
        while rest:
            if self._filled == len(self._buffer):
                if self._filled:
                    self._send()
                self._buffer = self._next_buffer()
            taken = rest[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self.size += len(taken)
            rest = rest[len(taken) :]

    def commit(self) -> Stat:
        try:
            if self._expected is not None and self.size != self._expected:
                raise Damaged(f"{self.size} bytes came, and {self._expected} were announced. Nothing was stored.")
            del self._buffer[self._filled :]
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
        self._lane.join(-1)
        return stat

    def abort(self) -> None:
        if self._over:
            return
        self._over = True
        self._lane.join(-1)
        self._buffer = bytearray()
        for tag in self._tags:
            tag.cancel()
        # A part that arrives after the upload was thrown away would stay, and cost money.
        wait(self._tags)
        if self._tags:
            with contextlib.suppress(StoreError):
                self._discard()

    def _next_buffer(self) -> bytearray:
        """Return room for a part: all at once, for a buffer that grows leaves its former places behind."""
        try:
            size = next(self._sizes)
        except StopIteration:
            raise Full("The artifact is larger than what goes through this server in parts.") from None
        return bytearray(size if self._expected is None else min(size, self._expected - self.size))

    def _send(self) -> None:
        for tag in self._tags:
            if tag.done():
                tag.result()
        if not self._tags:
            self._begin()
        part, self._buffer, self._filled = self._buffer, bytearray(), 0
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
