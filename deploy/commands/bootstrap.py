"""`bootstrap`: what only an administrator of the project may do, once:

accounts, their rights over the project, and a workflow's way in.

After it, who deploys (a workflow, mostly) needs no right over the project's own grants. Every grant is shown before it
is made, and what is there already is left out: safe to run again at any point.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from deploy.cloud.google import side_by_side
from deploy.config import Config
from deploy.resources import account, project
from deploy.resources.base import Argv, holds, p
from deploy.session import Session, Stop, ask

ISSUER = "https://token.actions.githubusercontent.com"
MAPPING = "google.subject=assertion.sub,attribute.repository=assertion.repository"

#: What the deployer of an environment may do in the project. Nothing over the project's own grants, and nothing over
#: other accounts: the rights to act as the environment's accounts are given on those accounts alone.
DEPLOYER_ROLES = (
    "roles/artifactregistry.admin",
    "roles/browser",
    "roles/cloudbuild.builds.editor",
    "roles/cloudscheduler.admin",
    "roles/cloudsql.admin",
    "roles/iam.serviceAccountViewer",
    "roles/logging.configWriter",
    "roles/logging.viewer",
    "roles/monitoring.editor",
    "roles/run.admin",
    "roles/secretmanager.admin",
    "roles/serviceusage.serviceUsageConsumer",
    "roles/storage.admin",
)
USER, FEDERATED = "roles/iam.serviceAccountUser", "roles/iam.workloadIdentityUser"


def subject(config: Config, number: str) -> str:
    """Return the one that may be the deployer:

    a job of the repository in GitHub's environment, whose reviewers GitHub asks before.
    """
    ci = config.settings.ci
    if ci is None:
        raise Stop("ci: is missing in the environment's file: {repository: ORG/REPO}")
    pool = f"iam.googleapis.com/projects/{number}/locations/global/workloadIdentityPools/{ci.pool}"
    return f"principal://{pool}/subject/repo:{ci.repository}:environment:{ci.environment or config.environment}"


def provider(config: Config, number: str) -> str:
    """Return the provider's full name, as the workflow's `auth` step wants it."""
    ci = config.settings.ci
    pool = ci.pool if ci else "github"
    return f"projects/{number}/locations/global/workloadIdentityPools/{pool}/providers/{pool}"


def _pool(config: Config, session: Session) -> list[tuple[str, Argv]]:
    ci = config.settings.ci
    if ci is None:
        return []
    base = f"https://iam.googleapis.com/v1/projects/{config.project}/locations/global/workloadIdentityPools/{ci.pool}"
    condition = f'assertion.repository == "{ci.repository}"'
    steps: list[tuple[str, Argv]] = []
    pools = ("gcloud", "iam", "workload-identity-pools")
    if session.google.find(base) is None:
        made: Argv = (*pools, "create", ci.pool, "--location=global", p(config))
        steps.append((f"workload identity pool {ci.pool}", made))
    there = session.google.find(f"{base}/providers/{ci.pool}")
    where = (f"--workload-identity-pool={ci.pool}", "--location=global", p(config))
    flags = (f"--issuer-uri={ISSUER}", f"--attribute-mapping={MAPPING}", f"--attribute-condition={condition}")
    if there is None:
        made = (*pools, "providers", "create-oidc", ci.pool, *where, *flags)
        steps.append((f"its provider: tokens of GitHub, for {ci.repository} alone", made))
    elif there.get("attributeCondition") != condition or there.get("oidc", {}).get("issuerUri") != ISSUER:
        raise Stop(
            f"the provider {ci.pool} takes other tokens already "
            f"({there.get('attributeCondition') or 'of every repository'}): set ci/pool to"
            " a name of this repository's own"
        )
    return steps


def _accounts(config: Config, there: dict[str, dict[str, Any] | None]) -> list[tuple[str, Argv]]:
    names = config.names
    every = {names.service_account: ""}
    if config.settings.image == "cloudbuild":
        every[names.build_account] = "build"
    if config.settings.ci:
        every[names.deployer] = "deployer"
    return [
        (f"service account {config.address(name)}", account.create(config, name, purpose))
        for name, purpose in every.items()
        if there[name] is None
    ]


def steps(session: Session) -> list[tuple[str, Argv]]:
    """Return what is to be made, each with its command. Raises CloudError, Stop."""
    config, google, names = session.config, session.google, session.config.names
    apis = project.look_at_apis(config, google)
    number, policy = session.number(), project.look_at_policy(config, google)
    made: list[tuple[str, Argv]] = []
    if missing := [api for api in (*project.apis(config), "sts.googleapis.com") if api not in apis]:
        made.append((f"enable {len(missing)} APIs", project.enable(config, missing)))
    there: dict[str, dict[str, Any] | None] = dict.fromkeys(
        (names.service_account, names.build_account, names.deployer)
    )
    policies: dict[str, dict[str, Any]] = {}

    def look(name: str) -> None:
        there[name] = account.look(config, google, config.address(name))
        if there[name] is not None:
            policies[name] = account.look_at_policy(config, google, config.address(name))

    if "iam.googleapis.com" in apis:
        side_by_side([lambda name=name: look(name) for name in there])  # type: ignore[misc]
    made += _accounts(config, there)
    member, condition = f"serviceAccount:{config.account}", project.database_condition(config)
    if not holds(policy, project.CLIENT, member, condition):
        made.append((f"{project.CLIENT} for {config.account}, on {names.sql} alone", project.bind(config)))
    if config.settings.ci is None:
        return made
    if "iam.googleapis.com" in apis:
        made += _pool(config, session)
    deployer = f"serviceAccount:{config.address(names.deployer)}"
    made += [
        (f"{role} for {config.address(names.deployer)}", _project_role(config, deployer, role))
        for role in DEPLOYER_ROLES
        if not holds(policy, role, deployer)
    ]
    grants = [(names.service_account, USER, deployer)]
    if config.settings.image == "cloudbuild":
        grants.append((names.build_account, USER, deployer))
    grants.append((names.deployer, FEDERATED, subject(config, number)))
    made += [
        (f"{role} on {config.address(name)} for {member}", _account_role(config, config.address(name), member, role))
        for name, role, member in grants
        if not holds(policies.get(name, {}), role, member)
    ]
    return made


def _project_role(config: Config, member: str, role: str) -> Argv:
    return (
        "gcloud", "projects", "add-iam-policy-binding", config.project, f"--member={member}", f"--role={role}", "--condition=None",
    )  # fmt: skip


def _account_role(config: Config, email: str, member: str, role: str) -> Argv:
    return (
        "gcloud", "iam", "service-accounts", "add-iam-policy-binding", email, f"--member={member}", f"--role={role}", p(config),
    )  # fmt: skip


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Show every grant and make it, after a yes."""
    config, say = session.config, session.say
    while made := steps(session):
        say(f"{config.environment}: to be made, once, by who administers {config.project}:")
        for title, argv in made:
            say(f"  + {title}", "green")
            say(f"      {shlex.join(argv)}")
        if not arguments.yes and ask("Do it? [y/N] ").lower() not in {"y", "yes"}:
            raise Stop("nothing was changed")
        for title, argv in made:
            say(f"+ {title}")
            session.gcloud.write(argv)
        if not any(argv[1:3] == ("services", "enable") for _, argv in made):
            break
    say("✓ bootstrapped: python -m deploy apply needs no right over the project's own grants")
    if config.settings.ci:
        say(f"  the workflow's workload_identity_provider: {provider(config, session.number())}")
        say(f"  the workflow's service_account: {config.address(config.names.deployer)}")
    return 0
