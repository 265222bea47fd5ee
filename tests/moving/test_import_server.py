"""Moving in from a server of which there is nothing but the address: a real one of MLflow's, read over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from gatehouse.artifacts.stores import local
from gatehouse.moving import sources
from gatehouse.moving.files import Files
from gatehouse.moving.server import open_server, remote, runs
from tests.moving.test_import import bring, command, counts, environment, rows, write
from tests.support import free_port, wait_for

#: What the API doesn't tell, or tells under ids of our own.
DERIVED = {"inputs": ("input_uuid", "source_id"), "input_tags": ("input_uuid",), "datasets": ("dataset_uuid",)}


class Server:
    """A plain ``mlflow server`` on SQLite that keeps its artifacts itself."""

    def __init__(self, folder: Path, *program: str) -> None:
        self.folder = folder
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._program = program or (sys.executable, "-m", "mlflow")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [*self._program, "server", "--backend-store-uri", self.database, "--workers", "1",
             "--artifacts-destination", str(self.folder / "kept"), "--host", "127.0.0.1", "--port", str(self.port)],
            cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        log.close()
        wait_for(self._answers, "an answer of the old server", 120, lambda: (self.folder / "server.log").read_text())
        return self

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """A running server that MLflow's own SDK wrote to, and ids."""
    part = Server(tmp_path_factory.mktemp("old"))
    try:
        part.start()
        ids = write(part.url, Path("mlflow-artifacts:/1"))
        api = f"{part.url}/api/2.0/mlflow"
        found = requests.post(f"{api}/runs/search", json={"experiment_ids": ["1"]}, timeout=30).json()["runs"]
        ids["deleted"] = next(run["info"]["run_id"] for run in found if run["info"]["run_id"] != ids["run"])
        requests.post(f"{api}/runs/delete", json={"run_id": ids["deleted"]}, timeout=30).raise_for_status()
        gone = requests.post(f"{api}/experiments/create", json={"name": "gone"}, timeout=30).json()["experiment_id"]
        requests.post(f"{api}/experiments/delete", json={"experiment_id": gone}, timeout=30).raise_for_status()
        yield part, ids
    finally:
        part.stop()


