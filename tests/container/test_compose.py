"""`docker compose up --build`, as the README says it, on a real Compose."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from local.provider import email
from local.proxy_binary import ROOT
from local.run import CLIENT_ID
from local.token import identity_token
from tests.container.parts import MADE, base_image
from tests.support import free_port, missing

UP_LIMIT_S = 600
PROJECT = f"gatehouse-test-{os.getpid()}"


@dataclass
class Composed:
    """The project as Compose started it, on ports of the test's own."""

    port: int
    issuer_port: int
    command: list[str]

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def issuer(self) -> str:
        return f"http://localhost:{self.issuer_port}"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a Compose command in the project."""
        environment = {**os.environ, "PORT": str(self.port), "PROVIDER_PORT": str(self.issuer_port)}
        if base := base_image():
            # Where the base image can't be pulled there is the engine's own builder only.
            environment |= {"DEBIAN": base, "DOCKER_BUILDKIT": "0"}
        command = [*self.command, "--project-name", PROJECT, *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=UP_LIMIT_S,
            check=False,
        )


def compose_command() -> list[str]:
    """Return the command of a real Compose."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if not (MADE / "docker-compose").exists():
        missing("Docker Compose", "install its plug-in, or build it: tests/container/engine.sh up")
    return [str(MADE / "docker-compose")]


@pytest.fixture(scope="module")
def composed(docker_client: Any) -> Iterator[Composed]:  # noqa: ARG001
    """The whole project, up and healthy; gone with its volumes at the end."""
    project = Composed(free_port(), free_port(), compose_command())
    try:
        done = project.run("up", "--build", "--detach", "--wait", "--wait-timeout", "180")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:] + project.run("logs").stdout[-8000:]
        yield project
    finally:
        project.run("down", "--volumes", "--timeout", "10")


@pytest.mark.parametrize("person", ["alice", "bob", "carol"])
def test_each_of_the_three_signs_in_with_one_click(composed: Composed, person: str) -> None:
    browser = requests.Session()
    sign_in = browser.get(composed.url, timeout=10)
    assert sign_in.url.startswith(composed.issuer)
    assert f"{person}@example.com" in sign_in.text
    page = browser.post(sign_in.url, data={"sub": f"{person}@example.com"}, timeout=10)
    assert page.url == f"{composed.url}/"
    assert "<title>MLflow</title>" in page.text


def test_a_token_from_make_token_opens_the_api(composed: Composed) -> None:
    done = subprocess.run(
        ["make", "--silent", "token", "USER=bob", f"ISSUER={composed.issuer}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    headers = {"Authorization": f"Bearer {done.stdout.strip()}"}
    made = requests.post(
        f"{composed.url}/api/2.0/mlflow/experiments/create",
        json={"name": "composed"},
        headers=headers,
        timeout=10,
    )
    assert made.status_code == 200, made.text
    assert requests.get(f"{composed.url}/version", timeout=10).status_code == 401


def test_data_outlives_the_containers(composed: Composed) -> None:
    headers = {"Authorization": f"Bearer {identity_token(composed.issuer, CLIENT_ID, email('alice'))}"}
    create = f"{composed.url}/api/2.0/mlflow/experiments/create"
    assert requests.post(create, json={"name": "to be kept"}, headers=headers, timeout=10).status_code == 200
    path = f"{composed.url}/api/2.0/mlflow-artifacts/artifacts/kept.txt"
    assert requests.put(path, data=b"kept", headers=headers, timeout=10).status_code == 200
    assert composed.run("down", "--timeout", "10").returncode == 0
    up = composed.run("up", "--detach", "--wait", "--wait-timeout", "180")
    assert up.returncode == 0, up.stderr
    headers = {"Authorization": f"Bearer {identity_token(composed.issuer, CLIENT_ID, email('alice'))}"}
    assert requests.get(path, headers=headers, timeout=10).content == b"kept"
    found = requests.get(
        f"{composed.url}/api/2.0/mlflow/experiments/search?max_results=9", headers=headers, timeout=10
    ).json()
    assert "to be kept" in {one["name"] for one in found["experiments"]}


def test_only_loopback_and_no_network_for_the_database(composed: Composed) -> None:
    config = json.loads(composed.run("config", "--format", "json").stdout)
    published = [port for service in config["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert config["services"]["database"]["network_mode"] == "none"
    assert config["services"]["gatehouse"]["read_only"] is True
