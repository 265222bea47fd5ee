"""No request keeps the database for ever, nobody's queries keep the others out, and a search has limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests
import sqlalchemy

from gatehouse.database import engine, schema
from gatehouse.dispatch import limits
from gatehouse.dispatch.turns import LATELY_S, Turns
from gatehouse.start.settings import parse_database
from tests.access.test_stamping import otlp
from tests.support import Gate, Postgres, Provider, running, wait_for

DATABASE_TIMEOUT_S = 5


class Forwarder:
    """A TCP proxy in front of PostgreSQL that can go silent: it takes what is sent, and nothing comes back."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._flowing.wait()
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._pump, args=[server, client], daemon=True)
            back.start()
            self._pump(client, server)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Forward nothing for a while."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    def close(self) -> None:
        self._flowing.set()
        self._listener.close()


NAME = "fairness"


@pytest.fixture(scope="module")
def forwarder(postgres: Postgres) -> Iterator[Forwarder]:
    part = Forwarder(postgres.port)
    yield part
    part.close()


@pytest.fixture(scope="module", params=["true", "false"], ids=["the short way", "MLflow's way"])
def slow_gate(
    request: pytest.FixtureRequest,
    provider: Provider,
    postgres: Postgres,
    forwarder: Forwarder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gate]:
    """A gate of one worker whose way to the database can go silent:

    what reads is the event loop, or MLflow's handlers.
    """
    if not postgres.sql(f"SELECT 1 FROM pg_database WHERE datname = '{NAME}'"):
        postgres.create(NAME)
    uri = f"postgresql://gatehouse:unused@127.0.0.1:{forwarder.port}/{NAME}"
    part = Gate(
        tmp_path_factory.mktemp("slow"), provider, BACKEND_STORE_URI=uri, WORKERS="1", FAST_READS=request.param,
        READ_CONNECTIONS="4", DATABASE_TIMEOUT=str(DATABASE_TIMEOUT_S),
    )  # fmt: skip
    with running(part):
        yield part


