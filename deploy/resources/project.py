"""The project: the APIs that are on, its number, and who has which role in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deploy.cloud.google import Google
from deploy.config import Config
from deploy.resources import watch
from deploy.resources.base import Argv, p

#: What the tool uses, and so enables. The rest that it speaks to is on in every project.
APIS = (
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "sqladmin.googleapis.com",
)

CLIENT = "roles/cloudsql.client"


@dataclass
class Project:
    """What is there."""

    number: str = ""
    apis: set[str] = field(default_factory=set)
    policy: dict[str, Any] = field(default_factory=dict)

    def on(self, api: str) -> bool:
        """Return whether `API.googleapis.com` is enabled."""
        return f"{api}.googleapis.com" in self.apis


def apis(config: Config) -> tuple[str, ...]:
    """Return the APIs that this environment needs."""
    return (*APIS, *watch.apis(config))


def look_at_apis(config: Config, google: Google) -> set[str]:
    """Return the enabled APIs. Raises CloudError."""
    url = f"https://serviceusage.googleapis.com/v1/projects/{config.project}/services"
    listed = google.pages(
        url, "services", filter="state:ENABLED", pageSize="200", fields="services/config/name,nextPageToken"
    )
    return {item["config"]["name"] for item in listed}


def number(config: Config, google: Google) -> str:
    """Return the project's number. Raises CloudError."""
    return str(google.get(f"https://cloudresourcemanager.googleapis.com/v1/projects/{config.project}")["projectNumber"])


def look_at_policy(config: Config, google: Google) -> dict[str, Any]:
    """Return the project's IAM policy. Raises CloudError."""
    return google.policy(f"https://cloudresourcemanager.googleapis.com/v1/projects/{config.project}")


def enable(config: Config, missing: list[str]) -> Argv:
    """Turn APIs on."""
    return ("gcloud", "services", "enable", *missing, p(config))


def database_condition(config: Config) -> str:
    """Return the IAM condition that narrows a role to this environment's database."""
    name = f"projects/{config.project}/instances/{config.names.sql}"
    return f'resource.name == "{name}" && resource.service == "sqladmin.googleapis.com"'


def bind(config: Config, verb: str = "add") -> Argv:
    """Let the service's account connect to this environment's database alone, or (`remove`) no more."""
    condition = f"title={config.names.sql},expression={database_condition(config)}"
    return (
        "gcloud", "projects", f"{verb}-iam-policy-binding", config.project,
        f"--member=serviceAccount:{config.account}", f"--role={CLIENT}", f"--condition={condition}",
    )  # fmt: skip
