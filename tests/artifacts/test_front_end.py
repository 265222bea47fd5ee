"""Past 32 MiB: behind a front end that speaks HTTP/1.1 to people and HTTP/2 in cleartext to the container, as Cloud
Run's does.

The stand-ins: nghttpx, which speaks HTTP/2 to its backend, and haproxy, which refuses a request of more than 32 MiB to
an HTTP/1 backend (https://cloud.google.com/run/quotas).
"""

from __future__ import annotations

import filecmp
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from selenium.webdriver.common.by import By

from gatehouse.exit_codes import Exit
from tests.artifacts.http2 import Http2
from tests.browser import chromium
from tests.support import Gate, Provider, free_port, missing, run_sdk, wait_for

MIB = 1 << 20
STORED = "/api/2.0/mlflow-artifacts/artifacts/0"
#: What the listener may hold while 600 MiB pass through it, up and down.
LISTENER_LIMIT_MIB = 64

SDK = """
import hashlib, os, sys
import mlflow

def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

with mlflow.start_run() as run:
    for path in sys.argv[1:]:
        name = os.path.basename(path)
        mlflow.log_artifact(path)
        copy = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name, dst_path="down")
        assert digest(copy) == digest(path), name
        os.unlink(copy)
print(run.info.run_id)
"""


class FrontEnd:
    """A real proxy in a process of its own, on a free port."""

    def __init__(self, folder: Path, program: str, package: str, *arguments: str) -> None:
        if not shutil.which(program):
            missing(program, f"apt-get install {package}")
        self.log_path = folder / f"{program}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)

    def wait(self, port: int) -> None:
        """Wait until it listens."""

        def listens() -> bool:
            assert self.process.poll() is None, self.log_path.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, "the front end", 20, self.log_path.read_text)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def http2_front_end(folder: Path, port: int, backend: int) -> FrontEnd:
    """Start nghttpx: HTTP/1.1 on ``port``, HTTP/2 in cleartext to ``backend``.

    It appends the client's address, as Cloud Run's does.
    """
    empty = folder / "nghttpx.conf"
    empty.touch()
    front = FrontEnd(
        folder, "nghttpx", "nghttp2-proxy", f"--conf={empty}", f"--frontend=127.0.0.1,{port};no-tls",
        f"--backend=127.0.0.1,{backend};;proto=h2", "--add-x-forwarded-for", "--no-location-rewrite", "--workers=1",
    )  # fmt: skip
    front.wait(port)
    return front


def http1_front_end(folder: Path, port: int, backend: int) -> FrontEnd:
    """Start haproxy: HTTP/1.1 on both sides, and 413 for more than 32 MiB."""
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend public\n  bind 127.0.0.1:{port}\n  option forwardfor\n"
        f"  http-request deny deny_status 413 if {{ req.body_size gt {32 * MIB} }}\n"
        f"  default_backend container\nbackend container\n  server container 127.0.0.1:{backend}\n"
    )
    front = FrontEnd(folder, "haproxy", "haproxy", "-db", "-f", str(config))
    front.wait(port)
    return front


