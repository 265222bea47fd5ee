"""Either process ending ends both; TERM lets requests finish; a start that can't succeed says why within its limit."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from gatehouse.database.schema import LOCK_KEY
from gatehouse.exit_codes import Exit
from local.proxy_binary import ROOT
from tests.support import Gate, Postgres, free_port, wait_for


def processes_of(gate: Gate) -> set[int]:
    """Return the ids of start.sh and of everything below it."""
    assert gate.process is not None
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listing.splitlines())}
    found = {gate.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Return those of the processes that still run (a zombie doesn't)."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.add(pid)
    return running


def run_directory(gate: Gate) -> Path:
    """Return the private folder of a running gate."""
    command = Path(f"/proc/{gate.children()['server']}/cmdline").read_text().split("\0")
    return Path(command[command.index("--run-directory") + 1])


def connections(gate: Gate) -> int:
    """Return how many connections the proxy holds to MLflow's socket."""
    socket_path = str(run_directory(gate) / "mlflow.sock")
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(row[-1] == socket_path and row[5] == "03" for row in rows)  # 03: SS_CONNECTED


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("victim", "code", "words"),
    [
        ("server", Exit.SERVER_ENDED, "MLflow ended (signal KILL)"),
        ("proxy", Exit.PROXY_ENDED, "OAuth2 Proxy ended (signal KILL)"),
    ],
)
def test_killing_either_process_ends_all(
    make_gate: Callable[..., Gate], victim: str, code: Exit, words: str, workers: str
) -> None:
    gate = make_gate(WORKERS=workers).start().wait_ready()
    everything = processes_of(gate)
    assert len(everything) >= 3
    os.kill(gate.children()[victim], signal.SIGKILL)
    assert gate.wait_end(10) == code
    assert words in gate.log()
    wait_for(lambda: not alive(everything), "the end of every process", 5, gate.log)


