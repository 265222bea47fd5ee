"""The image holds what the server needs, pinned, and nothing else."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
import tomllib

from local.proxy_binary import ROOT, pinned_version
from tests.container.parts import GATEHOUSE, inside

SIZE_LIMIT_MB = 450


def run(client: Any, *command: str, user: str = "0") -> str:
    """Run a command in a fresh container, without the entrypoint."""
    output = client.containers.run(
        GATEHOUSE, list(command[1:]), entrypoint=command[0], user=user, remove=True, network_mode="none"
    )
    return str(output.decode())


@pytest.fixture(scope="module")
def config(docker_client: Any) -> dict[str, Any]:
    return dict(docker_client.images.get(GATEHOUSE).attrs["Config"])


def test_runs_as_a_user_without_rights(config: dict[str, Any]) -> None:
    user, _, group = config["User"].partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000


def test_has_tini_before_the_entrypoint_and_a_health_check(config: dict[str, Any]) -> None:
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "/app/start.sh"]
    assert config["Healthcheck"]["Test"] == ["CMD", "gatehouse", "health"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert "PORT=8080" in config["Env"]


def test_says_what_it_is(config: dict[str, Any]) -> None:
    labels = config["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.title"].lower() == project["name"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    for name in ("description", "base.name", "revision"):
        assert labels[f"org.opencontainers.image.{name}"]


def test_keeps_no_secret_in_its_layers(docker_client: Any, config: dict[str, Any]) -> None:
    image = docker_client.images.get(GATEHOUSE)
    written = json.dumps([[layer["CreatedBy"] for layer in image.history()], config["Env"], config["Labels"]])
    assert not re.search(r"(?i)(secret|password|token|credential|BACKEND_STORE_URI)[A-Z_]*=", written)
    assert "PRIVATE KEY" not in written


def test_has_no_compiler_no_package_cache_and_nothing_that_anybody_could_change(docker_client: Any) -> None:
    assert json.loads(run(docker_client, "python3", "-c", inside("unwanted"))) == []


def test_has_bytecode_that_a_read_only_root_cannot_lack(docker_client: Any) -> None:
    good, bad = json.loads(run(docker_client, "python", "-c", inside("bytecode")))
    assert good > 2000
    assert bad == []


def test_has_the_pinned_versions(docker_client: Any) -> None:
    assert run(docker_client, "oauth2-proxy", "--version").startswith(f"oauth2-proxy {pinned_version()} ")
    locked = re.search(r"(?m)^mlflow==(\S+)", (ROOT / "requirements/server.txt").read_text())
    assert locked
    script = "import importlib.metadata as m; print(m.version('mlflow'))"
    assert run(docker_client, "python", "-c", script).strip() == locked[1]


def test_leaves_pandas_for_its_first_use(docker_client: Any) -> None:
    code = (
        "import sys; from gatehouse.upstream import lazy; lazy.install(); import mlflow.server.fastapi_app; "
        "print('pandas.core' in sys.modules)"
    )
    assert run(docker_client, "python", "-W", "ignore", "-c", code).strip() == "False"


@pytest.mark.parametrize(("cpus", "expected"), [(1.0, 1), (0.5, 1), (1.6, 2)])
def test_counts_the_cpus_that_its_quota_allows(docker_client: Any, cpus: float, expected: int) -> None:
    command = ["-c", "from gatehouse.start.settings import available_cpus; print(available_cpus())"]
    output = docker_client.containers.run(
        GATEHOUSE, command, entrypoint="python", nano_cpus=int(cpus * 1e9), remove=True, network_mode="none"
    )
    assert int(output) == min(expected, os.cpu_count() or 1)


def test_has_one_client_to_hand_out_and_none_installed(docker_client: Any) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(docker_client, "ls", "/app/dist").split() == [f"mlflow_gatehouse-{version}-py3-none-any.whl"]
    code = "import importlib.util as u; print(u.find_spec('mlflow_gatehouse'))"
    assert run(docker_client, "python", "-c", code).strip() == "None"


def test_stays_small(docker_client: Any) -> None:
    assert docker_client.images.get(GATEHOUSE).attrs["Size"] < SIZE_LIMIT_MB * 10**6
