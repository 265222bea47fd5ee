"""Each write and each refusal is one line, before the answer; a log that can't be written stops the writes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.audit.entry import entry, fit
from gatehouse.audit.log import AuditError, AuditLog
from gatehouse.audit.wire import MAX_LINE
from gatehouse.exit_codes import Exit
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.policy.identity import Identity
from gatehouse.policy.roles import Role
from gatehouse.request.context import Context
from gatehouse.start.output import Output, write_in_thread
from local.proxy_binary import ROOT
from tests.access.conftest import POLICY, QUIET, Client, audit_lines, line_of
from tests.support import Gate, Postgres, Provider, free_port, wait_for

TRACE = "105445aa7843bc8bf206b12000100000"


def test_a_write_is_one_line_with_everything_an_auditor_asks(bob: Client) -> None:
    answer = bob.call(
        "POST",
        "/api/2.0/mlflow/runs/create",
        json={"experiment_id": "0", "user_id": "ceo"},
        headers={"X-Cloud-Trace-Context": f"{TRACE}/11;o=1", "User-Agent": "auditor's test"},
    )
    line = line_of(bob.gate, answer)
    when = datetime.datetime.fromisoformat(line.pop("time"))
    assert abs(when - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=5)
    latency = line["httpRequest"].pop("latency")
    assert re.fullmatch(r"\d+\.\d{6}s", latency)
    run = answer.json()["run"]["info"]["run_id"]
    assert line == {
        "severity": "NOTICE",
        "message": f"bob@example.com create_run experiment_id=0 run_id={run}: done (200)",
        "httpRequest": {
            "requestMethod": "POST",
            "requestUrl": "/api/2.0/mlflow/runs/create",
            "status": 200,
            "userAgent": "auditor's test",
            "remoteIp": "127.0.0.1",
        },
        "logging.googleapis.com/labels": {"log": "audit"},
        "logging.googleapis.com/trace": TRACE,
        "logging.googleapis.com/spanId": "000000000000000b",
        "logging.googleapis.com/trace_sampled": True,
        "audit": {
            "identity": "bob@example.com",
            "subject": "bob@example.com",
            "kind": "person",
            "role": "editor",
            "action": "create_run",
            "class": "write",
            "objects": {"experiment_id": "0", "run_id": run},
            "result": "done",
            "request_id": answer.headers["x-request-id"],
            "claimed": "ceo",
        },
    }


def test_the_line_names_the_things(bob: Client) -> None:
    run = bob.run()
    bob.make("registered-models/create", name="audited")
    cases: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
        ("POST", "/api/2.0/mlflow/runs/set-tag", {"run_id": run, "key": "k", "value": "v"}, {"run_id": run, "key": "k"}),
        ("POST", "/api/2.0/mlflow/runs/update", {"runId": run, "status": "FINISHED"}, {"run_id": run}),
        ("POST", "/api/2.0/mlflow/runs/delete", {"run_id": run}, {"run_id": run}),
        (
            "PATCH", "/api/2.0/mlflow/registered-models/update", {"name": "audited", "description": "d"}, {"name": "audited"},
        ),
        (
            "POST", "/api/2.0/mlflow/registered-models/alias", {"name": "audited", "alias": "a", "version": "7"},
            {"name": "audited", "alias": "a", "version": "7"},
        ),
        ("PATCH", "/api/2.0/mlflow/logged-models/m-1/tags", {"tags": []}, {"model_id": "m-1"}),
    ]  # fmt: skip
    for method, path, document, objects in cases:
        answer = bob.call(method, path, json=document)
        assert line_of(bob.gate, answer)["audit"]["objects"] == objects, path
    answer = bob.call("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/a/b.txt?x=secret", data=b"content")
    line = line_of(bob.gate, answer)
    assert line["audit"]["objects"] == {"path": "0/a/b.txt"}
    assert line["httpRequest"]["requestUrl"] == "/api/2.0/mlflow-artifacts/artifacts/0/a/b.txt"
    answer = bob.call("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=notes.txt", data=b"content")
    assert line_of(bob.gate, answer)["audit"]["objects"] == {"run_id": run, "path": "notes.txt"}


def test_no_secret_and_no_value_is_in_the_log(bob: Client, alice: Client) -> None:
    secret = "hunter2-secret"
    run = bob.run(tags=[{"key": "t", "value": secret}])
    bob.make("runs/log-parameter", run_id=run, key="p", value=secret)
    bob.make("runs/log-batch", run_id=run, params=[{"key": "q", "value": secret}], tags=[{"key": "u", "value": secret}])
    bob.call(
        "POST", f"/api/2.0/mlflow/runs/log-metric?token={secret}", json={"run_id": run, "key": "m", "value": secret}
    )
    alice.call(
        "POST", "/api/3.0/mlflow/gateway/secrets/create", json={"secret_name": "s", "secret_value": {"api_key": secret}}
    )
    alice.call(
        "POST", "/api/2.0/mlflow/webhooks", json={"name": "w", "url": f"https://1.1.1.1/{secret}", "secret": secret}
    )
    bob.call(
        "POST",
        "/gateway/mlflow/v1/chat/completions",
        json={"model": "m", "messages": [{"content": secret}], "name": secret},
    )
    assert secret not in bob.gate.log()
    token = str(bob.session.headers["Authorization"]).split()[1]
    assert token not in bob.gate.log()
    assert token.rsplit(".", 1)[1] not in bob.gate.log()


def test_line_breaks_in_names_make_no_second_line(bob: Client) -> None:
    forged = 'x"}\n{"severity":"NOTICE","audit":{"identity":"ceo@example.com","request_id":"forged"}}'
    answer = bob.post("registered-models/create", name=forged)
    assert line_of(bob.gate, answer)["audit"]["objects"] == {"name": forged}
    assert not [line for line in audit_lines(bob.gate) if line["audit"]["request_id"] == "forged"]


def test_reads_leave_no_line_unless_they_are_asked_for(bob: Client, make_gate: Any) -> None:
    before = len(audit_lines(bob.gate))
    assert bob.call("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0").status_code == 200
    assert len(audit_lines(bob.gate)) == before
    gate = make_gate(AUDIT_READS="true", ACCESS_POLICY=str(POLICY), **QUIET).start().wait_ready()
    reader = Client(gate, gate.session("carol"))
    answer = reader.call("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0")
    assert line_of(gate, answer)["audit"]["action"] == "get_experiment"


def test_a_refusal_of_mlflows_own_has_a_line_too(bob: Client) -> None:
    answer = bob.call(
        "POST", "/api/2.0/mlflow/experiments/search", json={}, headers={"Origin": "https://evil.example.com"}
    )
    assert answer.status_code == 403
    assert line_of(bob.gate, answer)["httpRequest"]["status"] == 403


def test_whoever_has_the_answer_finds_the_line_written(bob: Client) -> None:
    """Four clients at once; each looks right after its answer."""

    def write(number: int) -> None:
        client = Client(bob.gate, bob.gate.session("bob"))
        for step in range(10):
            answer = client.post("registered-models/create", name=f"order-{number}-{step}")
            assert line_of(bob.gate, answer)["audit"]["result"] == "done"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))


# --- The log itself ------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def fill(write: int) -> int:
    """Fill a pipe as a reader that has stalled leaves it; return how many bytes that took."""
    os.set_blocking(write, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(write, b"x" * MAX_LINE)
    os.set_blocking(write, True)
    return filled


@contextlib.contextmanager
def log_on(descriptor: int) -> Iterator[AuditLog]:
    """Yield a worker's end of a log that is written to a descriptor."""
    log = AuditLog(descriptor)
    log.connect(write_in_thread(descriptor))
    yield log
    log.close()


