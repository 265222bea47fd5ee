"""Each workspace's artifacts lie below a folder of its own, and nothing that a client names leads out of it."""

from __future__ import annotations

import pytest

from tests.support import Gate
from tests.teams.conftest import Member

PROXIED = "/api/2.0/mlflow-artifacts/artifacts"
SECRET = b"the other team's artifact"


def place(member: Member, name: str) -> tuple[str, str]:
    """Make a run with an artifact; return the run's id and the artifact's path in the store."""
    found = member.get("experiments/get-by-name", experiment_name=name)
    experiment = (
        found.json()["experiment"]["experiment_id"]
        if found.ok
        else member.make("experiments/create", name=name)["experiment_id"]
    )
    run = member.run(experiment_id=experiment)
    root = member.get("runs/get", run_id=run).json()["run"]["info"]["artifact_uri"]
    path = f"{root.removeprefix('mlflow-artifacts:/')}/secret.txt"
    member.call("PUT", f"{PROXIED}/{path}", data=SECRET).raise_for_status()
    return run, path


def test_artifacts_go_up_and_down_by_every_way_within_a_workspace(teams: Gate) -> None:
    fred, fay = Member(teams, "fred", "fraud"), Member(teams, "fay", "fraud")
    run, path = place(fred, "artifacts")
    assert path.startswith("workspaces/fraud/")
    assert (teams.folder / "artifacts" / path).read_bytes() == SECRET
    short = path.removeprefix("workspaces/fraud/")
    for answer in (
        fay.call("GET", f"{PROXIED}/{path}"),
        fay.call("GET", f"{PROXIED}/{short}"),
        fay.call("GET", "/get-artifact", params={"run_id": run, "path": "secret.txt"}),
    ):
        assert (answer.status_code, answer.content) == (200, SECRET), answer.text
    listed = fay.get("artifacts/list", run_id=run).json()
    assert [one["path"] for one in listed["files"]] == ["secret.txt"]
    upload = fred.call(
        "POST", "/ajax-api/2.0/mlflow/upload-artifact", params={"run_uuid": run, "path": "from-ui.txt"}, data=b"ui"
    )
    assert upload.status_code == 200, upload.text
    listed = fay.get("artifacts/list", run_id=run).json()
    assert [one["path"] for one in listed["files"]] == ["from-ui.txt", "secret.txt"]


def test_what_the_ui_uploads_to_a_new_run_of_the_default_workspace_is_where_the_run_looks(teams: Gate) -> None:
    alice = Member(teams, "alice", None)
    run, path = place(alice, "artifacts")
    assert path.startswith("workspaces/default/")
    where = {"run_uuid": run, "path": "from-ui.txt"}
    assert alice.call("POST", "/ajax-api/2.0/mlflow/upload-artifact", params=where, data=b"ui").status_code == 200
    assert "from-ui.txt" in alice.get("artifacts/list", run_id=run).text


@pytest.mark.parametrize(
    "who", [("fred", "fraud"), ("fiona", "fraud"), ("bob", None), ("alice", "fraud"), ("alice", None)]
)
def test_no_path_leads_into_another_workspace(teams: Gate, who: tuple[str, str | None]) -> None:
    run, path = place(Member(teams, "victor", "vision"), "artifacts")
    member = Member(teams, *who)
    kept = teams.folder / "artifacts" / path
    rest = path.removeprefix("workspaces/vision/")
    spellings = [
        path, f"/{path}", f"./{path}", path.replace("/", "//"), path.replace("vision", "%76ision"), f"workspaces/./vision/{rest}",
        f"workspaces/fraud/../vision/{rest}", f"x/../{path}", f"workspaces%2Fvision%2F{rest}", f"%2577orkspaces/vision/{rest}",
        f"workspaces/Vision/{rest}",
    ]  # fmt: skip
    for spelling in spellings:
        for answer in (
            member.call("GET", f"{PROXIED}/{spelling}"),
            member.call("PUT", f"{PROXIED}/{spelling}", data=b"overwritten"),
            member.call("DELETE", f"{PROXIED}/{spelling}"),
            member.call(
                "POST", f"/api/2.0/mlflow-artifacts/mpu/create/{spelling}", json={"path": "secret.txt", "num_parts": 1}
            ),
            member.call("GET", f"/api/2.0/mlflow-artifacts/presigned/{spelling}"),
        ):
            assert SECRET not in answer.content
            assert answer.status_code >= 400, (spelling, answer.request.method, answer.text)
    for folder in (
        "workspaces",
        "workspaces/",
        "workspaces/vision",
        f"workspaces/vision/{rest.split('/')[0]}",
        "./workspaces",
    ):
        answer = member.call("GET", PROXIED, params={"path": folder})
        # A folder of that name within one's own workspace is empty.
        assert answer.status_code >= 400 or answer.json() == {}, answer.text
    root = member.call("GET", PROXIED, params={"path": ""})
    assert "workspaces" not in [one["path"] for one in root.json().get("files", [])]
    assert "vision" not in root.text
    for target in ("", "workspaces", "workspaces/vision", "."):
        member.call("DELETE", f"{PROXIED}/{target}")
    assert kept.read_bytes() == SECRET
    for question in (
        ("/get-artifact", {"run_id": run, "path": "secret.txt"}),
        ("/api/2.0/mlflow/artifacts/list", {"run_id": run}),
    ):
        answer = member.call("GET", question[0], params=question[1])
        other = member.call("GET", question[0], params={**question[1], "run_id": "0" * 32})
        assert answer.status_code == other.status_code >= 400


SOURCES = ("mlflow-artifacts:/{path}", "file://{root}/{path}", "{root}/{path}", "{url}" + PROXIED + "/{path}")


@pytest.mark.parametrize("scheme", SOURCES)
def test_a_version_can_not_be_made_of_another_workspaces_artifacts(teams: Gate, scheme: str) -> None:
    _, path = place(Member(teams, "victor", "vision"), "artifacts")
    source = scheme.format(path=path.rpartition("/")[0], root=teams.folder / "artifacts", url=teams.url)
    for who in (("fiona", "fraud"), ("alice", None)):
        member = Member(teams, *who)
        member.post("registered-models/create", name="borrowed")
        made = member.post("model-versions/create", name="borrowed", source=source)
        assert made.status_code >= 400, made.text
        answer = member.call(
            "GET", "/model-versions/get-artifact", params={"name": "borrowed", "version": "1", "path": "secret.txt"}
        )
        assert SECRET not in answer.content
