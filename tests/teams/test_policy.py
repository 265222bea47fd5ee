"""The policy's section on workspaces: what it means, what is wrong with it and where, and which changes aren't taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator

from gatehouse.policy.file import PolicyFile
from gatehouse.policy.identity import Identity
from gatehouse.policy.reader import PolicyError, parse
from gatehouse.policy.roles import Role, is_workspace_name
from gatehouse.policy.source import PolicySource
from local.proxy_binary import ROOT

EXAMPLE = (ROOT / "docs" / "teams.md").read_text().split("```yaml\n")[1].split("```")[0].encode()


def somebody(email: str, *groups: str) -> Identity:
    return Identity(email, "subject", groups)


@pytest.mark.parametrize(
    ("who", "roles"),
    [
        (somebody("alice@example.com"), {"default": "admin", "fraud": "admin", "vision": "admin"}),
        (somebody("dana@example.com"), {"default": "viewer", "vision": "admin"}),
        (somebody("bob@example.com"), {"default": "viewer", "vision": "viewer"}),
        (somebody("eve@other.org", "fraud@example.com"), {"fraud": "editor", "vision": "viewer"}),
        (somebody("eve@other.org", "risk@example.com", "vision@example.com"), {"fraud": "viewer", "vision": "editor"}),
        (somebody("fraud-ci@acme.iam.gserviceaccount.com"), {"fraud": "editor"}),
        (somebody("other@acme.iam.gserviceaccount.com"), {}),
    ],
)
def test_the_example_of_the_documents_means_what_they_say(who: Identity, roles: dict[str, str]) -> None:
    policy = parse(EXAMPLE, "development")
    assert {name: str(role) for name, role in policy.roles_of(who).items()} == roles
    assert policy.has_workspaces
    for name in ("default", "fraud", "vision", "no-such-team"):
        assert policy.role_in(who, name) is policy.reason_in(who, name).role
    assert policy.role_in(who, "no-such-team") is (Role.ADMIN if roles.get("default") == "admin" else Role.NONE)


def test_each_role_has_the_rule_and_the_line_that_gives_it() -> None:
    policy = parse(EXAMPLE, "development")
    lines = EXAMPLE.decode().splitlines()
    for who, workspace in [
        (somebody("dana@example.com"), "vision"), (somebody("bob@example.com"), "vision"), (somebody("bob@example.com"), "default"),
        (somebody("x@y.org", "risk@example.com"), "fraud"), (somebody("alice@example.com"), "fraud"),
    ]:  # fmt: skip
        reason = policy.reason_in(who, workspace)
        assert reason.line is not None
        assert reason.rule in lines[reason.line - 1]


PROBLEMS = b"""default: none
roles: {admin: [user:alice@example.com]}
workspaces:
  default: {viewer: [user:bob@example.com]}
  api: {}
  Fraud: {default: boss}
  fraud:
    owner: [user:bob@example.com]
    editor: user:bob@example.com
    viewer: [user:bob@example.com, user:bob@example.com]
  fraud: {}
  vision: {viewer: [serviceAccount:alice@example.com]}
  risk: []
environments:
  prod:
    default: none
    workspaces: {-x: {}}
"""


def test_everything_that_is_wrong_is_said_at_once_with_its_line_and_fix() -> None:
    with pytest.raises(PolicyError) as caught:
        parse(PROBLEMS, "prod", "policy.yaml")
    found = {(problem.where, problem.what) for problem in caught.value.problems}
    assert found == {
        ("policy.yaml:4", "the workspace 'default' has its rules in two places"),
        ("policy.yaml:5", "'api' is a word of MLflow's own, and can't name a workspace"),
        ("policy.yaml:6", "'Fraud' can't name a workspace"),
        ("policy.yaml:6", "'boss' isn't a role"),
        ("policy.yaml:8", "workspaces/fraud has the unknown key 'owner'"),
        ("policy.yaml:9", "the members of editor aren't a list"),
        ("policy.yaml:10", "user:bob@example.com is there twice (first in line 10)"),
        ("policy.yaml:11", "'fraud' is there twice (first in line 7)"),
        ("policy.yaml:12", "alice@example.com is a user in line 2 and a serviceAccount here"),
        ("policy.yaml:13", "workspaces/risk isn't a mapping"),
        ("policy.yaml:17", "'-x' can't name a workspace"),
    }
    assert all(problem.fix for problem in caught.value.problems)


@given(st.text(alphabet="abz09-_A.ä/", max_size=6) | st.sampled_from(["api", "workspaces", "a" * 63, "a" * 64]))
def test_a_name_is_taken_if_mlflow_takes_it(name: str) -> None:
    try:
        WorkspaceNameValidator.validate(name)
        taken = True
    except MlflowException:
        taken = False
    assert is_workspace_name(name) is taken


ADMIN = "default: none\nroles: {admin: [user:alice@example.com]}\n"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ("default: viewer\nworkspaces: {fraud: {admin: [user:alice@example.com]}}\n", "makes nobody an admin any more"),
        (ADMIN, "has no `workspaces:` any more"),
        (ADMIN + "workspaces: {Fraud: {}}", "can't name a workspace"),
    ],
)
def test_a_change_that_locks_the_last_admin_out_or_switches_workspaces_is_not_taken_up(
    tmp_path: Path, capsys: Any, changed: str, complaint: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(ADMIN + "workspaces: {fraud: {}}")
    source = PolicySource(PolicyFile.read(file, "development"))
    before = source.read
    file.write_text(changed)
    source._look()
    assert source.read is before
    assert complaint in capsys.readouterr().err
    file.write_text(ADMIN + "workspaces: {vision: {}}")
    source._look()
    assert list(source.read.workspaces) == ["vision"]