@contextlib.contextmanager
def locked(postgres: Postgres, table: str) -> Iterator[None]:
    """Lock a table, so that whoever reads it waits."""
    command = ["psql", "-h", str(postgres.folder), "-p", str(postgres.port), "-U", "gatehouse", "-d", NAME, "-qAt"]
    with subprocess.Popen(
        [str(postgres.bin / command[0]), *command[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(f"BEGIN; LOCK TABLE {table}; SELECT 'locked';\n")
        client.stdin.flush()
        assert client.stdout.readline() == "locked\n"
        yield
        client.stdin.close()


def waiting(postgres: Postgres) -> set[str]:
    """Return the processes of the connections that wait for a lock."""
    statement = f"SELECT pid FROM pg_stat_activity WHERE datname = '{NAME}' AND wait_event_type = 'Lock'"
    return set(postgres.sql(statement).split())


def search_runs(gate: Gate, session: requests.Session) -> requests.Response:
    return session.post(f"{gate.url}/api/2.0/mlflow/runs/search", json={"experiment_ids": ["0"]}, timeout=90)


def experiments(gate: Gate, session: requests.Session) -> requests.Response:
    return session.get(f"{gate.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=90)


def test_a_query_that_takes_too_long_is_ended_and_not_repeated(slow_gate: Gate, postgres: Postgres) -> None:
    with slow_gate.session("bob") as session, locked(postgres, "runs"):
        answer = search_runs(slow_gate, session)
        # 400: the SDK repeats 429 and 5xx for minutes.
        assert answer.status_code == 400, answer.text
        assert "DATABASE_TIMEOUT" in answer.json()["message"]
        assert not waiting(postgres)
        assert experiments(slow_gate, session).status_code == 200


def a_client_comes_and_goes(gate: Gate, postgres: Postgres, path: str) -> None:
    """Ask for a path as bob, and go when its query, the second one, waits too."""
    with socket.create_connection(("127.0.0.1", gate.port)) as client:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost:{gate.port}\r\n"
        client.sendall(f"{head}Authorization: Bearer {gate.provider.token('bob')}\r\n\r\n".encode())
        wait_for(lambda: len(waiting(postgres)) == 2, "the query of the client that goes", 30, gate.log)


def test_a_query_ends_when_its_client_has_gone(slow_gate: Gate, postgres: Postgres) -> None:
    with slow_gate.session("bob") as session, locked(postgres, "runs"), ThreadPoolExecutor(2) as pool:
        # Its own limit would end it before the other's: so what ends the other first is that its client has gone.
        stays = pool.submit(search_runs, slow_gate, session)
        (first,) = wait_for(lambda: waiting(postgres), "the query of the client that stays", 30, slow_gate.log)
        a_client_comes_and_goes(slow_gate, postgres, f"/api/2.0/mlflow/runs/get?run_id={'0' * 32}")
        wait_for(lambda: waiting(postgres) == {first}, "the end of the query without a client", 30, slow_gate.log)
        assert stays.result().status_code == 400


def test_one_users_slow_queries_leave_a_thread_for_the_others(slow_gate: Gate, postgres: Postgres) -> None:
    with slow_gate.session("carol") as carol, locked(postgres, "runs"):
        assert experiments(slow_gate, carol).status_code == 200
        answers: list[Future[requests.Response]] = []
        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                answers.append(pool.submit(search_runs, slow_gate, slow_gate.session("bob")))
            wait_for(lambda: len(waiting(postgres)) >= 3, "bob's queries to wait", 30, slow_gate.log)
            assert experiments(slow_gate, carol).status_code == 200
            # All the while bob's are there: three of four threads at once.
            assert len(waiting(postgres)) == 3
            assert [each.result().status_code for each in answers] == [400] * 8


def list_models(gate: Gate, session: requests.Session) -> requests.Response:
    return session.get(f"{gate.url}/gateway/mlflow/v1/models", timeout=90)


def list_servers(gate: Gate, session: requests.Session) -> requests.Response:
    return session.get(f"{gate.url}/ajax-api/3.0/mlflow/mcp-servers", timeout=90)


def export_spans(gate: Gate, session: requests.Session) -> requests.Response:
    return session.post(
        f"{gate.url}/v1/traces",
        data=otlp(b"5" * 16),
        headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"},
        timeout=90,
    )


@pytest.mark.parametrize(
    ("ask", "table"), [(list_models, "endpoints"), (list_servers, "mcp_servers"), (export_spans, "trace_info")]
)
def test_fastapis_routes_hold_nobody_up_and_end(
    slow_gate: Gate, postgres: Postgres, ask: Callable[[Gate, requests.Session], requests.Response], table: str
) -> None:
    """Its handlers ask the database on the event loop that they run on."""
    with slow_gate.session("bob") as bob, slow_gate.session("carol") as carol, ThreadPoolExecutor(1) as pool:
        with locked(postgres, table):
            asked = pool.submit(ask, slow_gate, bob)
            wait_for(lambda: waiting(postgres), "the query", 30, slow_gate.log)
            assert experiments(slow_gate, carol).status_code == 200
            assert len(waiting(postgres)) == 1
            answer = asked.result()
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert ask(slow_gate, bob).status_code == 200


def test_fastapis_work_ends_when_its_client_has_gone(slow_gate: Gate, postgres: Postgres) -> None:
    with slow_gate.session("bob") as bob, locked(postgres, "mcp_servers"), ThreadPoolExecutor(1) as pool:
        stays = pool.submit(list_servers, slow_gate, bob)
        (first,) = wait_for(lambda: waiting(postgres), "the query of the client that stays", 30, slow_gate.log)
        a_client_comes_and_goes(slow_gate, postgres, "/ajax-api/3.0/mlflow/mcp-servers")
        wait_for(lambda: waiting(postgres) == {first}, "the end of the query without a client", 30, slow_gate.log)
        assert stays.result().status_code == 400


def test_a_connection_that_goes_silent_costs_a_bounded_time(slow_gate: Gate, forwarder: Forwarder) -> None:
    with slow_gate.session("bob") as session:
        assert experiments(slow_gate, session).status_code == 200
        with forwarder.silent():
            answer = experiments(slow_gate, session)
            assert answer.status_code >= 400
            assert answer.headers["content-type"] == "application/json"
        assert experiments(slow_gate, session).status_code == 200


def test_the_kernel_is_told_to_notice_a_dead_peer(database: str) -> None:
    engine.register()
    for made in (
        sqlalchemy.create_engine(engine.named(parse_database(database), 7)),
        schema.make_engine(parse_database(database)),
    ):
        with made.connect() as connection:
            driver: Any = connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as end:
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        made.dispose()


def test_the_server_ends_statements_of_requests_and_of_no_migration(database: str) -> None:
    """As a backstop: a gate that is killed leaves no query behind that runs for longer."""
    engine.register()
    show = sqlalchemy.text("SHOW statement_timeout")
    made = sqlalchemy.create_engine(engine.named(parse_database(database), 7))
    for _ in range(2):
        with made.connect() as connection:
            assert connection.execute(show).scalar_one() == "7s"
            connection.rollback()
    made.dispose()
    with schema.make_engine(parse_database(database)).connect() as connection:
        assert connection.execute(show).scalar_one() == "0"


@pytest.mark.parametrize(
    ("where", "fields"),
    [
        ("runs/search", {"order_by": [f"metrics.m{n} DESC" for n in range(limits.MAX_ORDER_BY + 1)]}),
        ("runs/search", {"orderBy": [f"metrics.m{n} DESC" for n in range(2000)]}),
        ("runs/search", {"filter": "params.a = '" + "x" * limits.MAX_FILTER_CHARACTERS + "'"}),
        ("experiments/search", {"filter": "name = '" + "x" * limits.MAX_FILTER_CHARACTERS + "'"}),
        ("logged-models/search", {"filter": "name = '" + "x" * limits.MAX_FILTER_CHARACTERS + "'"}),
    ],
)
def test_a_search_beyond_the_limits_is_refused(gate: Gate, where: str, fields: dict[str, Any]) -> None:
    with gate.session("carol") as session:
        document = {"experiment_ids": ["0"], **fields}
        answer = session.post(f"{gate.url}/api/2.0/mlflow/{where}", json=document, timeout=30)
        assert answer.status_code == 400
        assert "a search may have" in answer.json()["message"]


def test_a_search_within_the_limits_and_a_query_beyond_them(gate: Gate) -> None:
    with gate.session("carol") as session:
        document = {"experiment_ids": ["0"], "order_by": [f"metrics.m{n} DESC" for n in range(limits.MAX_ORDER_BY)]}
        assert session.post(f"{gate.url}/api/2.0/mlflow/runs/search", json=document, timeout=30).status_code == 200
        many = [("order_by", "name")] * (limits.MAX_ORDER_BY + 1)
        answer = session.get(f"{gate.url}/api/2.0/mlflow/registered-models/search", params=many, timeout=30)
        assert (answer.status_code, "a search may have" in answer.text) == (400, True)


def order(turns: Turns, asks: list[str], finish: Callable[[str, int], bool]) -> list[str]:
    """Let people ask for turns, one after the other.

    Return who got one, in order, while those of ``finish`` end at once.
    """

    async def run() -> list[str]:
        got: list[str] = []
        never = asyncio.Event()

        async def ask(who: str) -> None:
            async with turns.turn(who):
                got.append(who)
                if not finish(who, got.count(who)):
                    await never.wait()

        tasks = []
        for who in asks:
            tasks.append(asyncio.ensure_future(ask(who)))
            for _ in range(5):
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return got

    return asyncio.run(run())


def test_alone_one_may_have_all_places() -> None:
    assert order(Turns(3), ["bob"] * 5, lambda *_: False) == ["bob"] * 3


def test_the_last_place_is_for_somebody_else_who_asked_lately() -> None:
    assert order(Turns(3), ["carol", *["bob"] * 5, "carol"], lambda who, _: who == "carol") == [
        "carol",
        "bob",
        "bob",
        "carol",
    ]


def test_lately_ends() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += LATELY_S
        return now[0]

    assert order(Turns(3, clock), ["carol", *["bob"] * 5], lambda who, _: who == "carol") == ["carol", *["bob"] * 3]


def test_a_single_place_is_for_everybody_in_turn() -> None:
    assert order(Turns(1), ["bob", "bob", "carol", "bob"], lambda *_: True) == ["bob", "bob", "carol", "bob"]


def test_a_place_is_free_again_however_its_turn_ends() -> None:
    async def run() -> None:
        turns = Turns(1)
        with pytest.raises(KeyError):
            async with turns.turn("bob"):
                raise KeyError
        holder = asyncio.ensure_future(_hold(turns))
        await asyncio.sleep(0)
        waits = asyncio.ensure_future(_hold(turns))
        await asyncio.sleep(0)
        for task in (waits, holder):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(30), turns.turn("carol"):
            pass

    asyncio.run(run())


async def _hold(turns: Turns) -> None:
    async with turns.turn("bob"):
        await asyncio.Event().wait()