def test_a_reader_that_went_away_is_noticed_before_a_write(pipe: tuple[int, int]) -> None:
    read, write = pipe

    async def look() -> None:
        with log_on(write) as log:
            assert await log.ready()
            os.close(read)
            assert not await log.ready()
            with pytest.raises(AuditError, match="Broken pipe"):
                await log.write(b'{"a": 1}\n', log.open(b""))

    asyncio.run(look())


def test_a_reader_that_stalls_loses_no_line_and_is_forgiven_when_it_reads_on(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gatehouse.audit.log.PATIENCE", 0.3)
    read, write = pipe
    filled = fill(write)

    async def stall() -> list[bytes]:
        with log_on(write) as log:
            # As many at once as may come: each has its own deadline, none polls what another does.
            lines = [b'{"a": %d}\n' % number for number in range(50)]
            results = await asyncio.gather(*(log.write(line, log.open(b"")) for line in lines), return_exceptions=True)
            assert all(isinstance(result, AuditError) for result in results), results
            assert not any(await asyncio.gather(*(log.ready() for _ in range(50))))
            said = capsys.readouterr().err
            assert all(line.decode().strip() in said for line in lines)
            rest = filled
            while rest:
                rest -= len(os.read(read, rest))
            while not await log.ready():
                await asyncio.sleep(0.01)
            await log.write(b'{"b": 2}\n')
            return lines

    lines = asyncio.run(stall())
    assert os.read(read, 65536) == b"".join(lines) + b'{"b": 2}\n'


def test_refusals_while_the_log_stalls_hold_up_no_write_afterwards(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehouse.audit.log.MOST_OTHERS", 8)
    read, write = pipe
    filled = fill(write)

    async def refuse() -> None:
        with log_on(write) as log:
            for number in range(20):
                await log.write(b'{"refused": %d}\n' % number)  # nobody waits for these
            rest = filled
            while rest:
                rest -= len(os.read(read, rest))
            while not await log.ready():
                await asyncio.sleep(0.01)
            await log.write(b'{"done": 1}\n', log.open(b""))
            while log.waiting:
                await asyncio.sleep(0.01)

    asyncio.run(refuse())
    lines = os.read(read, 65536).decode().splitlines()
    told = [json.loads(line)["message"] for line in lines if "message" in line]
    assert told == ["12 refusals or reads have no line of their own: the audit log couldn't be written"]
    assert sorted(line for line in lines if "message" not in line) == sorted(
        [*(f'{{"refused": {number}}}' for number in range(8)), '{"done": 1}']
    )


def test_a_full_disk_is_noticed_and_the_line_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)

    async def write() -> None:
        with log_on(full) as log:
            with pytest.raises(AuditError, match="No space left"):
                await log.write(b'{"a": 1}\n', log.open(b""))
            assert not await log.ready()

    asyncio.run(write())
    os.close(full)
    assert '(No space left on device): {"a": 1}' in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["file", "terminal"])
