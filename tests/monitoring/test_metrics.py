"""What is seen from outside: figures that are right with several workers, tell nothing about anybody, and cost nobody anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from gatehouse.monitoring.layer import REASONS
from gatehouse.monitoring.table import METRICS
from gatehouse.operations.table import OPERATIONS
from local.go_program import ROOT
from tests.monitoring.parts import Watched
from tests.support import Gate, free_port, missing, wait_for

MONITORING = ROOT / "deploy" / "monitoring"
API = "/api/2.0/mlflow"


def test_every_request_is_counted_once_whichever_worker_answered(watched: Watched) -> None:
    def ask(person: str) -> None:
        session = watched.gate.session(person)
        for _ in range(10):
            answer = session.post(watched.gate.url + f"{API}/registered-models/get-latest-versions", json={"name": "x"})
            assert answer.status_code == 404

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, ["alice", "bob", "carol"] * 2))

    def counted(role: str) -> float:
        return watched.sum(
            "gatehouse_requests_total",
            operation="get_latest_versions",
            role=role,
            **{"class": "read"},
            result="rejected",
        )

    watched.wait(lambda: sum(map(counted, ("admin", "editor", "viewer"))) >= 60, "60 requests in the figures")
    assert [counted(role) for role in ("admin", "editor", "viewer")] == [20, 20, 20]
    count = "gatehouse_request_duration_seconds_count"
    assert watched.sum(count, operation="get_latest_versions") == 60
    assert watched.sum("gatehouse_request_duration_seconds_bucket", operation="get_latest_versions", le="+Inf") == 60


def test_refusals_sign_ins_and_artifacts_are_counted_by_kind(watched: Watched) -> None:
    gate = watched.gate
    carol, bob = gate.session("carol"), gate.session("bob")
    assert carol.post(gate.url + f"{API}/experiments/create", json={"name": "no"}).status_code == 403
    assert bob.get(gate.url + f"{API}/experiments/get?experiment_id={'1' * 40_000}").status_code == 414
    evil = {"Origin": "https://evil.example"}
    assert bob.post(gate.url + f"{API}/experiments/create", json={"name": "no"}, headers=evil).status_code == 403
    gate.sign_in("alice")
    data = os.urandom(300_000)
    place = gate.url + "/api/2.0/mlflow-artifacts/artifacts/here/data.bin"
    assert bob.put(place, data=data).status_code == 200
    assert carol.get(place).content == data
    assert requests.get(gate.url + f"{API}/experiments/search", timeout=10).status_code == 401

    def all_there() -> bool:
        reasons = [watched.sum("gatehouse_refusals_total", reason=each) for each in ("role", "too_large", "origin")]
        moved = [watched.sum("gatehouse_artifact_bytes_total", store="file", direction=way) for way in ("in", "out")]
        return (
            min(reasons) == max(reasons) == 1
            and moved == [300_000, 300_000]
            and watched.sum("gatehouse_sign_ins_total", result="success") == 1
            and watched.sum("oauth2_proxy_requests_total", code="401") >= 1
        )

    watched.wait(all_there, "refusals, a sign-in and an artifact in the figures")


def test_no_figure_names_anybody_or_anything_that_a_client_chose(watched: Watched) -> None:
    gate = watched.gate
    bob = gate.session("bob")
    run = bob.post(gate.url + f"{API}/experiments/create", json={"name": "secret-project"}).json()["experiment_id"]
    for path in (
        "/nowhere/secret-project",
        "/api/2.0/mlflow/secret-project/x",
        f"{API}/experiments/get?experiment_id={run}",
    ):
        bob.get(gate.url + path, headers={"User-Agent": "secret-project"})
        bob.request("SECRETPROJECT", gate.url + path)
    query = {"query": 'query secret_project { mlflowGetExperiment(input: {experimentId: "0"}) { __typename } }'}
    bob.post(gate.url + "/graphql", json=query)
    watched.wait(lambda: watched.sum("gatehouse_requests_total", operation="graphql") >= 1, "the last request")
    values: dict[str, set[str]] = {}
    for (name, pairs), _ in watched.samples().items():
        for label, value in pairs:
            if name.startswith("gatehouse_"):
                values.setdefault(label, set()).add(value)
    assert not re.search(r"secret.?project|@|bob|alice|carol", watched.text(), re.IGNORECASE)
    assert values["operation"] <= {*OPERATIONS, "graphql", "none", "other"}
    assert values["reason"] <= {*REASONS.values(), "role", "origin", "other"}
    assert values["worker"] == {"0", "1"}
    assert values["role"] <= {"admin", "editor", "viewer", "none", "unknown"}
    assert values["result"] <= {"done", "rejected", "refused", "failed", "gone", "success", "failure", "error"}


def test_what_is_full_and_what_waits_is_there_for_each_worker(watched: Watched) -> None:
    for name in ("requests_in_flight", "body_memory_limit_bytes", "event_loop_delay_seconds", "policy_age_seconds"):
        for worker in ("0", "1"):
            key = (f"gatehouse_{name}", (("worker", worker),))

            def is_there(key: Any = key) -> bool:
                return key in watched.samples()

            watched.wait(is_there, f"{key}")
    # MLflow's two pools of 5 and 10 more for each of two workers, and four connections of ours for each.
    limit = "gatehouse_database_connections_limit"
    assert [watched.sum(limit, pool="mlflow"), watched.sum(limit, pool="reads")] == [60, 8]
    phases = {dict(pairs)["phase"] for (name, pairs) in watched.samples() if name == "gatehouse_start_phase_seconds"}
    assert phases == {"settings", "schema", "import", "stores", "mlflow", "all"}
    assert watched.sum("gatehouse_database_connects_total", pool="mlflow") >= 1
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=watched.text(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_policy_that_cannot_be_used_shows(watched: Watched) -> None:
    good = watched.policy.read_text()
    watched.policy.write_text("roles: nonsense\n")
    session = watched.gate.session("carol")

    def problem() -> bool:
        session.post(watched.gate.url + f"{API}/experiments/search", json={"max_results": 1})
        return watched.sum("gatehouse_policy_problem") > 0

    watched.wait(problem, "the policy's problem")
    watched.policy.write_text(good)

    def mended() -> bool:
        session.post(watched.gate.url + f"{API}/experiments/search", json={"max_results": 1})
        return watched.sum("gatehouse_policy_problem") == 0

    watched.wait(mended, "the end of the policy's problem")


def test_strangers_cannot_read_them_at_the_public_port(watched: Watched) -> None:
    public = f"{watched.gate.url}/metrics"
    assert requests.get(public, timeout=10, allow_redirects=False).status_code == 401
    answer = watched.gate.session("alice").get(public)
    assert "gatehouse_" not in answer.text
    assert answer.status_code == 404


def test_a_scraper_that_stays_holds_up_nobody(watched: Watched) -> None:
    host, port = watched.url.split("/")[2].split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        answer = watched.gate.session("carol").post(
            watched.gate.url + f"{API}/experiments/search", json={"max_results": 1}, timeout=20
        )
        assert answer.status_code == 200
    finally:
        for connection in idle:
            connection.close()
    watched.wait(lambda: _scrapes(watched), "scrapes to be answered again")


def _scrapes(watched: Watched) -> bool:
    try:
        return "gatehouse_build_info" in watched.text()
    except requests.RequestException:
        return False


def test_figures_that_end_are_begun_again_and_end_nothing_else(watched: Watched) -> None:
    before = watched.gate.children()
    os.kill(before["monitor"], signal.SIGKILL)
    watched.wait(lambda: watched.gate.children().get("monitor") not in {None, before["monitor"]}, "another monitor")
    after = watched.gate.children()
    assert {name: after[name] for name in ("server", "worker 1", "proxy")} == {
        name: before[name] for name in ("server", "worker 1", "proxy")
    }

    def gauges_are_back() -> bool:
        return _scrapes(watched) and watched.sum("gatehouse_body_memory_limit_bytes") > 0

    watched.wait(gauges_are_back, "the gauges in the new process")
    session = watched.gate.session("carol")
    for _ in range(5):
        session.post(watched.gate.url + f"{API}/experiments/search", json={"max_results": 1})
    watched.wait(
        lambda: watched.sum("gatehouse_requests_total", operation="search_experiments") >= 5,
        "counts in the new process",
    )


def test_the_same_figures_are_pushed_by_otlp(watched: Watched) -> None:
    session = watched.gate.session("alice")
    session.post(watched.gate.url + f"{API}/experiments/search", json={"max_results": 1})
    watched.wait(lambda: watched.receiver.last("gatehouse_request_duration_seconds"), "a push")

    def same() -> bool:
        metric = watched.receiver.last("gatehouse_requests")
        if metric is None:
            return False
        pushed = sum(
            point.as_double for point in metric.sum.data_points
            if {"search_experiments", "admin"} <= {pair.value.string_value for pair in point.attributes}
        )  # fmt: skip
        return bool(metric.sum.is_monotonic) and pushed == watched.sum(
            "gatehouse_requests_total", operation="search_experiments", role="admin"
        )

    watched.wait(same, "the same count pushed and scraped")
    histogram = watched.receiver.last("gatehouse_request_duration_seconds").histogram.data_points[0]
    assert sum(histogram.bucket_counts) == histogram.count > 0
    assert len(histogram.bucket_counts) == len(histogram.explicit_bounds) + 1
    resource = watched.receiver.requests[-1].resource_metrics[0].resource
    assert {pair.key: pair.value.string_value for pair in resource.attributes}["service.name"] == "gatehouse"


class Prometheus:
    """A Prometheus that scrapes a gate every second."""

    def __init__(self, folder: Path, target: str) -> None:
        for program in ("prometheus", "promtool"):
            if not shutil.which(program):
                missing(program, "apt-get install prometheus")
        configuration = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        shutil.copy(MONITORING / "alerts.yaml", folder)
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(configuration))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def query(self, expression: str) -> list[Any]:
        """Return the series that an expression gives now."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=20).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[Any] = answer["data"]["result"]
        return result


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    part = Prometheus(tmp_path_factory.mktemp("prometheus"), watched.url.split("/")[2])
    yield part
    part.process.terminate()
    part.process.wait(20)


