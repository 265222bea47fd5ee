"""Who gets the next free thread: one identity's slow requests can't take all of them.

Where others have asked lately, nobody holds the last place; whoever runs the least comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

#: Others count for so long after they last asked.
LATELY_S = 60.0


class Turns:
    """Hands out ``places`` that handlers run in; for one event loop.

    Args:
        places: how many may run at once.
        clock: seconds, monotonic.
    """

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.places = places
        self._clock = clock
        self._running: Counter[Hashable] = Counter()
        self._waiting: list[tuple[Hashable, asyncio.Future[None]]] = []
        self._asked: dict[Hashable, float] = {}

    @property
    def running(self) -> int:
        """Places that are taken."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def turn(self, who: Hashable) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        self._asked.pop(who, None)
        self._asked[who] = self._clock()  # the last one asked last
        while len(self._asked) > 1000:
            del self._asked[next(iter(self._asked))]
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((who, place))
        self._admit()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self._running[who] -= 1
                if not self._running[who]:
                    del self._running[who]
            else:
                self._waiting.remove((who, place))
            self._admit()

    def _admit(self) -> None:
        """Give free places to those who run the least; among these, to who has waited the longest."""
        while self._waiting and (free := self.places - self._running.total()):
            first = min(range(len(self._waiting)), key=lambda index: self._running[self._waiting[index][0]])
            who, place = self._waiting[first]
            if free == 1 and self.places > 1 and self._running[who] and self._others_lately(who):
                return  # the last place is for somebody else
            del self._waiting[first]
            if place.cancelled():
                continue
            self._running[who] += 1
            place.set_result(None)

    def _others_lately(self, who: Hashable) -> bool:
        """Tell whether somebody else asked lately, or runs."""
        since = self._clock() - LATELY_S
        return any(other != who for other in self._running) or any(
            other != who and asked > since for other, asked in self._asked.items()
        )
