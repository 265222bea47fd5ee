"""Least rights: who deploys from CI is a job of one repository in one environment of GitHub, and may do no more than it
must.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cloud.rights import ROLES
from deploy.commands.bootstrap import DEPLOYER_ROLES
from tests.deploy.conftest import ACCOUNT, NUMBER, PROJECT, Tool
from tests.deploy.emulator import Emulator, roles

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


def bootstrapped(tool: Tool, **changes: Any) -> None:
    tool.configure(**CI, **changes)
    tool.here_good("bootstrap", "--yes")
    tool.cloud.requests.clear()


def test_a_workflow_deploys_with_what_bootstrap_gave_it(deployed: Tool) -> None:
    """By federation, through Google's exchange of tokens; the project's own grants are out of its reach."""
    cloud = deployed.cloud
    bootstrapped(deployed)
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
def test_no_other_job_can_be_the_deployer(deployed: Tool, subject: str, repository: str) -> None:
    bootstrapped(deployed)
    sign_in(deployed, subject, repository)
    result = deployed.here("plan")
    assert result.code == 77, result.text
    assert deployed.cloud.writes == []


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


def test_an_open_provider_is_not_used(tool: Tool) -> None:
    tool.configure(**CI)
    tool.here_good("bootstrap", "--yes")
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


def test_each_right_in_turn_is_named_when_it_is_missing(tool: Tool) -> None:
    """Everything is missing at first:

    each run gets a step further, and says which right it needs next, and which role has it.
    """
    cloud = tool.cloud
    wanted = set(ROLES)
    cloud.denied = set(wanted)
    arguments = ("apply", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))
    named: list[str] = []
    while (result := tool.here(*arguments)).code == 77:
        found = [p for p in cloud.denied if f"({p})" in result.text or f"Missing right ({p}" in result.text]
        bucket = {"storage.buckets.get"} & cloud.denied if "set names/bucket" in result.text else set()
        found += [p for p in bucket if p not in found]
        assert found, result.text
        for permission in found:
            assert f"--role={ROLES[permission]}" in result.text or permission == "storage.buckets.get", result.text
            cloud.denied.discard(permission)
            named.append(permission)
    assert result.code == 0, result.text
    assert {"run.services.create", "cloudsql.instances.create", "iam.serviceAccounts.actAs"} <= set(named)
    assert len(named) >= 25


def test_a_run_needs_no_right_that_is_not_in_the_table(deployed: Tool) -> None:
    """With the table's rights and no other, by a caller of its own, each command works."""
    cloud: Emulator = deployed.cloud
    token = "ya29.somebody"
    cloud.callers[token] = "user:somebody@example.com"
    roles.ROLES["roles/everything"] = tuple(ROLES)
    cloud.project.policy.bindings.append({"role": "roles/everything", "members": ["user:somebody@example.com"]})
    Path(deployed.environment()["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"]).write_text(token)
    file = deployed.home / "somebodys-token"
    file.write_text(token)
    deployed.extra["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"] = str(file)
    for command in (("plan",), ("backup",), ("logs",), ("rotate", "cookie", "--no-smoke"), ("migrate",)):
        deployed.here_good(*command)
    assert {caller for caller, _ in cloud.used} >= {"user:somebody@example.com"}
