"""The service accounts: the service's own and Cloud Build's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.cloud.google import Google
from deploy.config import Config
from deploy.resources.base import Argv, Difference, compare, flag, p, setting

#: The least of Google's own roles that has iam.serviceAccounts.signBlob.
SIGNER = "roles/iam.serviceAccountTokenCreator"


@dataclass(frozen=True)
class Account:
    """A service account's settings. It has no labels, so its description says whose it is."""

    display_name: str = setting(flag("display-name"))
    description: str = setting(flag("description"))


def wanted(config: Config, purpose: str = "") -> Account:
    """Return what the account is to be; `purpose` tells a helper's from the service's own."""
    name = " ".join(filter(None, ["Gatehouse", config.environment, purpose]))
    return Account(name, f"app=gatehouse,environment={config.environment}")


def found(answer: dict[str, Any]) -> Account:
    """Return what the API says it is."""
    return Account(answer.get("displayName", ""), answer.get("description", ""))


def _url(config: Config, email: str) -> str:
    return f"https://iam.googleapis.com/v1/projects/{config.project}/serviceAccounts/{email}"


def look(config: Config, google: Google, email: str) -> dict[str, Any] | None:
    """Return an account as the API shows it; None if there is none. Raises CloudError."""
    answer: dict[str, Any] | None = google.find(_url(config, email))
    return answer


def look_at_policy(config: Config, google: Google, email: str) -> dict[str, Any]:
    """Return who may act as an account, or sign in its name. Raises CloudError."""
    url = f"{_url(config, email)}:getIamPolicy"  # a POST without a body, unlike others'
    answer: dict[str, Any] = google.call("POST", url, None, **{"options.requestedPolicyVersion": "3"})
    return answer


def difference(config: Config, email: str, answer: dict[str, Any], purpose: str = "") -> Difference:
    """Return what is to be changed of an account."""
    return compare(f"service account {email}", wanted(config, purpose), found(answer))


def create(config: Config, name: str, purpose: str = "") -> Argv:
    """Make an account."""
    to_be = wanted(config, purpose)
    return (
        "gcloud", "iam", "service-accounts", "create", name, f"--display-name={to_be.display_name}",
        f"--description={to_be.description}", p(config),
    )  # fmt: skip


def update(config: Config, email: str, flags: Argv) -> Argv:
    """Change an account's settings."""
    return ("gcloud", "iam", "service-accounts", "update", email, *flags, p(config))


def enable(config: Config, email: str) -> Argv:
    """Let an account work again that somebody disabled."""
    return ("gcloud", "iam", "service-accounts", "enable", email, p(config))


def delete(config: Config, email: str) -> Argv:
    """Delete an account."""
    return ("gcloud", "iam", "service-accounts", "delete", email, "--quiet", p(config))


def bind_signer(config: Config) -> Argv:
    """The right to sign as itself, and as nobody else: it is given on the account, not on the project."""
    return (
        "gcloud", "iam", "service-accounts", "add-iam-policy-binding", config.account,
        f"--member=serviceAccount:{config.account}", f"--role={SIGNER}", p(config),
    )  # fmt: skip


def unbind_signer(config: Config) -> Argv:
    """Take that right away again."""
    return (
        "gcloud", "iam", "service-accounts", "remove-iam-policy-binding", config.account,
        f"--member=serviceAccount:{config.account}", f"--role={SIGNER}", p(config),
    )  # fmt: skip
