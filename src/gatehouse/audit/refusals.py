"""The latest refusals of this server, for the access page: in memory, bounded, and gone with the process.

The audit log has every one; this is for whoever asks "why was I refused just now?". The same refusal of the same
identity is one entry with a count, and no identity has more than :data:`EACH` of them, so that whoever is refused a
thousand times pushes nobody else's out. Each of several workers leaves its own in the private folder of the start,
where the others read it, up to :data:`INTERVAL_S` seconds late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from gatehouse.operations.workspaces import Reach, reach
from gatehouse.request.objects import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gatehouse.request.context import Context

#: Entries that are kept in all, and of one identity.
MOST, EACH = 200, 20
#: Seconds between a refusal and its being there for the other workers.
INTERVAL_S = 1.0
_PATTERN = "refusals-*.json"


@dataclass(frozen=True)
class Refusal:
    """One refusal, with how often it was.

    Attributes:
        identity: who was refused; None for somebody unverified.
        key: the name of the key that came in the identity's place.
        workspace: the one that the request was for; None where workspaces are off.
        within: whether the request would have reached this workspace alone, so that its admins may see this.
        what: the operation in words, or the method and the path.
        status: the answer's.
        reason: the text that the refused was told, cut.
        request_id: of the latest one.
        first: when it was refused first, in seconds since the epoch.
        last: when it was refused last.
        count: how often.
    """

    identity: str | None
    key: str | None
    workspace: str | None
    within: bool
    what: str
    status: int
    reason: str
    request_id: str
    first: float
    last: float
    count: int = 1


class Refusals:
    """What was refused lately; the event loop's alone. Made before workers are forked.

    Args:
        folder: the private folder of the start, where several workers tell each other; None for one worker.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: OrderedDict[tuple[object, ...], Refusal] = OrderedDict()
        self._is_dirty = False
        self._publisher: asyncio.Task[None] | None = None
        #: Since when refusals are kept, in seconds since the epoch.
        self.since = time.time()

    def note(self, context: Context, status: int) -> None:
        """Remember a refused request."""
        route, identity, now = context.route, context.identity, time.time()
        operation = route.operation if route else None
        found = Refusal(
            identity=identity.email[:MAX_TEXT] if identity else None,
            key=identity.key if identity else None,
            workspace=context.workspace,
            # Whoever only named a workspace, and asked for something else, is nothing to its admins.
            within=route is not None and reach(route) in {Reach.WITHIN, Reach.ADMINISTERED},
            what=(operation or f"{context.method} {context.path}").replace("_", " ")[:MAX_TEXT],
            status=status,
            reason=(context.refusal or "")[: 2 * MAX_TEXT],
            request_id=context.request_id,
            first=now,
            last=now,
        )
        self._add(found)
        if self._folder is not None:
            self._is_dirty = True
            if self._publisher is None:
                self._publisher = asyncio.get_running_loop().create_task(self._publish(self._folder))

    async def recent(self) -> list[Refusal]:
        """Return the latest refusals of all workers, the latest first."""
        found = list(self._kept.values())
        if self._folder is not None:
            found += await asyncio.to_thread(self._read_others, self._folder)
        merged: dict[tuple[object, ...], Refusal] = {}
        for each in found:
            key = _key(each)
            merged[key] = _joined(merged[key], each) if key in merged else each
        return sorted(merged.values(), key=lambda each: each.last, reverse=True)[:MOST]

    def _read_others(self, folder: Path) -> list[Refusal]:
        found = []
        for path in folder.glob(_PATTERN):
            if path.name != self._name():
                with contextlib.suppress(OSError, ValueError):
                    found += [Refusal(**entry) for entry in json.loads(path.read_bytes())]
        return found

    def _add(self, found: Refusal) -> None:
        key = _key(found)
        if old := self._kept.pop(key, None):
            found = _joined(old, found)
        else:
            own = [each for each in self._kept if each[0] == found.identity]
            if len(own) >= EACH:
                del self._kept[own[0]]
            elif len(self._kept) >= MOST:
                self._kept.popitem(last=False)
        self._kept[key] = found

    def _name(self) -> str:
        return _PATTERN.replace("*", str(os.getpid()))

    async def _publish(self, folder: Path) -> None:
        """Leave this worker's refusals for the others, until there are no new ones."""
        while self._is_dirty:
            await asyncio.sleep(INTERVAL_S)
            self._is_dirty = False
            await asyncio.to_thread(self._write, folder, list(self._kept.values()))
        self._publisher = None

    def _write(self, folder: Path, kept: Iterable[Refusal]) -> None:
        path, new = folder / self._name(), folder / f"{self._name()}.new"
        # A full disk makes the others' page shorter, and nothing else.
        with contextlib.suppress(OSError):
            new.write_text(json.dumps([asdict(each) for each in kept]))
            new.replace(path)


def _key(refusal: Refusal) -> tuple[object, ...]:
    return refusal.identity, refusal.key, refusal.workspace, refusal.within, refusal.what, refusal.status


def _joined(one: Refusal, other: Refusal) -> Refusal:
    """Return two of the same as one, as the later one tells it."""
    later = max(one, other, key=lambda each: each.last)
    return replace(later, first=min(one.first, other.first), count=one.count + other.count)