def test_each_query_of_the_dashboard_and_the_alerts_finds_something(watched: Watched, prometheus: Prometheus) -> None:
    gate = watched.gate
    ended = threading.Event()

    def load() -> None:
        bob, carol = gate.session("bob"), gate.session("carol")
        number = 0
        while not ended.wait(0.1):
            number += 1
            bob.post(gate.url + f"{API}/experiments/create", json={"name": f"load{number}"})
            carol.post(gate.url + f"{API}/experiments/create", json={"name": "no"})
            bob.put(gate.url + f"/api/2.0/mlflow-artifacts/artifacts/load/{number}", data=b"x" * 1000)
            carol.get(gate.url + f"/api/2.0/mlflow-artifacts/artifacts/load/{number}")
            requests.get(gate.url + f"{API}/experiments/search", timeout=10)
            gate.sign_in("bob")

    thread = threading.Thread(target=load)
    thread.start()
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries = [query.replace('"$job"', '"gatehouse"').replace("$__rate_interval", "10s") for query in queries]
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    # What stands before the comparison: the figure that it is about.
    compared = [re.split(r"\s(?:==|>)\s", rule["expr"])[0] for rule in rules]

    def empty() -> list[str]:
        try:
            return [query for query in queries + compared if not prometheus.query(query)]
        except requests.RequestException:
            return ["Prometheus doesn't answer yet"]

    found: list[str] = []
    try:
        wait_for(
            lambda: not found.__setitem__(slice(None), empty()) and not found, "each query to find something", 90,
            lambda: f"empty: {found}\n{prometheus.log.read_text()}",
        )  # fmt: skip
    finally:
        ended.set()
        thread.join()
    names = set(re.findall(r"gatehouse_[a-z_]+", " ".join(queries + compared)))
    for name in names:
        assert name in METRICS or re.sub(r"_(bucket|sum|count)$", "", name) in METRICS, name


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        missing("promtool", "apt-get install prometheus")
    shutil.copy(MONITORING / "alerts.yaml", tmp_path)
    shutil.copy(Path(__file__).parent / "alerts_test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load((Path(__file__).parent / "alerts_test.yaml").read_text())["tests"]
    named = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case["exp_alerts"]}
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert named == {rule["alert"] for rule in rules}, "each alert is seen to fire"


