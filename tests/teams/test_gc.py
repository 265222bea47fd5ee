"""`gatehouse gc` and `gatehouse workspaces` on a database with workspaces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gatehouse.commands import gc, workspaces
from gatehouse.exit_codes import Exit
from tests.support import Gate, Postgres
from tests.teams.conftest import DATABASE, Member
from tests.teams.test_artifacts import place


@pytest.fixture
def environment(teams: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in teams.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
def test_what_was_deleted_goes_in_every_workspace_and_nothing_else(
    teams: Gate, postgres: Postgres, capsys: Any
) -> None:
    month = 31 * 24 * 3600 * 1000
    kept, gone = [], []
    for name, workspace in (("fred", "fraud"), ("victor", "vision"), ("alice", "default")):
        member = Member(teams, name, workspace)
        kept.append(place(member, "garbage")[1])
        run, path = place(member, "garbage")
        member.make("runs/delete", run_id=run)
        postgres.sql(f"UPDATE runs SET deleted_time = deleted_time - {month} WHERE run_uuid = '{run}'", DATABASE)
        gone.append((run, path))
    experiment = Member(teams, "fred", "fraud").make("experiments/create", name="all-garbage")["experiment_id"]
    Member(teams, "fred", "fraud").make("experiments/delete", experiment_id=experiment)
    postgres.sql(
        f"UPDATE experiments SET last_update_time = last_update_time - {month} WHERE experiment_id = {experiment}",
        DATABASE,
    )
    assert gc.main(["--delete", "--json"]) == Exit.OK
    found = {line["id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    for run, path in gone:
        assert found[run]["result"] == "deleted"
        assert not (teams.folder / "artifacts" / path).exists()
    assert (found[experiment]["result"], found[experiment]["folder"]) == ("deleted", f"workspaces/fraud/{experiment}")
    assert all((teams.folder / "artifacts" / path).exists() for path in kept)


@pytest.mark.usefixtures("environment")
def test_the_command_tells_what_each_workspace_holds_and_makes_what_is_declared(teams: Gate, capsys: Any, tmp_path: Any, monkeypatch: Any) -> None:  # fmt: skip
    place(Member(teams, "fred", "fraud"), "told")
    policy = tmp_path / "policy.yaml"
    policy.write_text("default: none\nworkspaces: {fraud: {}, brand-new: {}}")
    monkeypatch.setenv("ACCESS_POLICY", str(policy))
    assert workspaces.main([]) == Exit.OK
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["fraud"].startswith("there; holds ")
    assert " experiments" in lines["fraud"]
    assert lines["brand-new"] == "declared, and not there: gatehouse workspaces apply"
    assert lines["vision"].startswith("there; not in the access policy")
    assert workspaces.main(["apply"]) == Exit.OK
    assert "brand-new: made\n" in capsys.readouterr().out
    assert Member(teams, "alice", "brand-new").get("experiments/search", max_results=1).status_code == 200
