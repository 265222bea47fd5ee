"""The documented command installs ours, from the server itself, and nothing here names a stranger's package."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import tomllib

import gatehouse
import mlflow_gatehouse
from local.proxy_binary import ROOT
from tests.client.conftest import Machine
from tests.client.googleapis import ACCOUNT, Google
from tests.client.impostor import Impostor, standing_in
from tests.client.test_wheel import SCRIPT, UV, run
from tests.support import Gate

PATH = "/.well-known/gatehouse"
COMMAND = "pip install -r https://mlflow.example.com/.well-known/gatehouse/requirements.txt"


def fresh(folder: Path, *packages: str) -> str:
    """Make a fresh virtual environment with pip and these packages; return its Python."""
    python = str(folder / "bin" / "python")
    run(*UV, "venv", "--quiet", "--seed", "--python", sys.executable, str(folder))
    if packages:
        run(*UV, "pip", "install", "--quiet", "--python", python, *packages)
    return python


def with_front(front: Gate, command: str) -> str:
    return command.replace("https://mlflow.example.com", front.url)


def test_the_documented_command_literally_beside_mlflow(front: Gate, google: Google, tmp_path: Path) -> None:
    python = fresh(tmp_path / "clean", "mlflow-skinny==3.17.2")
    activated = f". {tmp_path}/clean/bin/activate && {with_front(front, COMMAND)}"
    said = run("bash", "-euc", activated)
    assert "Successfully installed mlflow-gatehouse-" in said
    script = (
        "from importlib.metadata import entry_points as e; print(*e(group='mlflow.request_auth_provider', "
        "name='gatehouse'))"
    )
    assert "mlflow_gatehouse.plugin:GatehouseAuthProvider" in run(python, "-c", script)
    listed = {package["name"] for package in json.loads(run(python, "-m", "pip", "list", "--format=json"))}
    assert "mlflow-gatehouse" in listed
    assert "gatehouse" not in listed

    home = tmp_path / "home"
    home.mkdir()
    machine = Machine(home, front.url, python=python)

    def command(*arguments: str, expect: int = 0) -> str:
        program = str(tmp_path / "clean" / "bin" / "mlflow-gatehouse")
        done = machine.run(program, *arguments, expect=expect, NO_GCE_CHECK="", env=google.as_metadata)
        return done.stdout + done.stderr

    assert command("--version").split() == ["mlflow-gatehouse", gatehouse.__version__]
    assert ACCOUNT in command("whoami")
    assert "metadata" in command("token", "--explain")
    assert "ok    deleted" in command("doctor")
    assert "Nobody was signed in" in command("logout")
    assert "--device" in command("login", "--help")
    trained = machine.script(SCRIPT, NO_GCE_CHECK="", env=google.as_metadata)
    assert json.loads(trained.stdout.splitlines()[-1]) == ["3.17.2", 1.5, "content"], trained.stderr


def test_uv_installs_it_too(front: Gate, tmp_path: Path) -> None:
    python = fresh(tmp_path / "clean")
    options = ("--quiet", "--no-deps", "--no-cache", "--python", python)
    run(*UV, *with_front(front, COMMAND).split()[:2], *options, *with_front(front, COMMAND).split()[2:])
    assert run(python, "-c", "import mlflow_gatehouse as m; print(m.__version__)").strip() == gatehouse.__version__


def test_the_document_names_the_very_wheel_that_is_built_here(front: Gate, wheel: Path) -> None:
    about = requests.get(front.url + PATH, timeout=10).json()["client"]
    answer = requests.get(about["url"], timeout=10)
    assert answer.content == wheel.read_bytes()
    assert about == {
        "name": "mlflow-gatehouse",
        "version": gatehouse.__version__,
        "url": f"{front.url}{PATH}/{wheel.name}",
        "sha256": hashlib.sha256(answer.content).hexdigest(),
        "install": with_front(front, COMMAND),
    }
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"


def test_another_host_name_does_not_change_the_address(front: Gate) -> None:
    headers = {"Host": "evil.example.com", "X-Forwarded-Host": "evil.example.com", "Forwarded": "host=evil.example.com"}
    said = requests.get(f"{front.url}{PATH}/requirements.txt", headers=headers, timeout=10).text
    assert "evil" not in said


def test_head_tells_the_same_without_the_body(front: Gate, wheel: Path) -> None:
    """uv asks so, before it fetches."""
    answer = requests.head(f"{front.url}{PATH}/{wheel.name}", timeout=10)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(wheel.stat().st_size)


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_wheel_of_another_hash_is_refused(front: Gate, wheel: Path, tmp_path: Path, tool: str) -> None:
    other = Impostor(200, "PK\x03\x04 not what the server hands out")
    requirements = requests.get(f"{front.url}{PATH}/requirements.txt", timeout=10).text.replace(front.url, other.url)
    assert f"{other.url}{PATH}/{wheel.name}#sha256=" in requirements
    other.paths[f"{PATH}/requirements.txt"] = (200, requirements, {"Content-Type": "text/plain"})
    python = fresh(tmp_path / "clean")
    installer = [python, "-m", "pip"] if tool == "pip" else [*UV, "pip"]
    options = [] if tool == "pip" else ["--no-cache", "--python", python]
    with standing_in(other):
        command = [*installer, "install", "--no-deps", *options, "-r", f"{other.url}{PATH}/requirements.txt"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0, done.stdout
    assert re.search(r"(?i)hash", done.stderr + done.stdout)


def test_two_builds_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    command = (
        f"umask 077; exec env --unset=PYTHONDONTWRITEBYTECODE {sys.executable} {ROOT}/client/build_wheel.py {tmp_path}"
    )
    assert Path(run("bash", "-euc", command).strip()).read_bytes() == wheel.read_bytes()


def test_server_and_client_are_of_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert gatehouse.__version__ == mlflow_gatehouse.__version__ == project["version"]


def test_the_server_can_not_be_uploaded_by_mistake() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "Private :: Do Not Upload" in project["classifiers"]


# --- what is said everywhere
# ---------------------------------------------------------------------------------------------

INSTALLERS = re.compile(
    r"\b(?:pip[\d.]*|pipx|uv|uvx|conda|mamba|poetry|pdm|easy_install)\b.*?\b(?:install|download|add|wheel|run|uvx|easy_install)\b(?P<rest>.*)"
)


def named(text: str) -> list[str]:
    """Return each place where a package of ours would be installed by its name alone:

    by whoever has it in a registry.
    """
    found = []
    for command in re.split(r"[`;|\n]|&&", text.replace("\\\n", " ")):
        match = INSTALLERS.search(command)
        for word in re.split(r"[\s'\"(),]+", match["rest"]) if match else ():
            name = re.match(r"[A-Za-z0-9._-]*", word)
            plain = re.sub(r"[-_.]+", "-", name[0] if name else "").lower().rstrip("-")
            if plain in {"gatehouse", "mlflow-gatehouse"} and f"{word} @" not in command:
                found.append(command.strip())
    # An extra of either name is asked of a registry too.
    return found + re.findall(r"(?i)\bgatehouse\[[a-z,]+\]", text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install gatehouse",
        "`%pip install gatehouse`, then",
        "pip3 install --quiet 'gatehouse==0.1.0' && python train.py",
        "python -m pip download gatehouse",
        "uv pip install -r server.txt mlflow_gatehouse",
        "uv tool install Gatehouse",
        "pip install 'gatehouse[keyring]'",
        "- run: pip install mlflow-gatehouse",
        "RUN pip install \\\n    --no-cache-dir gatehouse",
        "make x && pip install gatehouse",
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert named(text)


@pytest.mark.parametrize(
    "text", [COMMAND, "pip --python /opt/gatehouse install litellm", "pip install -e '.[server,s3]'"]
)
def test_the_search_takes_nothing_else_for_it(text: str) -> None:
    assert not named(text)


def test_nothing_here_installs_by_a_name_that_is_not_ours() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    places = []
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        places += [f"{name}: {place}" for place in named(text)]
        if name.startswith("requirements/"):
            places += [f"{name}: {line}" for line in re.findall(r"(?im)^(?:mlflow[-_.])?gatehouse\b.*", text)]
    assert places == []


def test_every_place_gives_the_same_command() -> None:
    for name in ("README.md", "docs/clients.md", "client/README.md"):
        given = re.findall(r"(?:uv )?pip install -r https?://\S*?requirements\.txt", (ROOT / name).read_text())
        assert given, name
        assert set(given) == {COMMAND}, name