def test_a_worker_that_dies_ends_all(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(WORKERS="2").start().wait_ready()
    worker = gate.children()["worker 1"]
    os.kill(worker, signal.SIGKILL)
    assert gate.wait_end(10) == Exit.SERVER_ENDED
    assert f"worker {worker} of MLflow ended (signal KILL)" in gate.log()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_slow_upload_completes_after_the_signal(make_gate: Callable[..., Gate], signum: signal.Signals) -> None:
    gate = make_gate().start().wait_ready()
    uploading, resume = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"a" * 65536
        uploading.set()
        assert resume.wait(20)
        yield b"b" * 65536

    answers: list[requests.Response] = []

    def upload() -> None:
        with gate.session() as session:
            answers.append(
                session.put(f"{gate.url}/api/2.0/mlflow-artifacts/artifacts/0/slow.bin", data=body(), timeout=30)
            )

    thread = threading.Thread(target=upload)
    thread.start()
    assert uploading.wait(20)
    wait_for(lambda: connections(gate), "the request to reach MLflow", 10, gate.log)
    assert gate.process is not None
    gate.process.send_signal(signum)

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", gate.port)) != 0

    wait_for(refuses, "the port to close", 10, gate.log)
    resume.set()
    thread.join(20)
    assert gate.wait_end(20) == Exit.OK, gate.log()
    assert answers, gate.log()
    assert answers[0].status_code == 200, answers[0].text
    stored = next((gate.folder / "artifacts").rglob("slow.bin"))
    assert stored.read_bytes() == b"a" * 65536 + b"b" * 65536


def test_a_request_that_never_ends_is_cut_off_at_the_limit(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(SHUTDOWN_TIMEOUT="1").start().wait_ready()
    everything = processes_of(gate)
    with socket.create_connection(("127.0.0.1", gate.port)) as connection:
        head = (
            "PUT /api/2.0/mlflow-artifacts/artifacts/0/never.bin HTTP/1.1\r\n"
            f"Host: localhost:{gate.port}\r\nAuthorization: Bearer {gate.provider.token()}\r\nContent-Length: "
            "1000\r\n\r\nhalf"
        )
        connection.sendall(head.encode())
        wait_for(lambda: connections(gate), "the request to reach MLflow", 10, gate.log)
        assert gate.process is not None
        gate.process.terminate()
        assert gate.wait_end(15) == Exit.CUT_OFF
    assert "still running after 1 s: cut off" in gate.log()
    wait_for(lambda: not alive(everything), "the end of every process", 5, gate.log)


def test_term_while_it_starts_ends_it_at_once(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate().start()
    wait_for(lambda: gate.children().get("server"), "the server's process", 20, gate.log)
    everything = processes_of(gate)
    assert gate.process is not None
    gate.process.terminate()
    assert gate.wait_end(15) == Exit.OK
    wait_for(lambda: not alive(everything), "the end of every process", 5, gate.log)


def test_a_hang_before_readiness_ends_at_the_limit(make_gate: Callable[..., Gate], postgres: Postgres) -> None:
    name = f"hang{free_port()}"
    uri = postgres.create(name)
    blocker = subprocess.Popen(
        [postgres.bin / "psql", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "gatehouse", "-d", name, "-Atc",
         f"BEGIN; SELECT pg_advisory_xact_lock({LOCK_KEY}); SELECT pg_sleep(60)"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_for(lambda: postgres.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"), "the lock", 10)
        gate = make_gate(BACKEND_STORE_URI=uri, STARTUP_TIMEOUT="8").start()
        assert gate.wait_end(30) == Exit.NOT_READY
        assert "MLflow isn't ready after 8 s" in gate.log()
    finally:
        blocker.kill()
        blocker.wait()


def test_mlflow_dying_before_readiness_is_told(make_gate: Callable[..., Gate], tmp_path: Path) -> None:
    # A module that kills the interpreter while MLflow is imported, as the out-of-memory killer would.
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "fastapi.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    gate = make_gate(PYTHONPATH=str(tmp_path / "broken")).start()
    assert gate.wait_end(60) == Exit.SERVER_ENDED
    assert "MLflow ended before it was ready (signal KILL)" in gate.log()


def test_the_database_is_waited_for_and_then_named(make_gate: Callable[..., Gate]) -> None:
    port = free_port()
    gate = make_gate(
        BACKEND_STORE_URI=f"postgresql://mlflow:hunter2-secret@127.0.0.1:{port}/mlflow", STARTUP_TIMEOUT="6"
    ).start()
    assert gate.wait_end(60) == Exit.UNAVAILABLE
    log = gate.log()
    assert f"waiting for the database postgresql+psycopg2://mlflow:***@127.0.0.1:{port}/mlflow" in log
    assert "fix: check BACKEND_STORE_URI" in log
    assert "hunter2-secret" not in log


def test_it_starts_when_the_database_comes_late(make_gate: Callable[..., Gate]) -> None:
    late = Postgres()
    try:
        uri = late.create("late")
        late.stop()
        gate = make_gate(BACKEND_STORE_URI=uri).start()
        wait_for(lambda: "waiting for the database" in gate.log(), "the first attempt", 30, gate.log)
        late.start()
        gate.wait_ready()
    finally:
        gate.stop()
        late.remove()


def test_a_lost_database_gives_json_errors_and_comes_back(make_gate: Callable[..., Gate]) -> None:
    database = Postgres()
    try:
        gate = make_gate(BACKEND_STORE_URI=database.create("lost")).start().wait_ready()
        session = gate.session()
        url = f"{gate.url}/api/2.0/mlflow/experiments/create"
        acknowledged = {session.post(url, json={"name": "before"}, timeout=20).json()["experiment_id"]}
        database.stop("immediate")
        for _ in range(3):
            answer = session.post(url, json={"name": "lost"}, timeout=20)
            assert answer.status_code >= 500, answer.text
            assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        database.start()
        answer = session.post(url, json={"name": "after"}, timeout=20)
        assert answer.status_code == 200, answer.text
        acknowledged.add(answer.json()["experiment_id"])
        found = session.get(f"{gate.url}/api/2.0/mlflow/experiments/search?max_results=50", timeout=20).json()[
            "experiments"
        ]
        assert acknowledged <= {experiment["experiment_id"] for experiment in found}
        assert "lost" not in {experiment["name"] for experiment in found}
    finally:
        gate.stop()
        database.remove()


@pytest.mark.parametrize("http2", ["false", "true"])
def test_nothing_but_the_public_port_listens(make_gate: Callable[..., Gate], http2: str) -> None:
    gate = make_gate(WORKERS="2", HTTP2=http2).start().wait_ready()
    inodes = {
        str(link.readlink())[len("socket:[") : -1]
        for pid in processes_of(gate)
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # 0A: LISTEN
                ports.add(int(fields[1].rpartition(":")[2], 16))
    assert ports == {gate.port}


def test_secrets_stay_out_of_process_list_log_and_other_users_reach(
    make_gate: Callable[..., Gate], tmp_path: Path
) -> None:
    secret_file = tmp_path / "client-secret"
    secret_file.write_text("from-a-file-$`\"'\\\n")
    gate = (
        make_gate(
            OAUTH2_PROXY_CLIENT_SECRET="",
            OAUTH2_PROXY_CLIENT_SECRET_FILE=str(secret_file),
            BACKEND_STORE_URI=f"sqlite:///{tmp_path / 'secret-name.db'}",
            MLFLOW_CRYPTO_KEK_PASSPHRASE="a-passphrase-of-mlflow",
            AWS_SECRET_ACCESS_KEY="a-key-of-the-bucket",
            AZURE_STORAGE_CONNECTION_STRING="AccountKey=a-key-of-the-bucket",
            GOGC="150",
        )
        .start()
        .wait_ready()
    )
    listing = subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    secrets = (
        "from-a-file",
        gate.environment["OAUTH2_PROXY_COOKIE_SECRET"],
        "a-passphrase-of-mlflow",
        "a-key-of-the-bucket",
    )
    for secret in secrets:
        assert secret not in listing
        assert secret not in gate.log()
    children = gate.children()
    folder = run_directory(gate)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    proxy_environment = Path(f"/proc/{children['proxy']}/environ").read_text().split("\0")
    server_environment = Path(f"/proc/{children['server']}/environ").read_text().split("\0")
    assert "OAUTH2_PROXY_CLIENT_SECRET=from-a-file-$`\"'\\" in proxy_environment
    # What the user says of Go's run time is kept; what it doesn't say is set.
    assert {"GOGC=150", "GOMEMLIMIT=128MiB"} <= set(proxy_environment)
    foreign = ("BACKEND_STORE_URI", "MLFLOW_", "AWS_", "AZURE_")
    assert not [entry for entry in proxy_environment if entry.startswith(foreign)]
    assert not [entry for entry in server_environment if "SECRET" in entry and entry.startswith("OAUTH2_PROXY")]
    gate.stop()
    assert not folder.exists()


def test_with_arguments_start_sh_becomes_that_command() -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [ROOT / "start.sh", "gatehouse", "--version"],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("gatehouse ")


def test_what_others_set_for_their_own_shells_and_pythons_stops_no_start(
    make_gate: Callable[..., Gate], tmp_path: Path
) -> None:
    (tmp_path / "profile").write_text("exit 3\n")
    gate = make_gate(
        SHELLOPTS="braceexpand:noexec:xtrace",
        BASHOPTS="extglob:failglob",
        BASH_ENV=str(tmp_path / "profile"),
        ENV=str(tmp_path / "profile"),
        CDPATH="/",
        PYTHONWARNINGS="error",
        PYTHONINSPECT="1",
        PYTHONDEVMODE="1",
        PYTHONSTARTUP=str(tmp_path / "profile"),
    )
    gate.start().wait_ready()
    assert gate.stop() == Exit.OK


def test_a_worker_that_hangs_is_told_by_the_probes(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(WORKERS="2").start().wait_ready()

    def health() -> int:
        # With OAUTH2_PROXY_HTTP_ADDRESS, which every gate of the tests has.
        return subprocess.run(
            ["gatehouse", "health"], env=gate.environment, capture_output=True, check=False
        ).returncode

    url = f"{gate.url}/gatehouse/ready"
    answer = requests.get(url, timeout=20)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert health() == Exit.OK
    worker = gate.children()["worker 1"]
    os.kill(worker, signal.SIGSTOP)
    try:
        # Whichever worker takes the question: the one that turns knows of the other, and the other doesn't answer at
        # all.
        assert health() == Exit.UNAVAILABLE
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_for(lambda: requests.get(url, timeout=20).ok, "the worker to be well again", logs=gate.log)
    # Anything else there needs an identity, as ever.
    assert requests.get(f"{gate.url}/gatehouse/ready/x", timeout=20).status_code == 401
    assert requests.post(url, timeout=20).status_code == 401