def test_jobs_are_counted_by_status(tmp_path: Path) -> None:
    from mlflow.entities._job_status import JobStatus
    from mlflow.store.tracking.dbmodels.models import SqlJob
    from sqlalchemy import create_engine, insert

    from gatehouse.start.figures import JOB_STATUS, Figures
    from gatehouse.start.plan import ServerPlan
    from gatehouse.start.settings import load

    assert [JobStatus.from_int(number).value.lower() for number in range(len(JOB_STATUS))] == list(JOB_STATUS)
    engine = create_engine(f"sqlite:///{tmp_path}/jobs.db")
    SqlJob.__table__.create(engine)
    with engine.begin() as connection:
        for number, status in enumerate((0, 1, 1, 3)):
            row = {"id": str(number), "creation_time": 1, "last_update_time": 1, "job_name": "x", "params": "{}"}
            connection.execute(insert(SqlJob).values(**row, status=status, retry_count=0))
    settings = load({"BACKEND_STORE_URI": f"sqlite:///{tmp_path}/jobs.db", "ARTIFACTS_DESTINATION": str(tmp_path)})
    figures = Figures(ServerPlan.alone(settings, tmp_path, b"x" * 16))
    figures._count_jobs(engine)
    counted = {labels[0]: value for (name, labels), value in figures.notes._values.items() if name == "gatehouse_jobs"}
    assert {status: count for status, count in counted.items() if count} == {"pending": 1, "running": 2, "failed": 1}