def make_file(path: Path, mib: int) -> str:
    """Write a file in which no block is like another; return its SHA-256."""
    block, digest = os.urandom(MIB), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(mib):
            part = number.to_bytes(8, "big") + block[8:]
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def site(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with HTTP2=true, whose public address is the front end's."""
    folder = tmp_path_factory.mktemp("site")
    front_port = free_port()
    url = f"http://localhost:{front_port}"
    hosts = f"localhost:{front_port},localhost:*"
    gate = Gate(
        folder, provider, HTTP2="true", PUBLIC_URL=url, K_SERVICE="mlflow-dev", MLFLOW_SERVER_ALLOWED_HOSTS=hosts
    )
    front = http2_front_end(folder, front_port, gate.port)
    gate.url = url
    try:
        yield gate.start().wait_ready()
    finally:
        gate.stop()
        front.stop()
        shutil.rmtree(folder / "artifacts")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    """Files of 40, 100 and 600 MiB."""
    folder = tmp_path_factory.mktemp("files")
    paths = {mib: folder / f"{mib}.bin" for mib in (40, 100, 600)}
    for mib, path in paths.items():
        make_file(path, mib)
    yield paths
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def run_id(site: Gate, files: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run to which the unmodified SDK logged all three files through the front end, and from which it read them back."""
    folder = tmp_path_factory.mktemp("sdk")
    done = run_sdk(site, SDK, folder, *map(str, files.values()), token=site.provider.token())
    return done.stdout.split()[-1]


@pytest.fixture
def client(site: Gate) -> Iterator[Http2]:
    """An HTTP/2 connection of bob's, straight to the gate."""
    with Http2(site.port, site.provider.token("bob")) as connection:
        yield connection


def curl(gate: Gate, url: str, *arguments: str) -> str:
    """Run curl as alice; return the status and the protocol's version."""
    command = [
        "curl", "--silent", "--show-error", "--max-time", "120", "--write-out", "%{http_code} %{http_version}",
        "--header", f"Authorization: Bearer {gate.provider.token()}", *arguments, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=130, check=False)
    assert done.returncode == 0, done.stderr + gate.log()[-4000:]
    return done.stdout


def stored(gate: Gate, name: str) -> list[Path]:
    """Return what the store has under an artifact's name."""
    return list((gate.folder / "artifacts").rglob(name))


def whoami(client: Http2, *headers: tuple[str, str]) -> tuple[int, str]:
    """Ask over HTTP/2 who one is; return status and e-mail address."""
    answer = client.ask("GET", "/gatehouse/whoami", *headers)
    return answer.status, json.loads(answer.body).get("email", "") if answer.status == 200 else ""


# --- The limit, and past it ----------------------------------------------------------------------------------


def test_without_http2_the_platforms_limit_bites(gate: Gate, files: dict[int, Path], tmp_path: Path) -> None:
    port = free_port()
    front = http1_front_end(tmp_path, port, gate.port)
    try:
        url = f"http://localhost:{port}{STORED}"
        assert curl(gate, f"{url}/refused.bin", "--upload-file", str(files[40]), "--output", os.devnull) == "413 1.1"
        assert stored(gate, "refused.bin") == []
    finally:
        front.stop()
    # And HTTP/2, which lifts the limit, it doesn't speak.
    command = ["curl", "--silent", "--max-time", "20", "--http2-prior-knowledge", f"http://localhost:{gate.port}/ping"]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode != 0


def test_the_sdk_logs_and_reads_40_100_and_600_mib(site: Gate, files: dict[int, Path], run_id: str) -> None:
    """It has read them back (``run_id``); and each lies in the store as it was."""
    for file in files.values():
        (found,) = (path for path in stored(site, file.name) if run_id in path.parts)
        assert filecmp.cmp(found, file, shallow=False), file.name


def test_the_listener_holds_next_to_nothing_of_them(site: Gate, run_id: str) -> None:
    del run_id
    status = Path(f"/proc/{site.children()['listener']}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    assert peak_kib < LISTENER_LIMIT_MIB * 1024


@pytest.mark.parametrize(
    ("way", "mib", "version"),
    [
        ("front end", 40, "1.1"), ("front end", 100, "1.1"), ("front end", 600, "1.1"),
        ("--http1.1", 40, "1.1"), ("--http2-prior-knowledge", 40, "2"),
    ],
)  # fmt: skip
def test_curl_sends_and_gets_through_the_front_end_and_by_either_protocol(
    site: Gate, files: dict[int, Path], tmp_path: Path, way: str, mib: int, version: str
) -> None:
    origin, options = (site.url, []) if way == "front end" else (f"http://localhost:{site.port}", [way])
    url = f"{origin}{STORED}/curl{version}-{mib}.bin"
    sent = curl(site, url, *options, "--upload-file", str(files[mib]), "--output", os.devnull)
    assert sent == f"200 {version}"
    copy = tmp_path / "copy.bin"
    assert curl(site, url, *options, "--output", str(copy)) == f"200 {version}"
    assert digest_of(copy) == digest_of(files[mib])
    copy.unlink()


@pytest.mark.parametrize("mib", [40, 100, 600])
def test_a_browser_downloads_it_from_the_ui(
    site: Gate, files: dict[int, Path], run_id: str, tmp_path: Path, mib: int
) -> None:
    with chromium(site) as browser:
        browser.sign_in("alice")
        browser.wait_text("Experiments")
        browser.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
        )
        browser.driver.get(f"{site.url}/#/experiments/0/runs/{run_id}/artifacts/{mib}.bin")
        browser.click(By.XPATH, "(//*[contains(@class, 'mlflow-artifact-right')]//button)[1]")
        copy = tmp_path / f"{mib}.bin"
        wait_for(copy.exists, "the download", 60, lambda: browser.describe("the download"))
    assert digest_of(copy) == digest_of(files[mib])
    copy.unlink()


# --- Many at once, stopped half-way, stalled -----------------------------------------------------------------


def test_a_hundred_requests_share_one_connection(client: Http2) -> None:
    streams = [client.send("GET", "/gatehouse/whoami") for _ in range(100)]
    answers = [client.wait(stream) for stream in streams]
    assert {(answer.status, json.loads(answer.body)["email"]) for answer in answers} == {(200, "bob@example.com")}


def test_uploads_that_nobody_takes_hold_up_no_other_request_on_their_connection(site: Gate, client: Http2) -> None:
    server = site.children()["server"]
    os.kill(server, signal.SIGSTOP)
    try:
        uploads = [client.send("PUT", f"{STORED}/stalled{n}.bin", body=bytes(2 * MIB)) for n in range(20)]
        wait_for(lambda: client.feed(0.3) == 0, "the windows to be full", 20)
        assert len(client.uploads) == len(uploads)
        assert client.ask("GET", "/ping").status == 200
        # There is room for another one's body too.
        assert client.state.outbound_flow_control_window > MIB
    finally:
        os.kill(server, signal.SIGCONT)
    assert {client.wait(stream).status for stream in uploads} == {200}
    assert {path.stat().st_size for path in stored(site, "stalled*.bin")} == {2 * MIB}


def test_an_upload_whose_client_is_killed_leaves_nothing(site: Gate, files: dict[int, Path]) -> None:
    url = f"{site.url}{STORED}/killed.bin"
    command = ["curl", "--silent", "--limit-rate", "20M", "--upload-file", str(files[100]), "--output", os.devnull, url]
    killed = subprocess.Popen([*command, "--header", f"Authorization: Bearer {site.provider.token()}"])
    listener = site.children()["listener"]
    before = received(listener)
    wait_for(lambda: received(listener) - before > 20 * MIB, "a fifth of the upload", 30, site.log)
    killed.kill()
    killed.wait()
    assert requests.get(f"{site.url}/ping", timeout=10).ok
    wait_for(lambda: "killed.bin" in site.log(), "the request's end", 20, site.log)
    assert stored(site, "killed.bin") == []


def received(pid: int) -> int:
    """Return how many bytes a process has read so far, from files and sockets."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def test_a_stream_that_is_reset_is_no_complete_upload(site: Gate, client: Http2) -> None:
    """Without a length, only the stream's end tells that the body is whole."""
    stream = client.send("PUT", f"{STORED}/reset.bin", body=bytes(MIB), end=False)
    wait_for(lambda: client.feed() == 0 and stream not in client.uploads, "the body to be sent", 20)
    client.state.reset_stream(stream)
    client.feed()
    assert client.ask("GET", "/gatehouse/whoami").status == 200
    wait_for(lambda: "reset.bin" in site.log(), "the request's end", 20, site.log)
    assert stored(site, "reset.bin") == []


# --- Attacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        ("x-forwarded-email", "alice@example.com"), ("x_forwarded_email", "alice@example.com"),
        ("x-forwarded-user", "alice"), ("x-forwarded-groups", "admins"), ("x-auth-request-email", "alice@example.com"),
        ("forwarded", "for=192.0.2.1"), ("x-forwarded-host", "evil.example"), ("x-original-url", "/"),
    ],
    ids=lambda header: header[0],
)  # fmt: skip
def test_no_header_over_http2_changes_who_one_is(client: Http2, header: tuple[str, str]) -> None:
    assert whoami(client, header) == (200, "bob@example.com")


