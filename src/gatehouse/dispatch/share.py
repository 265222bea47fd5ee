"""How much of the event loop one identity may have: its next requests wait until some of its own are answered.

The loop takes what is ready in turn. So whoever has hundreds of requests ready, each of which costs some milliseconds
there (a body to look through, a filter to parse, a line to write), makes everybody wait for all of them. With a share
for each identity, others wait for that many at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

from gatehouse.bodies.reader import Disconnected
from gatehouse.request.context import Crowded
from gatehouse.request.responses import error_response, send_all

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send

    from gatehouse.request.context import Context, Handler

#: Requests of one identity in each worker between their body and their answer. MLflow's quick handlers have four
#: threads at most: twice as many keep them busy. What moves bytes or waits for other servers isn't counted.
SHARE = 8
#: Requests of one identity that may wait for that.
QUEUE = 1_000


class Shares:
    """Counts the requests of each identity; for one event loop.

    Args:
        share: how many of them may go on at once.
        queue: how many more may wait.
    """

    def __init__(self, share: int = SHARE, queue: int = QUEUE) -> None:
        self._share = share
        self._queue = queue
        self._running: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    async def enter(self, who: str) -> bool:
        """Wait until the identity has fewer than its share, and count one more; return whether it had to wait.

        Raises:
            Crowded: if too many wait already.
        """
        if self._running[who] < self._share:
            self._running[who] += 1
            return False
        waiting = self._waiting[who]
        if len(waiting) >= self._queue:
            raise Crowded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(who)
            raise
        return True

    def leave(self, who: str) -> None:
        """Count one less; the one that has waited the longest goes on."""
        waiting = self._waiting.get(who, ())
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(who, None)
        self._running[who] -= 1
        if not self._running[who]:
            del self._running[who]


class ShareLayer:
    """Layer: a request waits for its identity's share once its body is there, and gives it back as the answer starts.

    Args:
        app: the next layer. Whoever reads a body in it calls ``context.enter`` then; whoever hands the request to what
            has limits of its own calls ``context.leave``.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app
        self._shares = Shares()

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        who = context.key
        entered = left = False

        async def enter() -> None:
            nonlocal entered
            if not entered and not left:
                waited = await self._shares.enter(who)
                entered = True
                context.exits.callback(leave_once)
                if waited and await _has_gone(context.receive):
                    raise Disconnected

        def leave_once() -> None:
            nonlocal left
            if entered and not left:
                self._shares.leave(who)
            left = True

        async def watch(message: Message) -> None:
            leave_once()
            await send(message)

        context.enter, context.leave = enter, leave_once
        try:
            if not (context.header(b"content-length") or context.header(b"transfer-encoding")):
                first = await context.receive()
                await enter()
                context.receive = _again(first, context.receive)
            await self._app(context, watch)
        except Disconnected:
            return
        except Crowded:
            context.refusal = "too many requests of this identity wait"
            text = "Too many of your requests wait for their turn on this server. Try again later."
            await send_all(send, error_response(429, "RESOURCE_EXHAUSTED", text, [(b"retry-after", b"5")]))


async def _has_gone(receive: Receive) -> bool:
    """Tell whether the client has gone; its request has been read whole, so the server has nothing else to say."""
    asked = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    if not asked.done():
        asked.cancel()
        return False
    return bool(asked.result()["type"] == "http.disconnect")


def _again(first: Message, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the first message once more."""
    given = False

    async def received() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return first

    return received
