"""The access policy: what it means, what is wrong with it and where, and how a changed one is taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.exit_codes import Exit
from gatehouse.operations.classes import Access
from gatehouse.policy.identity import Identity
from gatehouse.policy.reader import PolicyError, parse
from gatehouse.policy.roles import OPEN_TO_EDITORS, Policy, Role
from local.proxy_binary import ROOT
from tests.access.conftest import QUIET, Client
from tests.support import wait_for

EXAMPLE = (ROOT / "docs" / "access.md").read_text().split("```yaml\n")[1].split("```")[0].encode()


def somebody(email: str, *groups: str) -> Identity:
    return Identity(email, "subject", groups)


@pytest.mark.parametrize(
    ("who", "development", "production"),
    [
        (somebody("alice@example.com"), "admin", "admin"),
        (somebody("bob@example.com"), "editor", "viewer"),
        (somebody("dora@research.example.com"), "editor", "viewer"),
        (somebody("dora@sub.research.example.com"), "viewer", "viewer"),
        (somebody("eve@example.com", "ml-platform@example.com"), "admin", "viewer"),
        (somebody("eve@example.com", "somebody-else@example.com"), "viewer", "viewer"),
        (somebody("pipeline@acme-prod.iam.gserviceaccount.com"), "none", "editor"),
        (somebody("pipeline@evil.iam.gserviceaccount.com"), "none", "none"),
    ],
)
def test_the_example_of_the_documents_means_what_they_say(who: Identity, development: str, production: str) -> None:
    assert str(parse(EXAMPLE, "development").role_of(who)) == development
    assert str(parse(EXAMPLE, "prod").role_of(who)) == production


def test_without_a_policy_everybody_works_and_nobody_administers() -> None:
    for who in (somebody("a@b.c"), somebody("x@y.iam.gserviceaccount.com")):
        assert OPEN_TO_EDITORS.role_of(who) is Role.EDITOR


def test_no_role_may_do_what_is_closed() -> None:
    assert not any(role.may(Access.CLOSED) for role in Role)
    assert [str(role) for role in Role if role.may(Access.READ)] == ["viewer", "editor", "admin"]
    assert [str(role) for role in Role if role.may(Access.WRITE)] == ["editor", "admin"]
    assert [str(role) for role in Role if role.may(Access.ADMIN)] == ["admin"]


roles = st.sampled_from(list(Role))
names = st.sampled_from(["a", "b", "c"])
policies = st.builds(
    Policy,
    accounts=st.dictionaries(st.sampled_from(["u@x.y", "v@x.y"]), roles),
    domains=st.dictionaries(st.just("x.y"), roles),
    groups=st.dictionaries(names, roles),
    default=roles,
)


@given(policies, st.sets(names), st.sets(names))
def test_a_client_that_hides_its_groups_gains_nothing(policy: Policy, groups: set[str], hidden: set[str]) -> None:
    for email in ("u@x.y", "w@x.y", "w@z.z"):
        everything = policy.role_of(somebody(email, *groups))
        assert policy.role_of(somebody(email, *(groups - hidden))) <= everything


PROBLEMS = b"""default: boss
default: viewer
rolez: {}
roles:
  admin: user:alice@example.com
  editor:
    - user: bob@example.com
    - bob@example.com
    - user:ci@p.iam.gserviceaccount.com
    - domain:gmail.com
    - domain:@example.com
    - domain:iam.gserviceaccount.com
    - user:carol@example.com
    - group:a,b
  viewer: [user:Carol@example.com]
environments:
  Prod: {roles: {}}