@pytest.mark.parametrize(
    "headers",
    [
        [("transfer-encoding", "chunked")], [("connection", "x-forwarded-email")], [("upgrade", "h2c")],
        [("keep-alive", "1")], [("proxy-connection", "close")], [("te", "gzip")], [("X-Upper", "a")], [("bad name", "a")],
        [("x-injected", "a\r\nx-forwarded-email: alice@example.com")], [("x-null", "a\0b")], [(":path", "/other")],
        [(":status", "200")], [(f"x-{n}", "x" * 8192) for n in range(160)],
    ],
    ids=lambda headers: headers[0][0],
)  # fmt: skip
def test_malformed_http2_is_refused(client: Http2, headers: list[tuple[str, str]]) -> None:
    status, email = whoami(client, *headers)
    assert status == 0 or status >= 400
    assert email == ""


def test_the_authority_is_the_host_whatever_the_host_header_says(site: Gate, client: Http2) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert client.ask("GET", path, ("host", "evil.example")).status == 200
    evil = client.ask("GET", path, ("host", f"localhost:{site.port}"), authority="evil.example")
    assert evil.status == 403
    assert b"Invalid Host header" in evil.body


@pytest.mark.parametrize(
    ("lengths", "size"),
    [
        (["10"], 5), (["5"], 10), (["-1"], 5), (["0", "5"], 5), (["5", "5"], 5), (["5, 5"], 5), (["+5"], 5),
        (["0x5"], 5), ([""], 5), (["9223372036854775808"], 5),
    ],
)  # fmt: skip
def test_a_body_of_another_length_than_announced_is_not_stored(
    site: Gate, client: Http2, lengths: list[str], size: int
) -> None:
    name = f"announced{'and'.join(lengths)}.bin"
    headers = [("content-length", length) for length in lengths]
    answer = client.ask("PUT", f"{STORED}/{name}", *headers, body=b"x" * size)
    assert answer.status in (0, 400, 502)
    assert stored(site, name) == []
    # What the listener sends on is framed anew: the connections behind it are in step.
    with Http2(site.port, site.provider.token("bob")) as other:
        assert whoami(other) == (200, "bob@example.com")


