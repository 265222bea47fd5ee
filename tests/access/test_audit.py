"""Each write and each refusal is one line, before the answer; a log that can't be written stops the writes."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.pipeline.audit import MAX_LINE, AuditError, AuditLayer, AuditLog, fit
from gatehouse.pipeline.context import Context
from gatehouse.policy.identity import Identity
from gatehouse.policy.roles import Role
from tests.access.conftest import POLICY, QUIET, Client, audit_lines, line_of
from tests.support import Gate, Provider, wait_for

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
        try:
            os.close(end)
        except OSError:
            continue


def test_a_reader_that_went_away_is_noticed_before_a_write(pipe: tuple[int, int]) -> None:
    read, write = pipe
    log = AuditLog(write)
    assert asyncio.run(log.ready())
    os.close(read)
    assert not asyncio.run(log.ready())
    with pytest.raises(AuditError, match="closed"):
        asyncio.run(log.write(b'{"a": 1}\n'))


def test_a_reader_that_stalls_is_noticed_and_forgiven_when_it_reads_on(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gatehouse.pipeline.audit.PATIENCE", 0.05)
    read, write = pipe
    os.set_blocking(write, False)
    filled = 0
    while True:
        try:
            filled += os.write(write, b"x" * MAX_LINE)
        except BlockingIOError:
            break
    log = AuditLog(write)
    with pytest.raises(AuditError, match="nothing has read stdout"):
        asyncio.run(log.write(b'{"a": 1}\n'))
    assert not asyncio.run(log.ready())
    assert "writes are refused" in capsys.readouterr().err
    while filled:
        filled -= len(os.read(read, filled))
    assert asyncio.run(log.ready())
    asyncio.run(log.write(b'{"b": 2}\n'))
    lines = os.read(read, 65536).splitlines()
    assert json.loads(lines[0])["message"].startswith("the audit log can be written again")
    assert json.loads(lines[1]) == {"b": 2}


def test_a_full_disk_is_noticed() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = AuditLog(full)
    with pytest.raises(AuditError):
        asyncio.run(log.write(b'{"a": 1}\n'))
    assert not asyncio.run(log.ready())
    os.close(full)


texts = st.text(max_size=3000)


@given(
    texts, texts, texts, st.dictionaries(st.sampled_from(["name", "run_id", "path", "key", "alias", "version"]), texts),
    st.binary(max_size=500),
)  # fmt: skip
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(
    path: str, email: str, reason: str, objects: dict[str, str], agent: bytes
) -> None:
    layer = AuditLayer(lambda *_: None, AuditLog(1))  # type: ignore[arg-type]
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
    line = fit(layer.entry(context, scope, 403, 1.0))
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
