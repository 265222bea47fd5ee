"""The container as Cloud Run runs it: any user, a read-only root, 512 MiB, one CPU, Cloud SQL's socket."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import requests
from selenium.webdriver.common.by import By

from tests.browser import chromium
from tests.container.parts import HARDENED, PORT, SOME_USER, Engine, Site, settings, socket_mount, socket_url
from tests.support import Postgres, wait_for

if TYPE_CHECKING:
    from tests.support import Gate

#: What a training script does, and the parts of MLflow that a trimmed image could have lost.
TRAIN = """
import mlflow, pathlib
mlflow.set_experiment("from-the-sdk")
with mlflow.start_run() as run:
    mlflow.log_params({"depth": 3})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    pathlib.Path("note.txt").write_text("kept")
    mlflow.log_artifact("note.txt")
    mlflow.log_table({"question": ["a"], "answer": ["b"]}, "table.json")
client = mlflow.MlflowClient()
run_id = run.info.run_id
assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(5))
assert len(mlflow.search_runs(experiment_names=["from-the-sdk"], filter_string="params.depth = '3'")) == 1
client.create_registered_model("from-the-sdk")
version = client.create_model_version("from-the-sdk", run.info.artifact_uri, run_id)
client.set_registered_model_alias("from-the-sdk", "champion", version.version)
assert client.get_model_version_by_alias("from-the-sdk", "champion").run_id == run_id
with mlflow.start_span("step") as span:
    span.set_inputs({"x": 1})
mlflow.flush_trace_async_logging()
assert [s.name for s in client.get_trace(span.trace_id).data.spans] == ["step"]
mlflow.genai.register_prompt("greeting", "Hello {{name}}")
assert mlflow.genai.load_prompt("prompts:/greeting/1").format(name="you") == "Hello you"
print(pathlib.Path(client.download_artifacts(run_id, "note.txt")).read_text())
"""


def test_a_browser_signs_in_and_sees_the_page(site: Site) -> None:
    browser = requests.Session()
    sign_in = browser.get(site.url, timeout=10)
    assert sign_in.url.startswith(f"{site.issuer}/oauth2/authorize?")
    assert "alice@example.com" in sign_in.text
    page = browser.post(sign_in.url, data={"sub": "alice@example.com"}, timeout=10)
    assert page.url == f"{site.url}/"
    assert page.status_code == 200
    assert "<title>MLflow</title>" in page.text
    found = browser.get(f"{site.url}/ajax-api/2.0/mlflow/experiments/search?max_results=5", timeout=10)
    assert [one["name"] for one in found.json()["experiments"]][-1] == "Default"


def test_the_page_works_in_a_real_browser(site: Site) -> None:
    with chromium(cast("Gate", site)) as browser:
        browser.sign_in("bob")
        browser.wait_text("Experiments")
        browser.driver.get(f"{site.url}/#/experiments")
        browser.wait(By.XPATH, "//a[normalize-space()='Default']")
        failed = [line for line in browser.console() if "/static-files/" in line]
    assert failed == []


def test_hands_out_the_client_that_it_was_made_with(site: Site) -> None:
    about = requests.get(f"{site.url}/.well-known/gatehouse", timeout=10).json()["client"]
    content = requests.get(about["url"], timeout=10).content
    assert about["url"].startswith(f"{site.url}/.well-known/gatehouse/mlflow_gatehouse-")
    assert hashlib.sha256(content).hexdigest() == about["sha256"]


def test_graphql_answers(site: Site) -> None:
    answer = site.session().post(
        f"{site.url}/graphql", json={"query": '{ test(inputString: "x") { output } }'}, timeout=10
    )
    assert answer.json()["data"] == {"test": {"output": "x"}}


def test_the_sdk_trains_with_a_token(site: Site, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": site.url,
        "MLFLOW_TRACKING_TOKEN": site.token(),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "kept"


def test_curl_gets_json_with_a_token_and_401_without(site: Site) -> None:
    address = f"{site.url}/api/2.0/mlflow/experiments/search?max_results=5"
    curl = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--write-out",
        "\n%{http_code} %{content_type}",
    ]
    with_token = subprocess.run(
        [*curl, "--header", f"Authorization: Bearer {site.token('bob')}", address],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    body, _, status = with_token.stdout.rpartition("\n")
    assert status == "200 application/json"
    assert json.loads(body)["experiments"]
    without = subprocess.run([*curl, address], capture_output=True, text=True, timeout=30, check=True)
    assert without.stdout.rpartition("\n")[2] == "401 application/json"


def test_only_the_public_port_can_be_reached(
    engine: Engine, postgres: Postgres, plain_settings: dict[str, str]
) -> None:
    box = engine.start(environment=plain_settings, mounts=[socket_mount(postgres)], **HARDENED).wait_ready()
    # Not even on loopback does anything else listen: MLflow has a socket in a folder of mode 0700.
    assert {port for _, port in box.listening()} == {PORT}
    folder = box.run("bash", "-c", "stat -c '%a %u' /tmp/gatehouse.*; stat -c '%a %u' /tmp/gatehouse.*/mlflow.sock")
    assert folder.split("\n")[:2] == ["700 54321", "600 54321"]


_PROOF = r"""
for file in /proc/[0-9]*/environ; do tr '\0' '\n' <"$file"; done 2>/dev/null \
  | sed -n 's/^OAUTH2_PROXY_BASIC_AUTH_PASSWORD=//p' | head -n 1