@pytest.mark.parametrize("value", ["0", "70000", "here", "a b:1", "127.0.0.1:", "::1:9090", "9090/metrics"])
def test_an_address_that_is_none_is_refused(value: str) -> None:
    from gatehouse.start.settings import Invalid, parse_listener

    with pytest.raises(Invalid):
        parse_listener(value)


def test_it_is_off_by_default_and_then_there_is_nothing_of_it(gate: Gate) -> None:
    assert "monitor" not in gate.children()
    assert gate.process is not None
    files = Path(f"/proc/{gate.children()['server']}/maps").read_text()
    assert "prometheus" not in files
    answer = gate.session().get(f"{gate.url}/metrics")
    assert answer.status_code == 404


def test_its_port_is_its_own(make_gate: Callable[..., Gate]) -> None:
    port = free_port()
    gate = make_gate(PORT=str(port), METRICS=str(port)).start()
    assert gate.wait_end() == 78
    assert f"METRICS is {port}, which is the public port" in gate.log()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gate = make_gate(METRICS=f"127.0.0.1:{taken.getsockname()[1]}").start()
        assert gate.wait_end() == 73
    assert "which another program listens on" in gate.log()


def test_the_page_lists_what_there_is() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    table = page.partition("<!-- metrics -->")[2].partition("<!-- /metrics -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", table, re.M)
    there = [
        (name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for name, metric in METRICS.items()
    ]
    assert rows == there