def test_all_that_a_server_tells_comes_along(
    server: tuple[Server, dict[str, str]], database: str, tmp_path: Path
) -> None:
    old, ids = server
    dry = bring(old.url, database, tmp_path / "new", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "runs: 3" in dry.stdout
    assert "artifacts: 0 files" not in dry.stdout

    done = bring(old.url, database, tmp_path / "new", "--report", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = counts(old.database), counts(database)
    marked = {"tags": 6, "logged_model_tags": 3, "registered_model_tags": 2, "trace_tags": 1, "experiment_tags": 3}
    assert after == {name: count + marked.get(name, 0) for name, count in before.items()}
    for table in before:
        without = {
            "runs": ("deleted_time", "artifact_uri"), "logged_models": ("artifact_location",),
            "experiments": ("artifact_location",), "model_versions": ("source", "storage_location"), **DERIVED,
        }.get(table, ())  # fmt: skip
        if table != "trace_tags":
            assert told(database, table, *without) == told(old.database, table, *without), table
    kept = {path.read_bytes() for path in (old.folder / "kept").rglob("*") if path.is_file()}
    came = {path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert came == kept
    assert (tmp_path / "new/1" / ids["run"] / "artifacts/folder/a b.txt").read_text() == "hello 2"
    stages = dict(row for row in rows(database, "runs", *_all_but("runs", "run_uuid", "lifecycle_stage")))
    assert ids["deleted"] in {*stages, *stages.values()}

    again = bring(old.url, database, tmp_path / "new")
    assert "runs: 0 copied and verified, 3 here already" in again.stdout, again.stdout + again.stderr
    assert "artifacts: 0 files" in again.stdout
    assert counts(database) == after


def told(uri: str, table: str, *without: str) -> list[tuple[Any, ...]]:
    """Return a table's rows as the API tells them, which leaves out empty texts."""
    return sorted(
        (tuple(None if value == "" else value for value in row) for row in rows(uri, table, *without)), key=repr
    )


def _all_but(table: str, *columns: str) -> list[str]:
    return [each.name for each in sources.table(table).columns if each.name not in columns]


class Front(ThreadingHTTPServer):
    """What may stand before a server: it wants a credential, and it can hold a call, or end.

    Attributes:
        asked: the paths that were asked for.
        answers: what is answered instead of the server's own, once each: status and headers, or None to hang up.
    """

    daemon_threads = True

    def __init__(self, behind: str, credential: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.credential = behind, credential
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.answers: list[tuple[int, dict[str, str], bytes] | None] = []
        self.hold = ""
        self.held, self.released = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        front, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        front.asked.append(self.path)
        if front.hold and front.hold in self.path:
            front.held.set()
            front.released.wait()
        if front.answers:
            answer = front.answers.pop(0)
        elif front.credential and self.headers.get("Authorization") != front.credential:
            answer = (401, {}, b"who?")
        else:
            headers = {"Content-Type": self.headers.get("Content-Type") or ""}
            url = front.behind + self.path
            with requests.request(self.command, url, data=body, headers=headers, timeout=60) as found:
                answer = (found.status_code, {}, found.content)
        if answer is None:
            self.close_connection = True
            return
        status, more, content = answer
        self.close_connection = "Content-Length" in more
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def make_front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Front]]:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    made: list[Front] = []

    def make(behind: str, credential: str = "") -> Front:
        made.append(Front(behind, credential))
        return made[-1]

    yield make
    for front in made:
        front.end()


def read(url: str, staging: Path, **environment: str) -> sources.Source:
    """Read a server here, without a process of its own."""
    staging.mkdir(exist_ok=True)
    return open_server(remote.Remote(url, environment), staging, lambda _: None, False)


def test_a_reading_that_is_killed_goes_on_where_it_ended(
    server: tuple[Server, dict[str, str]], make_front: Callable[..., Front], database: str, tmp_path: Path
) -> None:
    old, _ = server
    front = make_front(old.url)
    front.hold = "/runs/get"  # after the histories, before any run is whole
    process = subprocess.Popen(
        command(front.url, "--staging", str(tmp_path / "staging")),
        env=environment(database, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert front.held.wait(120)
    finally:
        process.kill()
        process.wait()
    assert any("get-history" in path for path in front.asked)
    front.hold = ""
    front.released.set()
    front.asked.clear()
    source = read(front.url, tmp_path / "staging")
    assert source.failed == {}
    assert not any("get-history" in path for path in front.asked), "what is whole isn't asked for again"
    staged = f"sqlite:///{tmp_path / 'staging' / 'server.db'}"
    assert counts(staged) == counts(old.database)
    assert rows(staged, "metrics") == rows(old.database, "metrics")
    front.asked.clear()
    read(front.url, tmp_path / "staging")
    assert front.asked == [], "what was read whole is used as it is"
    with pytest.raises(sources.SourceError, match="another --staging folder"):
        read(old.url, tmp_path / "staging")


def test_a_server_that_stumbles_is_asked_again_and_one_that_goes_away_is_told(
    server: tuple[Server, dict[str, str]],
    make_front: Callable[..., Front],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Small pages: what has one page elsewhere has several here, and a bulk history isn't all of it.
    for name, size in {"BULK_RUNS": 2, "BULK_ROWS": 15, "HISTORY_ROWS": 3}.items():
        monkeypatch.setattr(runs, name, size)
    front = make_front(server[0].url)
    short = (200, {"Content-Length": "50"}, b"{}")
    front.answers = [None, (503, {}, b""), (429, {"Retry-After": "0"}, b""), short, (502, {}, b"<html>")]
    assert read(front.url, tmp_path / "one").failed == {}
    staged = f"sqlite:///{tmp_path / 'one' / 'server.db'}"
    assert counts(staged) == counts(server[0].database)
    assert rows(staged, "metrics") == rows(server[0].database, "metrics")
    assert sum("get-history?" in path for path in front.asked) > 3 * 4

    front.hold = "/runs/search"
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, front.url, tmp_path / "two")
        assert front.held.wait(60)
        front.behind = f"http://127.0.0.1:{free_port()}"
        front.answers = [None] * 1000
        front.released.set()
        with pytest.raises(sources.SourceError, match=r"(?s)doesn't answer.*goes on where it ended"):
            reading.result(60)
    front.answers, front.behind, front.hold = [], server[0].url, ""
    assert read(front.url, tmp_path / "two").failed == {}


def test_a_credential_goes_to_that_server_alone_and_a_wrong_one_is_told(
    server: tuple[Server, dict[str, str]], make_front: Callable[..., Front], tmp_path: Path
) -> None:
    for given, wanted in (
        ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "Bearer t0ken"),
        ({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic YW5uOnB3"),
    ):
        front = make_front(server[0].url, wanted)
        api = remote.Remote(front.url, given)
        assert api.get("/api/2.0/mlflow/experiments/get", {"experiment_id": "0"})["experiment"]["name"] == "Default"
        for other in ({}, {"MLFLOW_TRACKING_TOKEN": "other"}):
            with pytest.raises(sources.SourceError, match=r"(?s)answers 401.*MLFLOW_TRACKING_TOKEN"):
                read(front.url, tmp_path / "refused", **other)
    front, elsewhere = make_front(server[0].url), make_front(server[0].url)
    front.answers = [(302, {"Location": f"{elsewhere.url}/login"}, b"")]
    with pytest.raises(sources.SourceError, match="is redirected to"):
        read(front.url, tmp_path / "away", MLFLOW_TRACKING_TOKEN="t0ken")
    assert elsewhere.asked == []
    front.answers = [(200, {}, b"<html>sign in</html>")]
    with pytest.raises(sources.SourceError, match="answers with no JSON"):
        read(front.url, tmp_path / "page")
    token = {"MLFLOW_TRACKING_TOKEN": "t0ken"}
    with pytest.raises(remote.Unusable, match="readably"):
        remote.Remote("http://mlflow.example.com", token)
    remote.Remote("http://mlflow.example.com", token, insecure=True)
    remote.Remote("http://mlflow.example.com", {})
    with pytest.raises(remote.Unusable, match="belong together"):
        remote.Remote("https://mlflow.example.com", {"MLFLOW_TRACKING_USERNAME": "ann"})


def test_a_server_that_means_harm_gets_nowhere(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    front = make_front("http://127.0.0.1:1")
    api = remote.Remote(front.url, {})
    store = local.LocalStore((tmp_path / "store").as_uri())
    files = Files(store, None, None, (), api)

    def came(*answers: tuple[int, dict[str, str], bytes], location: str = "mlflow-artifacts:/1/a/artifacts") -> str:
        front.answers = list(answers)
        moved = files.copy(location, "mlflow-artifacts:/1/a/artifacts")
        assert (moved.files, front.answers) == (0, [])
        return " ".join(moved.failed.values())

    def listed(name: str, size: int = 4) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, json.dumps({"files": [{"path": name, "is_dir": False, "file_size": size}]}).encode()

    assert "no name of a file" in came(listed("../../etc/passwd"))
    assert "no name of a file" in came(listed(".."))
    assert "another server keeps it" in came(location="mlflow-artifacts://other.example.com/1/a/artifacts")
    assert "isn't read unasked" in came(location=str(tmp_path))
    assert "2 bytes came of 4" in came(listed("model.bin"), (200, {}, b"ab"))
    cut = (200, {"Content-Length": "4"}, b"ab")
    assert "ended within" in came(listed("model.bin"), *[cut] * remote.TRIES)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
    monkeypatch.setattr(remote, "MAX_DEPTH", 3)
    deeper: tuple[int, dict[str, str], bytes] = (200, {}, b'{"files": [{"path": "d", "is_dir": true}]}')
    assert "more than 3 deep" in came(*[deeper] * 4)
    monkeypatch.setattr(remote, "MAX_ANSWER", 1000)
    assert "more than 1000 bytes" in came((200, {}, b'{"files": "' + b"x" * 2000 + b'"}'))
    front.answers = [(200, {}, b'{"runs": [], "next_page_token": "again"}')] * 3
    with pytest.raises(remote.ServerError, match="never ends"):
        list(api.pages("/runs", "runs", {}))
    front.answers = [(200, {}, b'{"experiments": [{"name": 1}]}')]
    with pytest.raises(sources.SourceError, match="no MLflow server answers"):
        read(front.url, tmp_path / "odd")
