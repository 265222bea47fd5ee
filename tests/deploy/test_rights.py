"""Least rights: who deploys from CI is a job of one repository in one environment of GitHub, and may do no more than it
must.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cloud.rights import LOOK, NEEDS, ROLES, WATCH
from deploy.commands.bootstrap import DEPLOYER_ROLES
from tests.deploy.conftest import ACCOUNT, NUMBER, PROJECT, Tool, new_cloud, tool_for
from tests.deploy.emulator import roles
from tests.deploy.emulator.core import now

DEPLOYER = f"mlflow-dev-deployer@{PROJECT}.iam.gserviceaccount.com"
CI = {"ci": {"repository": "acme/ml"}}
PROVIDER = f"//iam.googleapis.com/projects/{NUMBER}/locations/global/workloadIdentityPools/github/providers/github"


def sign_in(tool: Tool, subject: str, repository: str = "acme/ml", deployer: str = DEPLOYER) -> None:
    """Let the tool run as a workflow does:

    with the credentials' file that google-github-actions/auth writes, and without any token.
    """
    claims = {"iss": "https://token.actions.githubusercontent.com", "sub": subject, "repository": repository}
    token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims))
    (tool.home / "github.jwt").write_text(f"{token}.c2ln")
    file = tool.home / "gha-creds.json"
    impersonation = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
    file.write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": PROVIDER,
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": "https://sts.googleapis.com/v1/token",
                "service_account_impersonation_url": f"{impersonation}{deployer}:generateAccessToken",
                "credential_source": {"file": str(tool.home / "github.jwt")},
            }
        )
    )
    tool.extra = {"CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": str(file), "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": ""}


@pytest.fixture(scope="module")
def bootstrapped_once(tmp_path_factory: pytest.TempPathFactory, straight: Tool, gcloud_folder: Path) -> Iterator[Tool]:
    """A deployment whose administrator ran `bootstrap`. Only to copy."""
    folder = tmp_path_factory.mktemp("bootstrapped")
    with new_cloud(folder / "cloud") as cloud:
        cloud.adopt(straight.cloud)
        tool = tool_for(cloud, folder / "home", gcloud_folder)
        tool.configure(**CI)
        tool.here_good("bootstrap", "--yes")
        yield tool


@pytest.fixture
def bootstrapped(tool: Tool, bootstrapped_once: Tool) -> Tool:
    """A copy of that deployment."""
    tool.cloud.adopt(bootstrapped_once.cloud)
    tool.configure(**CI)
    return tool


def test_a_workflow_deploys_with_what_bootstrap_gave_it(bootstrapped: Tool) -> None:
    """By federation, through Google's exchange of tokens; the project's own grants are out of its reach."""
    deployed = bootstrapped
    cloud = deployed.cloud
    sign_in(deployed, "repo:acme/ml:environment:dev")
    deployed.configure(**CI, service={"concurrency": 7}, sql={"tier": "db-g1-small"}, labels={"team": "ml"})
    deployed.here_good("apply", "--yes", "--no-smoke")
    assert cloud.sql.instances["mlflow-dev"].meta["settings"]["tier"] == "db-g1-small"
    callers = {caller for caller, _ in cloud.used if caller != "user:owner@example.com"}
    assert callers >= {f"serviceAccount:{DEPLOYER}"}
    given = [b["role"] for b in cloud.project.policy.bindings if f"serviceAccount:{DEPLOYER}" in b["members"]]
    assert sorted(given) == sorted(DEPLOYER_ROLES)
    assert not any(roles.has(role, "resourcemanager.projects.setIamPolicy") for role in given)
    assert not any(roles.has(role, "iam.serviceAccounts.setIamPolicy") for role in given)
    assert not any(roles.has(role, "iam.serviceAccounts.actAs") for role in given)
    # Here a right is taken away by hand; what only an administrator gives is named, with who gives it.
    cloud.project.policy.bindings = [b for b in cloud.project.policy.bindings if ACCOUNT not in b["members"][0]]
    result = deployed.here("apply", "--yes", "--no-smoke")
    assert result.code == 77, result.text
    assert "resourcemanager.projects.setIamPolicy" in result.out
    assert "python -m deploy bootstrap" in result.out


@pytest.mark.parametrize(
    ("subject", "repository"),
    [
        ("repo:acme/ml:environment:staging", "acme/ml"),  # another environment, whose reviewers are others
        ("repo:acme/ml:ref:refs/heads/main", "acme/ml"),  # no environment at all
        ("repo:acme/ml:environment:dev", "mallory/ml"),  # another repository
    ],
)
def test_no_other_job_can_be_the_deployer(bootstrapped: Tool, subject: str, repository: str) -> None:
    sign_in(bootstrapped, subject, repository)
    result = bootstrapped.here("plan")
    assert result.code == 77, result.text
    assert bootstrapped.cloud.writes == []


def test_bootstrap_shows_every_grant_and_makes_each_once(tool: Tool) -> None:
    tool.configure(**CI, image="cloudbuild")
    asked = tool.here("bootstrap", answers="n\n")
    assert asked.code == 1
    assert tool.cloud.writes == []
    tool.here_good("bootstrap", "--yes")
    shown = tool.printed[-1]
    for role in DEPLOYER_ROLES:
        assert f"{role} for {DEPLOYER}" in shown
    assert "workload_identity_provider: projects/123456789012/" in shown
    tool.cloud.requests.clear()
    again = tool.here_good("bootstrap", "--yes")
    assert tool.cloud.writes == [], again.out


def test_an_open_provider_is_not_used(bootstrapped: Tool) -> None:
    tool = bootstrapped
    tool.cloud.federation.providers["github/github"].pop("attributeCondition")
    result = tool.here("bootstrap", "--yes")
    assert result.code == 1
    assert "takes other tokens already (of every repository)" in result.err


def test_each_right_is_named_with_a_role_that_has_it() -> None:
    """The tool's table against the cloud's own roles."""
    assert [(p, role) for p, role in ROLES.items() if not roles.has(role, p)] == []


def test_every_right_that_the_emulator_asks_for_is_in_the_table() -> None:
    from tests.deploy.emulator.core import HANDLERS

    asked = {handler.permission for handler in HANDLERS.values()} - {""}
    others = {p for p in asked if p.startswith(("iam.workloadIdentity",))}  # an administrator's, in `bootstrap` alone
    missing = {p for p in asked - others - set(ROLES) if p not in NOT_USED}
    assert missing == set()


#: What the emulator has and the tool never asks for: gcloud does, or a test.
NOT_USED = {
    "serviceusage.services.get",
    "secretmanager.versions.enable",
    "artifactregistry.tags.list",
    "artifactregistry.versions.get",
}


SOMEBODY, TOKEN = "user:somebody@example.com", "ya29.somebody"


def somebody(tool: Tool, held: set[str]) -> None:
    """Let the tool run as somebody who has these permissions in the project, and no other."""
    tool.cloud.callers[TOKEN] = SOMEBODY
    roles.ROLES["roles/exactly"] = held  # type: ignore[assignment]
    if not any(binding["role"] == "roles/exactly" for binding in tool.cloud.project.policy.bindings):
        tool.cloud.project.policy.bindings.append({"role": "roles/exactly", "members": [SOMEBODY]})
    file = tool.home / "somebodys-token"
    file.write_text(TOKEN)
    tool.extra["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"] = str(file)


def grow(tool: Tool, start: set[str] | frozenset[str], *arguments: str) -> set[str]:
    """Run a command with the rights `start`, again and again, each time with those more that the last run named with their role.

    Returns the rights with which it then worked: each of them was missing once, and the command failed and said so; or
    it is one of `start`.
    """
    held = set(start)
    somebody(tool, held)
    while True:
        tool.cloud.refused.clear()
        result = tool.here(*arguments)
        lacked = [p for p in dict.fromkeys(tool.cloud.refused) if p not in held]
        if not lacked:
            assert result.code == 0, result.text
            return held
        assert result.code == 77, f"{lacked}: exit code {result.code}\n{result.text}"
        named = [p for p in lacked if p in result.text and f"--role={ROLES[p]}" in result.text]
        if "storage.buckets.get" in lacked and "you need roles/storage.admin" in result.text:
            named.append("storage.buckets.get")
        assert named, f"{lacked} was missing, and is not named:\n{result.text}"
        held.update(named)


#: Held by those of a deployment that has had a rotation: what serves says enough otherwise.
AT_TIMES = {"run.revisions.get", "secretmanager.versions.list"}


def test_looking_needs_each_right_of_the_table_and_no_other(deployed: Tool) -> None:
    """From no right at all: each run fails at another one, and names it with its role."""
    assert grow(deployed, frozenset(), "plan") == NEEDS["plan"] - AT_TIMES
    good = {"id": "1", "status": "SUCCESSFUL", "endTime": now(), "enqueuedTime": now(), "type": "AUTOMATED"}
    deployed.cloud.sql.instances["mlflow-dev"].backups.append(good)
    # What the schema job found is told as unknown to who may not see it.
    assert grow(deployed, NEEDS["plan"] | {"run.executions.list"}, "status") == NEEDS["status"]
    assert grow(deployed, frozenset(), "logs") == NEEDS["logs"]
    for api in ("cloudscheduler", "monitoring"):
        deployed.cloud.project.enabled.add(f"{api}.googleapis.com")
    assert grow(deployed, LOOK, "plan") == NEEDS["plan"] | WATCH - {"run.jobs.getIamPolicy"}


def test_each_command_needs_each_right_of_the_table_and_no_other(deployed: Tool) -> None:
    """On what is there: a backup, a rotation, a migration, a restore, the way back, and the end."""
    assert grow(deployed, LOOK, "backup") - LOOK == NEEDS["backup"] - LOOK
    assert grow(deployed, LOOK, "rotate", "database", "--no-smoke") == NEEDS["rotate"]
    assert grow(deployed, LOOK, "migrate") == NEEDS["migrate"]
    assert grow(deployed, LOOK, "restore", "--backup", "latest", "--yes", "--no-smoke") == NEEDS["restore"]
    (new,) = set(deployed.cloud.sql.instances) - {"mlflow-dev"}
    deployed.configure(names={"sql": new})
    assert grow(deployed, LOOK, "rollback", "--no-smoke") == NEEDS["rollback"]
    deployed.configure()
    destroyed = grow(deployed, LOOK, "destroy", "--data", "--confirm", "dev")
    assert destroyed | {"storage.objects.delete"} == NEEDS["destroy"]  # the bucket was empty


def test_apply_needs_each_right_of_the_table_and_no_other(tool: Tool) -> None:
    """An environment from nothing: each run gets further, and says which right it needs next, and which role has it."""
    made = grow(tool, LOOK, "apply", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))
    assert CHANGES - RESUMED <= NEEDS["apply"] - made <= CHANGES


#: Asked for by a run that continues another, which is interrupted at one point or at another.
RESUMED = {"secretmanager.versions.access", "run.jobs.update", "run.executions.list", "run.tasks.list"}
#: Asked for by changes of what is there alone: `test_what_is_done_by_hand_is_told…` makes these as the owner.
CHANGES = {
    "iam.serviceAccounts.update", "iam.serviceAccounts.enable", "iam.serviceAccounts.setIamPolicy", "secretmanager.secrets.get",
    "secretmanager.secrets.update", "secretmanager.versions.access", "artifactregistry.repositories.update", "cloudsql.instances.update",
    "cloudsql.users.update", "cloudsql.backupRuns.create", "cloudsql.backupRuns.delete", "run.services.update", "run.jobs.update",
    "run.executions.list", "run.tasks.list",
}  # fmt: skip