def test_a_file_and_a_terminal_take_lines_too(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        written = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    else:
        master, written = pty.openpty()

    async def write() -> None:
        with log_on(written) as log:
            assert await log.ready()
            await log.write(b'{"a": 1}\n')

    asyncio.run(write())
    assert (os.pread(written, 99, 0) if kind == "file" else os.read(master, 99).replace(b"\r", b"")) == b'{"a": 1}\n'
    assert os.get_blocking(written), "the descriptor is shared with others, who expect it to wait"


def test_what_a_worker_left_open_when_it_died_is_written(pipe: tuple[int, int]) -> None:
    read, write = pipe
    channel = write_in_thread(write)
    pid = os.fork()
    if pid == 0:
        log = AuditLog(write)
        log.connect(channel)

        async def die() -> None:
            log.open(b'{"unknown": 1}\n')
            done = log.open(b'{"unknown": 2}\n')
            await log.write(b'{"done": 2}\n', done)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(die())
    channel.close()
    os.waitpid(pid, 0)
    lines = b""
    while lines.count(b"\n") < 2:
        lines += os.read(read, 4096)
    assert lines.splitlines() == [b'{"done": 2}', b'{"unknown": 1}']


def test_what_children_print_is_dropped_with_a_count_while_nothing_reads(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehouse.start.output.MOST_RELAYED", 100)
    read, write = pipe
    filled = fill(write)
    output = Output(write)
    for number in range(30):
        output.relay("the proxy", b"line %02d\n" % number)  # 8 bytes each: 12 are kept
    rest = filled
    while rest:
        rest -= len(os.read(read, rest))
    while output.finish(time.monotonic() + 10):
        pass
    output.relay("the proxy", b"again\n")
    output.finish(time.monotonic() + 10)
    lines = os.read(read, 65536).decode().splitlines()
    assert lines[:12] == [f"line {number:02d}" for number in range(12)]
    assert lines[12:] == ["gatehouse: lines that were dropped while nothing read this log: 18 of the proxy's", "again"]


texts = st.text(max_size=3000)


@given(
    texts, texts, texts, st.dictionaries(st.sampled_from(["name", "run_id", "path", "key", "alias", "version"]), texts),
    st.binary(max_size=500),
)  # fmt: skip
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(
    path: str, email: str, reason: str, objects: dict[str, str], agent: bytes
) -> None:
    scope = {"method": "POST", "path": path, "headers": [(b"user-agent", agent)]}
    context = Context(
        scope,
        receive=None,  # type: ignore[arg-type]
        identity=Identity(email[:254], email[:255]),
        role=Role.VIEWER,
        route=Route("create_run", Access.WRITE, {}),
        refusal=reason,
        claimed=reason,
    )
    context.add_objects(objects.items())
    line = fit(entry(context, scope, 403, 1.0))
    assert len(line) <= MAX_LINE
    assert line.index(b"\n") == len(line) - 1
    assert json.loads(line)["audit"]["result"] == "refused"


# --- The whole gate with a log that breaks -------------------------------------------------------------------


def test_without_its_log_the_gate_takes_no_writes_and_goes_on_reading(provider: Provider, tmp_path: Path) -> None:
    gate = Gate(tmp_path, provider, ACCESS_POLICY=str(POLICY), **QUIET)
    start = Path(__file__).parents[2] / "start.sh"
    with gate.log_path.open("wb") as errors:
        gate.process = subprocess.Popen(
            [str(start)],
            env=gate.environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        gate.wait_ready()
        assert gate.process.stdout is not None
        out = gate.process.stdout
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.append(out.readline()))
        reader.start()
        bob = Client(gate, gate.session("bob"))
        run = bob.run()
        reader.join(20)
        assert json.loads(lines[0])["audit"]["objects"]["run_id"] == run

        out.close()
        before = bob.call("GET", "/api/2.0/mlflow/experiments/search?max_results=100").json()
        answer = bob.post("experiments/create", name="unaudited")
        assert answer.status_code == 503
        assert "Nothing was changed: the audit log can't be written" in answer.json()["message"]
        assert bob.call("GET", "/api/2.0/mlflow/experiments/search?max_results=100").json() == before
    finally:
        gate.stop()


def test_the_workers_lines_do_not_mix(make_gate: Any) -> None:
    gate = make_gate(WORKERS="2", ACCESS_POLICY=str(POLICY), **QUIET).start().wait_ready()
    clients = [Client(gate, gate.session("bob")) for _ in range(4)]

    def write(client: Client) -> None:
        for number in range(15):
            client.call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/0/{'x' * 180}/{number}", data=b"x")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, clients))
    wait_for(lambda: len(audit_lines(gate)) == 60, "the lines", logs=gate.log)


# --- Rows and lines ------------------------------------------------------------------------------------------


class Stream:
    """The stdout of a gate: a pipe whose reader can stall."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self.names: list[str] = []
        self._flows = threading.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with open(self.read, "rb") as pipe:  # noqa: PTH123 - a descriptor
            for line in iter(pipe.readline, b""):
                if line.startswith(b"{") and b'"audit"' in line:
                    entry = json.loads(line)["audit"]
                    if entry["action"] == "create_experiment" and entry["result"] in {"done", "unknown"}:
                        self.names.append(entry["objects"].get("name", ""))
                self._flows.wait()

    def stall(self) -> None:
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def close(self) -> None:
        """To be called when nobody has the other end any more."""
        self.flow()
        self._thread.join(20)


@pytest.fixture
def streamed(
    provider: Provider, postgres: Postgres, tmp_path: Path
) -> Iterator[Callable[..., tuple[Gate, Stream, str]]]:
    """Start a gate with two workers, the default logging and a :class:`Stream`; return the database's name too."""
    made: list[tuple[Gate, Stream]] = []

    def start(name: str) -> tuple[Gate, Stream, str]:
        database = f"{name}{free_port()}"
        gate = Gate(tmp_path, provider, BACKEND_STORE_URI=postgres.create(database), WORKERS="2")
        stream = Stream()
        made.append((gate, stream))
        with gate.log_path.open("wb") as errors:
            gate.process = subprocess.Popen(
                [str(ROOT / "start.sh")], env=gate.environment, cwd=tmp_path, stdout=stream.write, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        os.close(stream.write)
        return gate.wait_ready(), stream, database

    yield start
    for gate, stream in made:
        stream.flow()
        gate.stop()
        stream.close()


def rows(postgres: Postgres, database: str) -> set[str]:
    """Return the names of all experiments."""
    return set(postgres.sql("SELECT name FROM experiments WHERE experiment_id <> 0", database).splitlines())


def bearer(gate: Gate, person: str) -> dict[str, str]:
    """Return the header with a person's token, for many clients at once."""
    return {"Authorization": f"Bearer {gate.provider.token(person)}"}


class Writers:
    """Clients that make experiments as fast as they can, until they are told to stop."""

    def __init__(self, gate: Gate, count: int) -> None:
        self.stop = threading.Event()
        self.acknowledged: set[str] = set()
        self.statuses: set[int] = set()
        headers = bearer(gate, "bob")
        self._threads = [threading.Thread(target=self._run, args=(gate, headers, n)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, gate: Gate, headers: dict[str, str], number: int) -> None:
        with requests.Session() as session:
            session.headers.update(headers)
            for step in itertools.count():
                name = f"w{number}-{step}"
                try:
                    answer = session.post(
                        f"{gate.url}/api/2.0/mlflow/experiments/create", json={"name": name}, timeout=60
                    )
                except requests.RequestException:
                    return  # the gate was killed
                self.statuses.add(answer.status_code)
                if answer.status_code == 200:
                    self.acknowledged.add(name)
                if self.stop.is_set():
                    return

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(90)


def test_a_stalled_log_holds_up_no_read_and_loses_no_line(
    streamed: Callable[..., tuple[Gate, Stream, str]], postgres: Postgres
) -> None:
    gate, stream, database = streamed("stall")
    writers = Writers(gate, 50)
    wait_for(lambda: len(writers.acknowledged) > 100, "the first writes", 60, gate.log)
    stream.stall()

    def refused() -> bool:
        return 503 in writers.statuses

    wait_for(refused, "the first refusal", 60, gate.log)

    headers = bearer(gate, "carol")

    def read(_: int) -> list[int]:
        # As many as fill the pipe with the proxy's own lines several times over.
        with requests.Session() as session:
            session.headers.update(headers)
            url = f"{gate.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
            return [session.get(url, timeout=30).status_code for _ in range(12)]

    # For so many seconds, and at least once: `STALL=60 pytest tests/access/test_audit.py -k stalled_log`.
    until, rounds = time.monotonic() + float(os.environ.get("STALL") or 0), 0
    with ThreadPoolExecutor(50) as pool:
        while not rounds or time.monotonic() < until:
            statuses = [status for part in pool.map(read, range(50)) for status in part]
            assert statuses == [200] * 600
            rounds += 1
    print(f"{600 * rounds} reads while the log stood still")
    stream.flow()
    before = len(writers.acknowledged)
    wait_for(lambda: len(writers.acknowledged) > before + 50, "writes to go on", 60, gate.log)
    writers.join()
    assert gate.stop() == Exit.OK
    stream.close()
    assert writers.statuses == {200, 503}
    assert sorted(stream.names) == sorted(rows(postgres, database))


@pytest.mark.parametrize("victim", ["server", "proxy"])
def test_a_child_that_is_killed_amid_writes_leaves_no_row_without_a_line(
    streamed: Callable[..., tuple[Gate, Stream, str]], postgres: Postgres, victim: str
) -> None:
    gate, stream, database = streamed(victim)
    writers = Writers(gate, 20)
    wait_for(lambda: len(writers.acknowledged) > 60, "the first writes", 60, gate.log)
    os.kill(gate.children()[victim], signal.SIGKILL)
    assert gate.wait_end(20) == (Exit.SERVER_ENDED if victim == "server" else Exit.PROXY_ENDED)
    writers.join()
    stream.close()
    assert writers.acknowledged <= rows(postgres, database) <= set(stream.names)
    assert len(stream.names) == len(set(stream.names))
