"""Which workspace a request is for, and who may enter it."""

from __future__ import annotations

import pytest

from tests.access.conftest import line_of
from tests.support import Gate
from tests.teams.conftest import HEADER, Member

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"


def test_a_foreign_workspace_and_one_that_is_not_there_are_the_same_answer(teams: Gate) -> None:
    for who in ("fred", "bob", "stranger"):
        texts = []
        for name in ("vision", "no-such-team"):
            answer = Member(teams, who, name).call("GET", SEARCH)
            assert answer.status_code == 404, answer.text
            texts.append(answer.text.replace(name, "NAME").replace(answer.headers["x-request-id"], "ID"))
            line = line_of(teams, answer)["audit"]
            assert (line["workspace"], line["result"]) == (name, "refused")
        assert texts[0] == texts[1]
    # Who may enter everywhere hears the same of one that isn't there.
    assert Member(teams, "alice", "no-such-team").call("GET", SEARCH).status_code == 404


def test_each_enters_what_is_theirs_with_the_role_there(teams: Gate) -> None:
    roles = {
        ("fiona", "fraud"): "admin", ("fred", "fraud"): "editor", ("fay", "fraud"): "viewer", ("vera", "vision"): "viewer",
        ("alice", "vision"): "admin", ("bob", "default"): "viewer", ("fred", "vision"): "none",
    }  # fmt: skip
    for (name, workspace), role in roles.items():
        told = Member(teams, name, workspace).call("GET", "/gatehouse/whoami").json()
        assert (told["workspace"], told["role"]) == (workspace, role)
    assert Member(teams, "grace", "fraud", "fraud@example.com").run(experiment_id=_experiment(teams)) != ""
    refused = Member(teams, "fay", "fraud").post("experiments/create", name="by-a-viewer")
    assert refused.status_code == 403
    assert "fay@example.com is a viewer in the workspace 'fraud'" in refused.json()["message"]


def _experiment(teams: Gate) -> str:
    fred = Member(teams, "fred", "fraud")
    found = fred.get("experiments/get-by-name", experiment_name="entering")
    if found.status_code == 200:
        return str(found.json()["experiment"]["experiment_id"])
    return str(fred.make("experiments/create", name="entering")["experiment_id"])


def test_who_has_no_role_in_the_default_workspace_is_told_to_choose(teams: Gate) -> None:
    answer = Member(teams, "fred", None).call("GET", SEARCH)
    assert answer.status_code == 403
    assert "Yours: fraud." in answer.json()["message"]
    assert Member(teams, "bob", None).call("GET", SEARCH).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(HEADER, "fraud"), (HEADER, "fraud")], 400),
        ([(HEADER, "fraud"), ("x-mlflow-workspace", "vision")], 400),
        ([("X_MLFLOW_WORKSPACE", "vision")], 400),
        ([(HEADER, "fraud"), ("X_MLFLOW_WORKSPACE", "vision")], 400),
        ([(HEADER, "Fraud")], 400),
        ([(HEADER, "fraud,vision")], 400),
        ([(HEADER, "fraud/../vision")], 400),
        ([(HEADER, "api")], 400),
        ([(HEADER, "f")], 400),
        ([(HEADER, "fräud")], 400),
        ([(HEADER, "fraud\t")], 200),
        ([("x-MlFlow-workSpace", "fraud")], 200),
    ],
)
def test_a_header_that_can_be_read_in_two_ways_is_refused(
    teams: Gate, headers: list[tuple[str, str]], status: int
) -> None:
    import http.client

    token = Member(teams, "fred", None).session.headers["Authorization"]
    connection = http.client.HTTPConnection("localhost", teams.port, timeout=30)
    connection.putrequest("GET", SEARCH)
    connection.putheader("Authorization", str(token))
    for name, value in headers:
        connection.putheader(name, value.encode("utf-8"))
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == status, text


def test_a_path_that_says_one_and_a_header_another_is_refused(teams: Gate) -> None:
    path = "/api/3.0/mlflow/workspaces/vision"
    assert Member(teams, "alice", "fraud").call("GET", path).status_code == 400
    assert Member(teams, "fred", "fraud").call("GET", path).status_code == 400
    assert Member(teams, "fred", None).call("GET", path).status_code == 404
    assert Member(teams, "vera", None).call("GET", path).json()["workspace"]["name"] == "vision"


def test_the_list_of_workspaces_is_ones_own(teams: Gate) -> None:
    def listed(name: str) -> list[str]:
        answer = Member(teams, name, None).call("GET", "/api/3.0/mlflow/workspaces")
        assert answer.status_code in {200, 403}, answer.text
        return [one["name"] for one in answer.json().get("workspaces", [])]

    assert listed("alice") == ["default", "fraud", "vision"]
    assert listed("fred") == ["fraud"]
    assert listed("bob") == ["default"]
    assert listed("stranger") == []


def test_only_an_admin_of_the_server_makes_changes_and_deletes_workspaces(teams: Gate) -> None:
    path = "/api/3.0/mlflow/workspaces"
    alice = Member(teams, "alice", None)
    for name, workspace in (("fiona", "fraud"), ("fred", "fraud"), ("bob", None)):
        who = Member(teams, name, workspace)
        assert who.call("POST", path, json={"name": "mine"}).status_code == 403
        who = Member(teams, name, None)
        for target in ("vision", "no-such-team"):
            assert who.call("DELETE", f"{path}/{target}").status_code == 403
            assert who.call("PATCH", f"{path}/{target}", json={"description": "x"}).status_code == 403
    assert alice.call("POST", path, json={"name": "by-click"}).status_code == 201
    assert Member(teams, "alice", "by-click").call("GET", SEARCH).status_code == 200
    for root in (
        {"default_artifact_root": "file:///tmp/elsewhere"},
        {"trace_archival_config": {"location": "file:///x"}},
    ):
        assert alice.call("PATCH", f"{path}/by-click", json=root).status_code in {400, 403}
    assert alice.call("DELETE", f"{path}/by-click").status_code in {200, 204}
    assert Member(teams, "alice", "by-click").call("GET", SEARCH).status_code == 404
