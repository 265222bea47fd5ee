"""What a client's bytes cost before a handler has them:

in proportion to their number, whatever they are, and bounded.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gatehouse.artifacts.layer import _Digests, _first
from gatehouse.bodies import scan
from gatehouse.operations.graphql import MAX_TOKENS, Unreadable, judge
from gatehouse.pipeline import bounds
from gatehouse.pipeline.authentication import AuthenticationLayer, _groups
from gatehouse.policy.identity import Identity
from gatehouse.request.context import Context

SMALL, FACTOR = 20_000, 8
#: Four times what linear work would take, half of what quadratic work would.
MOST = FACTOR * 4


async def _nobody(*_: Any) -> None:
    raise AssertionError


IDENTITY = AuthenticationLayer(_nobody, b"p" * 32, ["_gatehouse"], session_lifetime=1.0)


def context(headers: Iterable[tuple[bytes, bytes]] = (), path: str = "/", query: bytes = b"") -> Context:
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": list(headers)}
    return Context(scope, receive=None, identity=Identity("a@example.com", "a"))  # type: ignore[arg-type]


def digest(name: str, value: Callable[[int], bytes]) -> Callable[[int], object]:
    return lambda size: _Digests({name.encode(): value(size)})


def quietly(function: Callable[[int], object], *errors: type[Exception]) -> Callable[[int], object]:
    def call(size: int) -> object:
        try:
            return function(size)
        except errors:
            return None

    return call


def empty_spans(size: int) -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for _ in range(size // 20):
        spans.add()
    return bytes(request.SerializeToString())


#: What reads bytes of a client on the way to a handler, each with the worst that is known for it.
WORST: dict[str, Callable[[int], object]] = {
    "a digest of letters": digest("digest", lambda size: b"a" * size),
    "a digest of spaces": digest("digest", lambda size: b"a" + b" " * size),
    "many digests": digest("digest", lambda size: b"a=b," * (size // 4)),
    "a content digest of letters": digest("content-digest", lambda size: b"a" * size),
    "a content digest of colons": digest("repr-digest", lambda size: b"a=:" * (size // 3)),
    "a cookie of spaces": lambda size: IDENTITY._session_ends(b";" + b" " * size),
    "a cookie of its own name": lambda size: IDENTITY._session_ends(b";_gatehouse" * (size // 11)),
    "a cookie of numbers": lambda size: IDENTITY._session_ends(b";_gatehouse_" + b"1" * size),
    "cookies to take out": lambda size: IDENTITY._without_session(b"_gatehouse=1;" * (size // 13)),
    "addresses": lambda size: IDENTITY._address(b"1," * (size // 2)),
    "groups": lambda size: _groups(b"a," * (size // 2)),
    "a query": lambda size: _first(b"a=b&" * (size // 4)),
    "a query of signs": lambda size: _first(b"%" * size),
    "a query's names": lambda size: context(query=b"a=" * (size // 2)).query_parameters(),
    "names of fields": lambda size: context().add_objects([("aB" * (size // 2), "x")]),
    "many names of fields": lambda size: context().add_objects([(f"aB{n}", "x") for n in range(size // 8)]),
    "values": lambda size: scan.values(b"[{}," * (size // 4)),
    "brackets that open": quietly(lambda size: scan.check_json(b'{"a":' + b"[" * size), scan.Unreadable),
    "brackets within each other": quietly(
        lambda size: scan.check_json(b'{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"), scan.Unreadable
    ),
    "brackets in texts": quietly(lambda size: scan.check_json(b'{"a":' + b'"[",' * (size // 4)), scan.Unreadable),
    "backslashes": quietly(lambda size: scan.check_json(b'{"' + b"\\" * size), scan.Unreadable),
    "escapes": quietly(lambda size: scan.check_json(b'{"' + b"\\u000" * (size // 5)), scan.Unreadable),
    "white space": quietly(lambda size: scan.check_json(b" " * size), scan.Unreadable),
    "empty members of gzip": quietly(
        lambda size: list(scan.unpacked(gzip.compress(b"") * (size // 20), "gzip", 1 << 25)), scan.Unreadable
    ),
    "fields of protobuf": lambda size: scan.fields(empty_spans(size), ExportTraceServiceRequest.DESCRIPTOR, 1 << 20),
    "messages in messages": lambda size: scan.fields(
        b"\x0a\x02\x12\x00" * (size // 4), ExportTraceServiceRequest.DESCRIPTOR, 1 << 20
    ),
    "many headers": lambda size: bounds.wrong(context([(b"a", b"")] * (size // 8)).scope),
}


def work(function: Callable[[int], object], size: int) -> float:
    """Return the least CPU time of this thread for several calls."""
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        function(size)
        best = min(best, time.thread_time() - started)
    return best


@pytest.mark.parametrize("name", WORST)
def test_work_grows_with_the_number_of_bytes_and_no_faster(name: str) -> None:
    small, large = work(WORST[name], SMALL), work(WORST[name], SMALL * FACTOR)
    # What takes no time at all may take twice as long by chance.
    assert large < max(small, 50e-6) * MOST, f"{small * 1e6:.0f} us, then {large * 1e6:.0f} us"


def test_the_measure_tells_quadratic_work() -> None:
    """The expression that read digests until now."""
    import re

    def old(size: int) -> object:
        return re.findall(r"([A-Za-z0-9-]+)\s*=\s*([A-Za-z0-9+/=]+)", "a" * (size // 16))

    assert work(old, SMALL * FACTOR) > work(old, SMALL) * MOST


# --- What a library parses is short ---------------------------------------------------------------------------

PARSED = (
    "accept", "accept-encoding", "accept-language", "access-control-request-headers", "cache-control", "content-digest",
    "content-disposition", "content-encoding", "content-md5", "content-range", "content-type", "digest", "host", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "origin", "range", "repr-digest",
    "x-mlflow-experiment-id", "x-mlflow-workspace",
)  # fmt: skip


@pytest.mark.parametrize("name", PARSED)
def test_a_header_that_is_parsed_is_short(name: str) -> None:
    longest = (name.encode(), b"a" * bounds.MAX_PARSED)
    assert bounds.wrong(context([longest]).scope) is None
    found = bounds.wrong(context([(name.encode(), longest[1] + b"a")]).scope)
    assert found is not None
    assert found[0] == 431
    assert name in found[1]


def test_any_other_header_all_of_them_and_the_address_have_a_limit_too() -> None:
    def status(**arguments: Any) -> int:
        found = bounds.wrong(context(**arguments).scope)
        return found[0] if found else 200

    assert status(headers=[(b"referer", b"a" * bounds.MAX_VALUE)]) == 200
    assert status(headers=[(b"referer", b"a" * (bounds.MAX_VALUE + 1))]) == 431
    assert status(headers=[(b"cookie", b"a" * bounds.MAX_VALUE * 4)]) == 200
    assert status(headers=[(b"cookie", b"a" * bounds.MAX_HEADERS)]) == 431
    assert status(headers=[(b"a%d" % n, b"") for n in range(bounds.MAX_NAMES + 1)]) == 431
    assert status(path="/" + "a" * bounds.MAX_PATH) == 414
    assert status(query=b"a" * (bounds.MAX_QUERY + 1)) == 414
    assert status(query=b"&" * bounds.MAX_PARAMETERS) == 414
    assert status(query=b"a=%00") == 400
    assert status(path="/a\0b") == 400
    assert status(headers=[(b"trailer", b"x-forwarded-email")]) == 400


def test_conditions_at_their_longest_cost_little() -> None:
    """werkzeug's expression for If-None-Match takes the square of a run of spaces."""
    from werkzeug.http import parse_etags

    assert work(lambda size: parse_etags("a" + " " * size + "b"), bounds.MAX_PARSED) < 0.1


# --- GraphQL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["{" + "a " * 500_000 + "}", "{" + "a " * (MAX_TOKENS + 1) + "}", "{" * 900, "# " + "a" * 20_000, '"""' * 3000, "{ test( ",
     "", "fragment f on Query { test }", 7, None, ["{ test }"]],
    ids=lambda query: str(query)[:12],
)  # fmt: skip
def test_a_query_that_cant_be_read_is_refused_and_costs_little(query: object) -> None:
    asyncio.run(judge({"query": "{ test }"}))  # the library is imported
    started = time.process_time()
    with pytest.raises(Unreadable):
        asyncio.run(judge({"query": query}))
    assert time.process_time() - started < 2, "a query of 1 MiB took 29 s"


def test_base64_of_a_digest_is_as_long_as_the_digest() -> None:
    value = base64.b64encode(bytes(64))
    with pytest.raises(Exception, match="digest isn't base64 of 32 bytes"):
        _Digests({b"digest": b"sha-256=" + value})