@pytest.mark.parametrize(
    "path",
    [
        f"{STORED}/../../../etc/passwd",
        f"{STORED}/%2e%2e/%2e%2e/x",
        f"{STORED}/a%2F..%2F..%2Fx",
        "//evil.example/x",
        "/%00",
    ],
)
def test_a_path_is_judged_as_it_was_sent(site: Gate, client: Http2, path: str) -> None:
    """The same answer by HTTP/2 as straight from oauth2-proxy: nothing is decoded, folded or cleaned on the way."""
    run_directory = Path(f"/proc/{site.children()['listener']}/environ").read_text().split("LISTENER_SOCKET=")[1]
    with socket.socket(socket.AF_UNIX) as straight:
        straight.connect(run_directory.split("\0")[0])
        straight.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost:{site.port}\r\nAuthorization: Bearer "
            f"{client.token}\r\n\r\n".encode()
        )
        reference = http.client.HTTPResponse(straight)
        reference.begin()
        expected = reference.status, reference.read()
    answer = client.ask("GET", path)
    assert (answer.status, answer.body) == expected


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nContent-Length: 6", "Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding : chunked", "Host: evil.example", "Content-Length: +5",
    ],
)  # fmt: skip
def test_ambiguous_http1_is_refused(site: Gate, head: str) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        smuggled = f"GET /gatehouse/whoami HTTP/1.1\r\nHost: localhost:{site.port}\r\n\r\n"
        connection.sendall(
            f"POST /ping HTTP/1.1\r\nHost: localhost:{site.port}\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}".encode()
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_upgrade_goes_nowhere(site: Gate) -> None:
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    answer = requests.get(f"http://localhost:{site.port}/ping", headers=headers, timeout=10)
    assert (answer.status_code, answer.text) == (200, "OK")


@pytest.mark.parametrize("forged", [[], ["6.6.6.6"], ["6.6.6.6", "7.7.7.7"], ["6.6.6.6, 7.7.7.7"]])
def test_the_clients_address_is_the_one_that_the_front_end_saw(site: Gate, forged: list[str]) -> None:
    name = f"address{len(forged)}{len(','.join(forged))}.bin"
    connection = http.client.HTTPConnection(
        "localhost", int(site.url.rpartition(":")[2]), source_address=("127.0.0.2", 0)
    )
    connection.putrequest("PUT", f"{STORED}/{name}")
    for value in forged:
        connection.putheader("X-Forwarded-For", value)
    connection.putheader("Authorization", f"Bearer {site.provider.token()}")
    connection.putheader("Content-Length", "1")
    connection.endheaders(b"x")
    assert connection.getresponse().status == 200
    connection.close()
    line = wait_for(
        lambda: next((line for line in site.log().splitlines() if name in line and line.startswith("{")), None),
        "the audit line", 10, site.log,
    )  # fmt: skip
    assert json.loads(line)["httpRequest"]["remoteIp"] == "127.0.0.2"


# --- Its life ------------------------------------------------------------------------------------------------


def test_term_lets_an_upload_over_http2_finish(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(HTTP2="true").start().wait_ready()
    upload = subprocess.Popen(
        ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "60", "--upload-file", "-",
         "--header", f"Authorization: Bearer {gate.provider.token()}", "--write-out", "%{http_code} %{http_version}",
         "--output", os.devnull, f"http://localhost:{gate.port}{STORED}/late.bin"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert upload.stdin is not None
    before = received(gate.children()["listener"])
    upload.stdin.write(b"a" * MIB)
    upload.stdin.flush()
    wait_for(lambda: received(gate.children()["listener"]) - before > MIB // 2, "the upload to begin", 20, gate.log)
    assert gate.process is not None
    gate.process.terminate()

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", gate.port)) != 0

    wait_for(refuses, "the port to close", 10, gate.log)
    output, _ = upload.communicate(b"b" * MIB, timeout=60)
    assert output == b"200 2", gate.log()
    assert gate.wait_end(20) == Exit.OK, gate.log()
    assert stored(gate, "late.bin")[0].read_bytes() == b"a" * MIB + b"b" * MIB


@pytest.mark.parametrize(
    ("victim", "words"),
    [("listener", "the HTTP/2 listener ended (signal KILL)"), ("proxy", "OAuth2 Proxy ended (signal KILL)")],
)
def test_killing_the_listener_or_the_proxy_behind_it_ends_all(
    make_gate: Callable[..., Gate], victim: str, words: str
) -> None:
    gate = make_gate(HTTP2="true").start().wait_ready()
    children = gate.children()
    os.kill(children[victim], signal.SIGKILL)
    assert gate.wait_end(10) == Exit.PROXY_ENDED
    assert words in gate.log()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), "the end of all", 5, gate.log)
