"""One identity's requests take their turns, and nobody else's wait for more than a few of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gatehouse.bodies.budget import Budget
from gatehouse.bodies.reader import Bodies
from gatehouse.bodies.rules import SMALL
from gatehouse.database.reads import requests as reads
from gatehouse.database.reads.query import Declined
from gatehouse.dispatch.share import QUEUE, SHARE, ShareLayer, Shares
from gatehouse.policy.identity import Identity
from gatehouse.request.context import Context, Crowded


class Served:
    """Requests that stand behind the layer until they are let go on."""

    def __init__(self, inside: Callable[[Context], Awaitable[None]] | None = None) -> None:
        self.inside: list[str] = []
        self.go_on = asyncio.Event()
        self.answers: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._before = inside
        self._layer = ShareLayer(self._serve)

    async def _serve(self, context: Context, send: Any) -> None:
        if self._before:
            await self._before(context)
        self.inside.append(context.key)
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask(self, who: str, body: asyncio.Event | None = None, gone: asyncio.Event | None = None) -> None:
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                await (gone or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            if body is not None:
                await body.wait()
            given = True
            return {"type": "http.request", "body": b"{}" if body else b""}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answers.append(message["status"])

        headers = [] if body is None else [(b"content-length", b"2")]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
        context = Context(scope, receive, identity=Identity(email=who, subject=who, groups=(), username=None))

        async def serve() -> None:
            with context.exits:
                await self._layer(context, send)

        self._tasks.append(asyncio.ensure_future(serve()))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        self.go_on.set()
        await asyncio.gather(*self._tasks)


def test_one_identity_has_its_share_and_the_others_pass() -> None:
    async def run() -> None:
        served = Served()
        for _ in range(200):
            served.ask("carol@example.com")
        served.ask("bob@example.com")
        await served.settle()
        assert served.inside == ["carol@example.com"] * SHARE + ["bob@example.com"]
        await served.finish()
        assert served.answers == [200] * 201

    asyncio.run(run())


def test_a_body_that_trickles_takes_no_share() -> None:
    """It is taken once the body is there, so slow senders don't keep their own colleagues of one account out."""

    async def run() -> None:
        bodies = Bodies(Budget(10**6))

        async def read(context: Context) -> None:
            await bodies.read(context, SMALL)

        served = Served(read)
        slow, here = asyncio.Event(), asyncio.Event()
        here.set()
        for _ in range(3 * SHARE):
            served.ask("ci@example.com", slow)
        for _ in range(2 * SHARE):
            served.ask("ci@example.com", here)
        await served.settle()
        assert len(served.inside) == SHARE
        slow.set()
        await served.finish()
        assert served.answers == [200] * 5 * SHARE

    asyncio.run(run())


@pytest.mark.parametrize("with_body", [False, True])
def test_nobody_is_served_who_has_gone_meanwhile(with_body: bool) -> None:
    async def run() -> None:
        bodies = Bodies(Budget(10**6))

        async def read(context: Context) -> None:
            if with_body:
                await bodies.read(context, SMALL)

        served = Served(read)
        here, gone = (asyncio.Event() if with_body else None), asyncio.Event()
        if here:
            here.set()
        for _ in range(SHARE):
            served.ask("carol@example.com", here)
        for number in range(10):
            served.ask("carol@example.com", here, gone if number % 2 else None)
        await served.settle()
        gone.set()
        await served.finish()
        assert len(served.inside) == SHARE + 5
        assert served.answers == [200] * (SHARE + 5)

    asyncio.run(run())


def test_whoever_leaves_early_makes_room_once() -> None:
    async def run() -> None:
        async def leave(context: Context) -> None:
            context.leave()
            context.leave()
            await context.enter()  # it has been in already

        served = Served(leave)
        for _ in range(5 * SHARE):
            served.ask("carol@example.com")
        await served.settle()
        assert len(served.inside) == 5 * SHARE
        await served.finish()

    asyncio.run(run())


def test_more_than_may_wait_are_told_to_come_again() -> None:
    async def run() -> None:
        served = Served()
        for _ in range(SHARE + QUEUE + 3):
            served.ask("carol@example.com")
        await served.settle()
        assert served.answers == [429] * 3
        await served.finish()
        assert served.answers.count(200) == SHARE + QUEUE

    asyncio.run(run())


def test_a_request_that_is_given_up_keeps_no_place() -> None:
    async def run() -> None:
        shares = Shares(1, 10)
        await shares.enter("a")
        waiting = [asyncio.ensure_future(shares.enter("a")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        shares.leave("a")  # the second one's turn, which is given up in the same moment
        waiting[1].cancel()
        await asyncio.sleep(0)
        await asyncio.wait_for(waiting[2], 5)
        shares.leave("a")
        await asyncio.wait_for(shares.enter("a"), 5)
        others = [asyncio.ensure_future(shares.enter("a")) for _ in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(Crowded):
            await shares.enter("a")
        for other in others:
            other.cancel()

    asyncio.run(run())


LONG = " AND ".join(f"params.p{number} = 'x'" for number in range(100))


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("search_runs", b'{"experiment_ids": ["0"], "filter": "%s"}' % LONG.encode()),
        (
            "search_runs",
            b'{"experiment_ids": ["0"], "order_by": [%s]}' % b",".join([b'"metrics.%s DESC"' % (b"m" * 80)] * 15),
        ),
        ("search_runs", b'{"experiment_ids": ["0"], "page_token": "%s"}' % (b"A" * 2000)),
        ("search_runs", b'{"experiment_ids": [%s]}' % b",".join([b'"0"'] * 10_000)),
        ("search_experiments", b'{"max_results": 1, "filter": "%s"}' % LONG.encode()),
    ],
)
def test_what_takes_long_to_parse_is_not_parsed_on_the_event_loop(operation: str, body: bytes) -> None:
    with pytest.raises(Declined):
        reads.query(operation, "POST", b"", "application/json", body)