"""


def test_secrets_from_files_are_in_no_process_list_no_log_and_no_description(
    engine: Engine, postgres: Postgres, tmp_path: Path
) -> None:
    # Odd, but legal.
    password = "p@ss:w'o\"r$d \\%2F"
    postgres.sql("CREATE ROLE odd LOGIN SUPERUSER PASSWORD 'unused'")
    postgres.create("odd")
    values = {
        "OAUTH2_PROXY_CLIENT_SECRET": "cl$ent'\"\\secret `id`",
        "OAUTH2_PROXY_COOKIE_SECRET": "$cookie'\"\\0123456789abcdefghijkl",
        "BACKEND_STORE_URI": socket_url("odd", "odd:" + quote(password, safe="")),
    }
    assert len(values["OAUTH2_PROXY_COOKIE_SECRET"]) == 32
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    for name, value in values.items():
        (folder / name).write_text(value)
    environment = settings(
        OAUTH2_PROXY_CLIENT_SECRET="",
        OAUTH2_PROXY_COOKIE_SECRET="",
        **{f"{name}_FILE": f"/secrets/{name}" for name in values},
    )
    box = engine.start(
        environment=environment,
        mounts=[socket_mount(postgres)],
        volumes={str(folder): {"bind": "/secrets", "mode": "ro"}},
        **HARDENED,
    ).wait_ready()
    # It is in no file, only in the environment of the proxy, which its own user can read.
    proof = box.run("bash", "-c", _PROOF, user=SOME_USER).strip()
    assert len(proof) > 30
    box.container.reload()
    processes = json.dumps(box.container.top(ps_args="-eo pid,args")["Processes"])
    assert "oauth2-proxy" in processes
    for where in (processes, box.log(), json.dumps(box.container.attrs)):
        for secret in (*values.values(), proof, password, quote(password, safe="")):
            assert secret not in where
            assert json.dumps(secret)[1:-1] not in where


def test_doctor_finds_the_same_settings_well(engine: Engine, postgres: Postgres, site: Site) -> None:
    # The port is taken in this network, by the gate itself.
    environment = {**site.environment, "PORT": "8081", "ARTIFACTS_DESTINATION": "/tmp/artifacts"}
    box = engine.start(
        "gatehouse",
        "doctor",
        "--json",
        environment=environment,
        network_mode=f"container:{site.provider.container.id}",
        mounts=[socket_mount(postgres)],
        **HARDENED,
    )
    assert box.wait_end() == 0
    findings = json.loads(box.log())
    assert [one["part"] for one in findings] == ["settings", "database", "artifacts", "identity provider"]
    assert all(one["ok"] for one in findings)


def test_the_health_check_turns_healthy(site: Site) -> None:
    wait_for(lambda: site.box.state()["Health"]["Status"] == "healthy", "the health check", 60, site.box.log)


def test_nothing_was_killed_for_want_of_memory(site: Site) -> None:
    """Runs last: after a browser, the SDK and curl, 512 MiB were enough."""
    assert requests.get(f"{site.url}/ping", timeout=5).ok
    state = site.box.state()
    assert not state["OOMKilled"]
    assert "oom_kill 0" in site.box.run(
        "bash",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null || true",
    )
