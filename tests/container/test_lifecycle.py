"""How the container starts, fails and ends."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from gatehouse.exit_codes import Exit
from tests.container.parts import HARDENED, PORT, Engine, Site, settings, socket_mount, socket_url
from tests.support import Postgres, wait_for

SQLITE = {"BACKEND_STORE_URI": "sqlite:////tmp/mlflow.db"}


@pytest.mark.parametrize("user", ["10001:10001", "54321:54321", "1000:0", "0:0"])
def test_any_user_will_do(engine: Engine, user: str) -> None:
    box = engine.start(environment=settings(**SQLITE), **{**HARDENED, "user": user}).wait_ready()
    assert box.run("bash", "-c", "echo $UID").strip() == user.partition(":")[0]


def test_four_containers_start_at_once_on_one_empty_database(
    engine: Engine, postgres: Postgres, plain_settings: dict[str, str], database: str
) -> None:
    options = {"environment": plain_settings, "mounts": [socket_mount(postgres)], **HARDENED}
    with ThreadPoolExecutor(4) as starts:
        for box in [starts.submit(engine.start, **options) for _ in range(4)]:
            box.result().wait_ready()
    name = database.rpartition("/")[2]
    assert postgres.sql("SELECT count(*) FROM alembic_version", name).strip() == "1"
    assert postgres.sql("SELECT name FROM experiments", name).split() == ["Default"]


@pytest.mark.parametrize(
    ("child", "code", "said"),
    [
        ("gatehouse serve", Exit.SERVER_ENDED, "MLflow ended (signal KILL)"),
        ("oauth2-proxy", Exit.PROXY_ENDED, "OAuth2 Proxy ended (signal KILL)"),
    ],
    ids=["MLflow", "proxy"],
)
def test_either_process_dying_ends_the_container_and_says_which(
    engine: Engine, child: str, code: Exit, said: str
) -> None:
    box = engine.start(environment=settings(**SQLITE), **HARDENED).wait_ready()
    box.run("bash", "-c", f"kill -KILL {box.process(child)}")
    assert box.wait_end(10) == code
    assert said in box.log()


def test_term_ends_an_idle_container_with_0(engine: Engine) -> None:
    box = engine.start(environment=settings(**SQLITE), **HARDENED).wait_ready()
    box.container.stop(timeout=10)
    assert box.state()["ExitCode"] == 0


def test_term_during_a_slow_upload_lets_it_complete(engine: Engine, postgres: Postgres, database: str) -> None:
    volume = engine.volume()
    site = Site(
        engine,
        environment={
            "BACKEND_STORE_URI": socket_url(database.rpartition("/")[2]),
            "ARTIFACTS_DESTINATION": "/data/artifacts",
        },
        mounts=[socket_mount(postgres)],
        volumes={volume: {"bind": "/data"}},
    )
    content = b"slow " * 200_000
    address = urlsplit(site.url)
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=30)
    head = (
        "PUT /api/2.0/mlflow-artifacts/artifacts/slow.txt HTTP/1.1\r\n"
        f"Host: {address.netloc}\r\nAuthorization: Bearer {site.token()}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content[:100_000])

    def upload_has_begun() -> bool:
        # Besides the socket that listens there is one that MLflow has accepted.
        return site.box.run("cat", "/proc/net/unix").count("/mlflow.sock") > 1

    def closed_to_new_requests() -> bool:
        try:
            requests.get(f"{site.url}/ping", timeout=2)
        except requests.RequestException:
            return True
        return False

    wait_for(upload_has_begun, "the upload to reach MLflow", 30, site.box.log)
    stopping = threading.Thread(target=site.box.container.stop, kwargs={"timeout": 10})
    stopping.start()
    wait_for(closed_to_new_requests, "the proxy to close its port", 10, site.box.log)
    connection.sendall(content[100_000:])
    answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer + site.box.log().encode()
    stopping.join()
    assert site.box.state()["ExitCode"] == 0, site.box.log()
    archive, _ = site.box.container.get_archive("/data/artifacts/slow.txt")
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tar:
        stored = tar.extractfile("slow.txt")
        assert stored is not None
        assert stored.read() == content


def test_a_command_takes_the_place_of_the_server(engine: Engine) -> None:
    box = engine.start("gatehouse", "--version", environment={}, **HARDENED)
    assert box.wait_end() == 0
    assert box.log().startswith("gatehouse ")
    box = engine.start("bash", "-c", "exit 7", environment={}, **HARDENED)
    assert box.wait_end() == 7


def test_health_is_bad_where_nothing_serves(engine: Engine) -> None:
    box = engine.start("gatehouse", "health", environment={}, **HARDENED)
    assert box.wait_end() == Exit.UNAVAILABLE
    assert f"nothing answers at 127.0.0.1:{PORT}" in box.log()


def test_doctor_runs_instead_of_the_server_and_names_each_part_that_is_ill(engine: Engine) -> None:
    environment = settings(
        BACKEND_STORE_URI="postgresql://user:hidden-password@127.0.0.1:1/none", OAUTH2_PROXY_COOKIE_SECRET="short"
    )
    box = engine.start("gatehouse", "doctor", "--wait", "0", environment=environment, network_mode="none", **HARDENED)
    assert box.wait_end() == Exit.SETTINGS
    for words in (
        "ERROR settings: OAUTH2_PROXY_COOKIE_SECRET",
        "ERROR database: the database postgresql+psycopg2://user:***@",
        "ok    artifacts: file:///tmp/artifacts",
        "ERROR identity provider: https://accounts.google.com",
    ):
        assert words in box.log()
    assert "hidden-password" not in box.log()


def test_all_bad_settings_are_reported_at_once_and_nothing_starts(engine: Engine) -> None:
    bad = {
        "PORT": "http",
        "WORKERS": "many",
        "PUBLIC_URL": "http://mlflow.example.com",
        "BACKEND_STORE_URI": "mysql://db/x",
        "OAUTH2_PROXY_COOKIE_SECRET": "short",
        "OAUTH2_PROXY_CLIENT_ID": "",
        "OAUTH2_PROXY_EMAIL_DOMAINS": "gmail.com",
    }
    box = engine.start(environment=settings(**bad), ports={}, **HARDENED)
    assert box.wait_end() == Exit.SETTINGS
    log = box.log()
    for name in bad:
        assert f"start.sh: error: {name} " in log
    assert log.count("fix: ") == log.count("error: ") == len(bad)
    assert "gatehouse serve" not in log


def test_a_read_only_root_without_a_tmpfs_is_named_with_the_fix(engine: Engine) -> None:
    box = engine.start(environment=settings(**SQLITE), ports={}, **{**HARDENED, "tmpfs": {}})
    assert box.wait_end() == Exit.CANNOT_CREATE
    assert "mount a small tmpfs" in box.log()
