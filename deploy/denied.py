"""What to say when a right is missing: which one, who can give it, and by which command.

Asked of Google, not read out of its words.
"""

from __future__ import annotations

from deploy.cloud.errors import CloudError
from deploy.cloud.google import Google
from deploy.cloud.rights import ROLES
from deploy.config import Config

#: Rights over the project's own grants: `bootstrap` uses them once, so that no deployer needs them.
BOOTSTRAP = "resourcemanager.projects.setIamPolicy"
ACT_AS = "iam.serviceAccounts.actAs"


def explain(config: Config, google: Google, error: CloudError) -> str:
    """Return an error with its way out; of a missing right, its name and the command that grants it."""
    if error.kind != "denied" or error.fix:
        return str(error)
    if error.permission in {"", "storage.buckets.get"} and "/storage/v1/b/" in error.what and "/iam" not in error.what:
        return (
            f"{error.message}\nEither another project has a bucket of this name (names are shared by all of Google "
            "Cloud): set names/bucket"
            " in the environment's\n  file. Or it is yours and you may not see it: you need roles/storage.admin on"
            f" {config.project}."
        )
    missing = [error.permission] if error.permission in ROLES else _lacking(config, google)
    if not missing:
        return (
            f"{error.message}\nA right is missing, and Google does not say which; python -m deploy doctor "
            f"{config.given} looks for it."
        )
    return "\n".join([error.message, *grants(config, missing)])


def _lacking(config: Config, google: Google) -> list[str]:
    """Return the rights that this tool uses and the caller has not got on the project.

    None where that can't be told.
    """
    try:
        return google.lacking(config.project, list(ROLES))
    except CloudError:
        return []


def grants(config: Config, missing: list[str]) -> list[str]:
    """Return the lines that tell how missing permissions are granted, role by role."""
    lines = []
    roles: dict[str, list[str]] = {}
    for permission in missing:
        roles.setdefault(ROLES[permission], []).append(permission)
    for role, permissions in roles.items():
        shown = ", ".join(permissions[:4]) + (" …" if len(permissions) > 4 else "")
        where, grant = config.project, f"gcloud projects add-iam-policy-binding {config.project}"
        end = " --condition=None"
        if permissions == [ACT_AS]:
            where, end = config.account, f" --project={config.project}"
            grant = f"gcloud iam service-accounts add-iam-policy-binding {config.account}"
        lines.append(f"Missing right ({shown}): whoever administers {where} can grant it with")
        lines.append(f"  {grant} --member=user:YOU@YOUR.DOMAIN --role={role}{end}")
    if BOOTSTRAP in missing:
        lines.append(
            f"Or that person makes every grant of this environment once: python -m deploy bootstrap {config.given}; a "
            "deployer needs no"
            " right over the project's own grants."
        )
    return lines
