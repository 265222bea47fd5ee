"""Bodies within their limits: how many values, how deep, how much memory at once, and how slow."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gatehouse.bodies import budget as budget_module
from gatehouse.bodies import reader as body_module
from gatehouse.bodies import scan
from gatehouse.bodies.budget import Budget, NoMemory
from gatehouse.bodies.reader import PER_BYTE, PER_VALUE, BadBody, Bodies
from gatehouse.bodies.rules import LARGE, RULES, SMALL, Kind, Rule
from gatehouse.policy.identity import Identity
from gatehouse.request.context import Context

MIB = 1024 * 1024

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=30,
)


def count(value: Any) -> int:
    """Return how many values and names a document has, itself not counted."""
    if isinstance(value, dict):
        return sum(2 + count(inner) for inner in value.values())
    return sum(1 + count(inner) for inner in value) if isinstance(value, list) else 0


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(st.dictionaries(st.text(max_size=6), documents, max_size=5), st.booleans())
def test_no_document_has_more_values_than_are_counted(document: dict[str, Any], twice: bool) -> None:
    body = json.dumps(json.dumps(document) if twice else document).encode()
    assert scan.values(body) >= count(document)


@given(documents, st.integers(0, 120))
def test_a_document_is_refused_if_it_is_deep_and_only_then(document: Any, more: int) -> None:
    for _ in range(more):
        document = [document, ']]]][[[{\\"]']
    document = {"a": document, "b": ["["] * 60, "c": "]" * 60}
    body = json.dumps(document).encode()
    if "\\u0000" in body.decode().replace("\\\\", ""):
        return
    if depth(document) > scan.DEPTH:
        with pytest.raises(scan.Unreadable, match="deeper"):
            scan.check_json(body)
    else:
        scan.check_json(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"5", "isn't a JSON object"),
        (b"[]", "isn't a JSON object"),
        (b"null", "isn't a JSON object"),
        (b"  \n true", "isn't a JSON object"),
        (b'{"a": "\\u0000"}', "NUL"),
        (json.dumps('{"a": "\\u0000"}').encode(), "NUL"),
        (json.dumps("[" * 500 + "]" * 500).encode(), "object"),
        (json.dumps('{"a": ' + "[" * 500 + "]" * 500 + "}").encode(), "deeper"),
        (json.dumps("{}}").encode(), "isn't JSON"),
        (b'"a"', "isn't JSON"),
        (b'{"a": "\\\\\\u0000"}', "NUL"),
        ('{"a": "b"}'.encode("utf-16"), "UTF-8"),
        ('{"a": "b"}'.encode("utf-32"), "UTF-8"),
    ],
)  # fmt: skip
def test_what_no_operation_can_take_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(scan.Unreadable, match=said):
        scan.check_json(body)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'\xef\xbb\xbf{"a": 1}', b'{"a": "\\\\u0000"}', b'"{\\"a\\": 1}"', b" \n{}"]
)
def test_what_mlflow_takes_is_let_through(body: bytes) -> None:
    scan.check_json(body)


def test_the_fields_of_spans_are_counted() -> None:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="a", trace_id=b"1" * 16)
    span.attributes.add(key="k").value.array_value.values.add(string_value="v")
    body = request.SerializeToString()
    # resource_spans, scope_spans, spans, name, trace_id, attributes, key, value, array_value, values, string_value
    assert scan.fields(body, ExportTraceServiceRequest.DESCRIPTOR, 100) == 11
    assert scan.fields(body * 1000, ExportTraceServiceRequest.DESCRIPTOR, 100) == 101


# --- Reading ---------------------------------------------------------------------------------------------------


def context(pieces: list[bytes], *headers: tuple[bytes, bytes], who: str = "a", ends: bool = True) -> Context:
    """Return a request whose body comes in pieces, and then no more."""
    coming = iter(pieces)
    left = len(pieces)

    async def receive() -> dict[str, Any]:
        nonlocal left
        if not left:
            await asyncio.Event().wait()
        left -= 1
        return {"type": "http.request", "body": next(coming), "more_body": bool(left) or not ends}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    return Context(scope, receive, identity=Identity(f"{who}@example.com", who))


def status_of(error: BadBody) -> int:
    return int(error.answer[0]["status"])


def read(taken: Rule, pieces: list[bytes], *headers: tuple[bytes, bytes], **options: Any) -> bytes:
    async def run() -> bytes:
        request = context(pieces, *headers, **options)
        with request.exits:
            return await Bodies(Budget(96 * MIB)).read(request, taken)

    return asyncio.run(run())


def test_too_many_values_are_refused_before_the_body_is_whole() -> None:
    with pytest.raises(BadBody, match="25000 values") as refused:
        read(SMALL, [b'{"a":[', *[b"{}," * 10_000] * 2, b"x"], ends=False)
    assert status_of(refused.value) == 413


def test_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "PATIENCE", 0.05)
    with pytest.raises(BadBody, match="given up") as refused:
        read(SMALL, [b'{"a":', b"1"], ends=False)
    assert status_of(refused.value) == 408


def test_only_spans_may_come_compressed() -> None:
    with pytest.raises(BadBody) as refused:
        read(LARGE, [b"x"], (b"content-encoding", b"zstd"))
    assert status_of(refused.value) == 415


def test_the_largest_batch_that_mlflow_takes_is_let_through() -> None:
    metrics = [
        {"key": f"metric{n}", "value": n / 7, "timestamp": 1, "step": n, "model_id": "m" * 34} for n in range(1000)
    ]
    body = json.dumps({"run_id": "r" * 32, "metrics": metrics}).encode()
    assert read(LARGE, [body]) == body
    assert scan.values(body) < LARGE.values / 10


def test_every_kind_of_body_has_limits() -> None:
    for taken in [SMALL, LARGE, *RULES.values()]:
        if taken.kind in {Kind.JSON, Kind.OTLP}:
            assert taken.limit
            assert taken.values


# --- Memory ----------------------------------------------------------------------------------------------------

WORST: dict[str, bytes] = {
    "objects": b"{},",
    "lists": b"[],",
    "numbers": b"1.5,",
    "texts": b'"ab",',
    "one text": b"",
}


@pytest.mark.parametrize("kind", WORST)
def test_what_is_held_covers_what_the_parser_makes(kind: str) -> None:
    unit = WORST[kind]
    body = b'{"a":[' + unit * (MIB // len(unit)) + b'""]}' if unit else b'{"a":["' + b"x" * MIB + b'"]}'
    held = PER_BYTE * len(body) + PER_VALUE * scan.values(body)
    tracemalloc.start()
    document = json.loads(body)
    made = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert document["a"]
    # The body twice, and the document twice: as we read it, and as MLflow does.
    assert held > 2 * len(body) + made


def test_bodies_take_no_more_than_the_budget_and_the_last_ones_are_told_when_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget_module, "PATIENCE", 0.05)
    budget = Budget(8 * MIB)

    async def run() -> tuple[int, list[BadBody]]:
        bodies = Bodies(budget)
        most, serving, refused = 0, 0, []
        done = asyncio.Event()

        async def one(number: int) -> None:
            nonlocal most, serving
            request = context([b'{"a":"', *[b"x" * 65536] * 12, b'"}'], who=f"somebody{number % 5}")
            try:
                with request.exits:
                    await bodies.read(request, LARGE)
                    serving += 1
                    most = max(most, sum(budget._held.values()))
                    await done.wait()
            except BadBody as error:
                refused.append(error)

        tasks = [asyncio.create_task(one(number)) for number in range(40)]
        while serving + len(refused) < 40:
            await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*tasks)
        assert serving >= 2
        return most, refused

    most, refused = asyncio.run(run())
    assert 0 < most <= budget.capacity
    assert {status_of(error) for error in refused} == {429}
    assert (b"retry-after", b"5") in refused[0].answer[0]["headers"]
    assert budget._free == budget.capacity
    assert not budget._held


def in_loop(function: Callable[[], Any]) -> Any:
    return asyncio.run(function())


def test_one_identity_leaves_half_of_the_budget_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "PATIENCE", 0.01)

    async def run() -> None:
        budget = Budget(100)
        with budget.reservation("a") as first, budget.reservation("a") as second, budget.reservation("b") as other:
            await first.take(40)
            with pytest.raises(NoMemory):
                await second.take(20)
            await other.take(50)
            assert (first.held, second.held, other.held) == (40, 0, 50)
        with budget.reservation("a") as alone:
            await alone.take(1000)
            assert alone.held == 100

    in_loop(run)


def test_who_waits_gets_what_is_given_back() -> None:
    async def run() -> None:
        budget = Budget(100)
        with budget.reservation("b") as waiter:
            with budget.reservation("a") as holder:
                await holder.take(80)
                waiting = asyncio.create_task(waiter.take(50))
                await asyncio.sleep(0)
                assert not waiting.done()
            await waiting
            assert waiter.held == 50

    in_loop(run)
