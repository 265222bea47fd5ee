"""What matters now: for admins at a page, and for whoever is in the container by a command."""

from __future__ import annotations

import json
import subprocess
import sys

from local.go_program import ROOT
from tests.monitoring.parts import Watched
from tests.support import Gate

API = "/api/2.0/mlflow"


def status_command(gate: Gate, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gatehouse", "status", *arguments],
        env=gate.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_an_admin_sees_what_matters_now(watched: Watched) -> None:
    gate = watched.gate
    for _ in range(5):
        gate.session("carol").post(gate.url + f"{API}/experiments/create", json={"name": "no"})
    alice = gate.session("alice")

    def refused() -> bool:
        status = alice.get(f"{gate.url}/gatehouse/status").json()
        return bool(status["figures"]["refusals"].get("role", 0) >= 5)

    watched.wait(refused, "five refusals in the status")
    status = alice.get(f"{gate.url}/gatehouse/status").json()
    assert all(each["ok"] for each in status["findings"]), status["findings"]
    assert [each["part"] for each in status["findings"]] == ["database", "artifacts", "policy"]
    slowest = {each["operation"]: each for each in status["figures"]["slowest"]}
    assert slowest["create_experiment"]["count"] >= 5
    assert 0 < slowest["create_experiment"]["mean_s"] <= slowest["create_experiment"]["longest_s"]
    workers = {each["worker"] for each in status["figures"]["gauges"]["gatehouse_handlers_limit"]}
    assert workers == {"0", "1"}
    page = alice.get(f"{gate.url}/gatehouse/status", headers={"Accept": "text/html"})
    assert "All is well." in page.text
    assert "slow: create_experiment" in page.text


def test_nobody_else_does(watched: Watched) -> None:
    for person in ("bob", "carol"):
        answer = watched.gate.session(person).get(f"{watched.gate.url}/gatehouse/status")
        assert answer.status_code == 403
        assert "for admins" in answer.json()["message"]
    assert "has the role editor here, and the status is for admins" in watched.gate.log()


def test_what_is_wrong_comes_first_with_its_fix(watched: Watched) -> None:
    good = watched.policy.read_text()
    watched.policy.write_text("roles: nonsense\n")
    alice = watched.gate.session("alice")

    def told() -> bool:
        status = alice.get(f"{watched.gate.url}/gatehouse/status").json()
        return any(each["part"] == "policy" and not each["ok"] for each in status["findings"])

    watched.wait(told, "the policy's problem in the status")
    page = alice.get(f"{watched.gate.url}/gatehouse/status", headers={"Accept": "text/html"})
    assert "Something needs to be mended." in page.text
    assert page.text.index("ERROR policy") < page.text.index("version of")
    watched.policy.write_text(good)
    watched.wait(lambda: not told(), "the end of the policy's problem")


def test_the_access_page_has_the_refusals_of_all_workers(watched: Watched) -> None:
    gate, number = watched.gate, 12
    for _ in range(number):
        # A connection of its own each time: either worker may take it.
        assert (
            gate.session("carol").post(gate.url + f"{API}/registered-models/create", json={"name": "no"}).status_code
            == 403
        )

    def counts() -> set[int]:
        entries = [
            each
            for _ in range(6)
            for each in gate.session("alice").get(f"{gate.url}/gatehouse/access").json()["refusals"]["entries"]
            if (each["what"], each["identity"]) == ("create registered model", "carol@example.com")
        ]
        return {each["count"] for each in entries}

    watched.wait(lambda: counts() == {number}, "all refusals at either worker")
    report = gate.session("carol").get(f"{gate.url}/gatehouse/access").json()
    assert [(row["workspace"], row["role"]) for row in report["you"]["roles"]] == [(None, "viewer")]
    assert "refusals" not in report


def test_the_command_tells_the_same_from_inside(watched: Watched) -> None:
    done = status_command(watched.gate, "--json")
    status = json.loads(done.stdout)
    assert done.returncode == 0, status["findings"]
    assert {each["part"] for each in status["findings"]} == {"settings", "database", "artifacts", "identity provider"}
    assert status["figures"]["gauges"]["gatehouse_build_info"]
    assert status["versions"]["mlflow"] in done.stdout
    assert "unused" not in done.stdout, "the database's password"
    text = status_command(watched.gate).stdout
    assert "handlers: quick" in text
    assert "requests, last hour" in text


def test_a_setting_that_is_wrong_is_told_with_its_fix_and_its_exit_code(watched: Watched) -> None:
    gate = Gate(watched.gate.folder / "wrong", watched.gate.provider, WORKERS="many")
    done = status_command(gate)
    assert done.returncode == 78
    assert "WORKERS is 'many'" in done.stderr
    assert "fix:" in done.stderr


def test_without_figures_it_says_how_to_have_them(gate: Gate) -> None:
    # Without a policy nobody is an admin: the page is nobody's.
    assert gate.session("alice").get(f"{gate.url}/gatehouse/status").status_code == 403
    from gatehouse.policy.file import PolicyFile
    from gatehouse.policy.source import PolicySource
    from gatehouse.start.settings import load
    from gatehouse.start.status import Gatherer, rows

    settings = load(gate.environment)
    found = Gatherer(settings, gate.folder, PolicySource(PolicyFile.read(None, "development")), monitoring=False)()
    assert all(each["ok"] for each in found["findings"]), found["findings"]
    assert ("figures", found["no_figures"]) in rows(found)
    assert "METRICS=127.0.0.1:9090" in found["no_figures"]
    assert (ROOT / "docs" / "monitoring.md").read_text().count("gatehouse status") >= 1