"""


def test_everything_that_is_wrong_is_said_at_once_with_its_line_and_fix() -> None:
    with pytest.raises(PolicyError) as caught:
        parse(PROBLEMS, "production", "policy.yaml")
    found = {(problem.where, problem.what) for problem in caught.value.problems}
    assert found == {
        ("policy.yaml:2", "'default' is there twice (first in line 1)"),
        ("policy.yaml:1", "'boss' isn't a role"),
        ("policy.yaml:3", "the policy has the unknown key 'rolez'"),
        ("policy.yaml:5", "the members of admin aren't a list"),
        ("policy.yaml:7", "the member isn't a text"),
        ("policy.yaml:8", "'bob@example.com' isn't a member"),
        ("policy.yaml:9", "ci@p.iam.gserviceaccount.com is a service account"),
        ("policy.yaml:10", "anybody can have an account at gmail.com"),
        ("policy.yaml:11", "'@example.com' isn't a domain"),
        ("policy.yaml:12", "anybody can have an account at iam.gserviceaccount.com"),
        ("policy.yaml:14", "'a,b' has a comma, and the proxy joins groups with commas"),
        ("policy.yaml:15", "user:Carol@example.com is there twice (first in line 13)"),
        ("policy.yaml:17", "'Prod' can't be an APP_ENV"),
        ("policy.yaml:17", "environments/Prod has no default role"),
        ("policy.yaml:16", "there is no section for APP_ENV=production"),
    }
    assert all(problem.fix for problem in caught.value.problems)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- x",
        b"default: viewer\nroles: [",
        b"default: &x viewer\nroles: *x",
        b"default: viewer\n---\ndefault: admin\n",
        b"\xff\xfe",
        b"default: !!python/object/apply:os.system ['true']",
        b"default: null",
        b"default: no",
        b"roles: {}",
        b"<<: {default: admin}\ndefault: viewer",
        b"default: viewer\nroles: {admin: [[user:a@b.c]]}",
        b"default: viewer\n\troles: {}",
        b"[" * 5000,
        b"#" * 2_000_000,
    ],
)
def test_what_is_no_policy_is_refused(content: bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(content, "development", "policy.yaml")
    assert all(problem.fix and "policy.yaml" in problem.where for problem in caught.value.problems)


@given(st.binary(max_size=200) | st.text(alphabet="default:viewro ls{}[]-\n&*!|>'\"", max_size=80).map(str.encode))
def test_no_file_makes_the_parser_do_anything_but_refuse_or_accept(content: bytes) -> None:
    try:
        policy = parse(content, "development")
    except PolicyError:
        return
    assert policy.role_of(somebody("a@b.c")) in Role


def test_a_malformed_policy_stops_the_start_with_every_line(make_gate: Any, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(PROBLEMS)
    gate = make_gate(ACCESS_POLICY=str(file)).start()
    assert gate.wait_end() == Exit.SETTINGS
    for line in (2, 5, 9, 15):
        assert f"ACCESS_POLICY {file}:{line}: " in gate.log()
    assert gate.log().count("fix:") == 14


RULES = "default: {default}\nroles:\n  editor: [{editor}]\n"


def test_a_changed_policy_is_taken_up_and_a_malformed_change_is_not(make_gate: Any, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(RULES.format(default="viewer", editor="user:bob@example.com"))
    gate = make_gate(ACCESS_POLICY=str(file), **QUIET).start().wait_ready()
    carol = Client(gate, gate.session("carol"))

    def role() -> str:
        return str(carol.call("GET", "/gatehouse/whoami").json()["role"])

    assert role() == "viewer"
    file.write_text(RULES.format(default="viewer", editor="user:carol@example.com"))
    wait_for(lambda: role() == "editor", "the changed policy", logs=gate.log)
    carol.run()
    file.write_text("default: [")
    wait_for(lambda: role() and "the changed access policy can't be used" in gate.log(), "the complaint", logs=gate.log)
    assert f"{file}:1: isn't YAML" in gate.log()
    assert role() == "editor"
    file.unlink()
    wait_for(lambda: role() and f"{file}: No such file" in gate.log(), "the complaint", logs=gate.log)
    assert role() == "editor"
    # Replaced as Kubernetes and Cloud Run do it: another file under the same name.
    other = tmp_path / "other.yaml"
    other.write_text(RULES.format(default="none", editor=""))
    other.rename(file)
    wait_for(lambda: role() == "none", "the mended policy", logs=gate.log)
    assert carol.call("GET", "/api/2.0/mlflow/experiments/search?max_results=1").status_code == 403
    assert gate.log().count("the changed access policy can't be used") == 2


PRODUCTION = """
contact: platform@example.com
default: viewer
roles:
  editor: [domain:example.com]
environments:
  production:
    default: viewer
    roles:
      editor: [serviceAccount:pipeline@acme-prod.iam.gserviceaccount.com]
"""
PIPELINE = "pipeline@acme-prod.iam.gserviceaccount.com"
OTHER = "pipeline@other-project.iam.gserviceaccount.com"


def test_in_production_anyone_may_look_and_only_the_pipeline_writes(make_gate: Any, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(PRODUCTION)
    gate = make_gate(
        ACCESS_POLICY=str(file),
        APP_ENV="production",
        OAUTH2_PROXY_EMAIL_DOMAINS="example.com,acme-prod.iam.gserviceaccount.com,other-project.iam.gserviceaccount.com",
        **QUIET,
    )
    gate.start().wait_ready()

    def account(email: str) -> Client:
        session = gate.session("bob")
        gate.provider.claims(email, email=email, email_verified=True)
        session.headers["Authorization"] = f"Bearer {gate.provider.token_of(email)}"
        return Client(gate, session)

    bob, pipeline, other = Client(gate, gate.session("bob")), account(PIPELINE), account(OTHER)
    refused = bob.post("runs/create", experiment_id="0")
    assert refused.status_code == 403
    assert "bob@example.com is a viewer here" in refused.json()["message"]
    assert "Ask platform@example.com" in refused.json()["message"]
    run = pipeline.run()
    assert bob.tags(run)["mlflow.user"] == PIPELINE
    assert pipeline.call("GET", "/gatehouse/whoami").json()["kind"] == "service account"
    stranger = other.call("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
    assert stranger.status_code == 403
    assert f"{OTHER} has no role here" in stranger.json()["message"]


def test_an_environment_without_a_section_stops_the_start(make_gate: Any, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(PRODUCTION)
    gate = make_gate(ACCESS_POLICY=str(file), APP_ENV="prod").start()
    assert gate.wait_end() == Exit.SETTINGS
    assert "there is no section for APP_ENV=prod" in gate.log()
    assert "(there are: production)" in gate.log()
