"""The memory that requests' bodies may take at once in a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
#: Of the container's memory: MLflow itself takes half of the smallest that it runs in (512 MiB).
SHARE_OF_MEMORY = 4
#: Where nothing limits the memory, and at least, and at most.
DEFAULT, LEAST, MOST = 512 * MIB, 96 * MIB, 1024 * MIB
#: Seconds that a request waits for memory before it is told to come later.
PATIENCE = 5.0


class NoMemory(Exception):
    """The bodies that are being served leave no memory for this one within PATIENCE."""


class Budget:
    """Bytes of memory for bodies; one identity gets at most half of them, and a request that is its only one all.

    Args:
        capacity: bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._held: Counter[str] = Counter()
        self._waiting: deque[tuple[Reservation, int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        """Bytes that are held."""
        return self.capacity - self._free

    @contextlib.contextmanager
    def reservation(self, who: str) -> Iterator[Reservation]:
        """Have a reservation that is given back at the end."""
        reservation = Reservation(self, who)
        try:
            yield reservation
        finally:
            self._give_back(reservation)

    def _fits(self, reservation: Reservation, amount: int) -> bool:
        others = self._held[reservation.who] - reservation.held
        return amount <= self._free and (not others or others + reservation.held + amount <= self.capacity // 2)

    async def _take(self, reservation: Reservation, amount: int) -> None:
        if not self._fits(reservation, amount):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (reservation, amount, turn)
            self._waiting.append(entry)
            try:
                async with asyncio.timeout(PATIENCE):
                    await turn
            except TimeoutError:
                if not turn.done() or turn.cancelled():
                    raise NoMemory from None
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(entry)
            return
        self._note(reservation, amount)

    def _note(self, reservation: Reservation, amount: int) -> None:
        self._free -= amount
        self._held[reservation.who] += amount
        reservation.held += amount

    def _give_back(self, reservation: Reservation) -> None:
        self._free += reservation.held
        self._held[reservation.who] -= reservation.held
        if not self._held[reservation.who]:
            del self._held[reservation.who]
        reservation.held = 0
        for entry in list(self._waiting):
            waiter, amount, turn = entry
            if not turn.done() and self._fits(waiter, amount):
                self._note(waiter, amount)
                turn.set_result(None)


class Reservation:
    """What one request holds."""

    def __init__(self, budget: Budget, who: str) -> None:
        self._budget = budget
        self.who = who
        self.held = 0

    async def take(self, amount: int) -> None:
        """Hold so many bytes more, or as many as there are at all.

        Raises:
            NoMemory: if there are none in time.
        """
        amount = min(amount, self._budget.capacity - self.held)
        if amount > 0:
            await self._budget._take(self, amount)


def capacity(workers: int) -> int:
    """Return what each of the processes that share this container may take."""
    limit = None
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(name).read_text())
            break
    # Without a limit, the first file says "max" and the second one a number beyond any machine's.
    whole = DEFAULT if limit is None or limit > 2**50 else max(LEAST, min(MOST, limit // SHARE_OF_MEMORY))
    return whole // workers
