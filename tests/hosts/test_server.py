"""One server behind Caddy with TLS: the three ways in through it, large artifacts, and who the audit log says it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import requests
import yaml

from gatehouse.start import settings
from gatehouse.start.verdicts import PREFIX, PROXY
from tests.container.parts import MADE
from tests.hosts.conftest import SERVER, Host
from tests.support import Provider, wait_for


def test_a_browser_signs_in_over_tls(caddy_host: Host) -> None:
    browser = requests.Session()
    browser.verify, browser.trust_env = str(caddy_host.authority), False
    sign_in = browser.get(caddy_host.url, timeout=20)
    assert sign_in.url.startswith(f"{caddy_host.gate.provider.issuer}/oauth2/authorize?")
    page = browser.post(sign_in.url, data={"sub": "alice@example.com"}, timeout=20)
    assert page.url == f"{caddy_host.url}/"
    assert "<title>MLflow</title>" in page.text
    assert all(cookie.secure for cookie in browser.cookies)
    found = browser.get(f"{caddy_host.url}/ajax-api/2.0/mlflow/experiments/search?max_results=5", timeout=20)
    assert found.ok


def test_the_sdk_sends_a_large_artifact_and_gets_it_back(caddy_host: Host, provider: Provider, tmp_path: Path) -> None:
    script = """
import mlflow, pathlib
path = pathlib.Path("large.bin"); path.write_bytes(bytes(range(256)) * (1 << 18))
mlflow.set_experiment("one server")
with mlflow.start_run() as run:
    mlflow.log_artifact(str(path))
back = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="large.bin", dst_path="back")
import hashlib; print(hashlib.sha256(pathlib.Path(back).read_bytes()).hexdigest())
"""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": caddy_host.url,
        "MLFLOW_TRACKING_TOKEN": provider.token("bob"),
        "REQUESTS_CA_BUNDLE": str(caddy_host.authority),
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == hashlib.sha256(bytes(range(256)) * (1 << 18)).hexdigest()


def test_strangers_get_401_and_json(caddy_host: Host) -> None:
    address = f"{caddy_host.url}/api/2.0/mlflow/experiments/search?max_results=1"
    answer = requests.get(address, verify=str(caddy_host.authority), allow_redirects=False, timeout=20)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("application/json")


def test_no_client_writes_its_own_address_into_the_audit_log(caddy_host: Host) -> None:
    session = caddy_host.gate.session("bob")
    session.headers["X-Forwarded-For"] = "203.0.113.9"
    body = {"name": "forged address"}
    answer = session.post(
        f"{caddy_host.url}/api/2.0/mlflow/experiments/create",
        json=body,
        verify=str(caddy_host.authority),
        timeout=20,
    )
    assert answer.ok, answer.text

    def line() -> str:
        lines = [one for one in caddy_host.gate.log().splitlines() if "create_experiment" in one and "forged" in one]
        return lines[-1] if lines else ""

    found = wait_for(line, "the audit line", 10, caddy_host.gate.log)
    assert json.loads(found)["httpRequest"]["remoteIp"] in {"127.0.0.1", "::1"}


def test_compose_takes_the_file_and_the_container_its_settings(tmp_path: Path) -> None:
    """Compose's own reader, and the names that the container knows."""
    for name in ("client", "cookie"):
        (tmp_path / name).write_text("0" * 32)
    environment = {
        "PATH": os.environ["PATH"],
        "DOMAIN": "mlflow.example.com",
        "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
        "OAUTH2_PROXY_CLIENT_ID": "client",
        "CLIENT_SECRET_FILE": str(tmp_path / "client"),
        "COOKIE_SECRET_FILE": str(tmp_path / "cookie"),
    }
    own = MADE / "docker-compose"
    compose = [str(own)] if own.exists() else ["docker", "compose"]
    command = [*compose, "--file", str(SERVER / "compose.yaml"), "config"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    given = yaml.safe_load(done.stdout)["services"]["gatehouse"]["environment"]
    known = {setting.name for setting in settings.TABLE} | {PREFIX + key.upper() for key in PROXY}
    known |= {f"{name}_FILE" for name in settings.SECRETS}
    assert set(given) <= known
    values, problems = settings.parse_table({name: str(value) for name, value in given.items()})
    assert problems == []
    assert values["shutdown_timeout"] < 30  # stop_grace_period
