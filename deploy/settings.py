"""What an environment's file may say: one typed model, of which `deploy/schema.json` is the published form.

`python -m deploy.settings` writes the schema anew; a test keeps the two the same. What follows from the settings
(names, URLs, limits that two settings share) is `deploy.config`'s.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

SCHEMA_FILE = Path(__file__).parent / "schema.json"


def matches(pattern: str) -> StringConstraints:
    """Return the constraint of a text that matches a regular expression, as JSON Schema's `pattern` does."""
    return StringConstraints(pattern=pattern)


Name = Annotated[str, matches(r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
Account = Annotated[str, matches(r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
Email = Annotated[str, matches(r"^[^@\s]+@[^@\s]+$")]
Network = Annotated[
    str, matches(r"^(projects/[a-z][a-z0-9-]{4,28}[a-z0-9]/global/networks/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
]
Subnet = Annotated[
    str,
    matches(
        r"^(projects/[a-z][a-z0-9-]{4,28}[a-z0-9]/regions/[a-z0-9-]+/subnetworks/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
    ),
]
Domain = Annotated[str, matches(r"^[A-Za-z0-9.-]+\.[A-Za-z]{2,}$")]
Filled = Annotated[str, StringConstraints(min_length=1)]
Variable = Annotated[str, matches(r"^[A-Z][A-Z0-9_]*$")]
Cpu = Annotated[Literal["1", "2", "4", "6", "8"], BeforeValidator(lambda v: str(v) if type(v) is int else v)]
LabelKey = Annotated[str, matches(r"^[a-z][a-z0-9_-]{0,62}$")]
LabelValue = Annotated[str, matches(r"^[a-z0-9_-]{0,63}$")]


def _numbers_too(part: dict[str, Any]) -> None:
    """Let editors take what YAML makes of an unquoted number."""
    part.pop("type", None)
    part["enum"] = [*part["enum"], *(int(value) for value in part["enum"])]


class Section(BaseModel):
    """A part of the file: nothing but the settings that it names, each of its own type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Names(Section):
    """Names that differ from mlflow-NAMESPACE (the bucket's: PROJECT-mlflow-NAMESPACE)."""

    service: Annotated[str, matches(r"^[a-z]([a-z0-9-]{0,47}[a-z0-9])?$")] | None = None
    service_account: Account | None = None
    repository: Name | None = None
    bucket: Annotated[str, matches(r"^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$")] | None = None
    sql: Annotated[str, matches(r"^[a-z][a-z0-9-]{0,79}$")] | None = None
    secrets: Annotated[str, matches(r"^[A-Za-z0-9_-]{1,200}$")] | None = Field(
        default=None, description="The secrets' common prefix."
    )


class OAuth(Section):
    """Who may come in, and through which identity provider."""

    email_domains: Annotated[list[Domain], Field(min_length=1)] = Field(
        description="E-mail domains that may sign in, or exact accounts' domains such as PROJECT.iam.gserviceaccount.com."
    )
    client_id: Filled | None = Field(
        default=None, description="The OAuth client's id. It is asked for once when it is not here."
    )
    issuer: Annotated[str, matches(r"^https?://[^\s]+$")] | None = Field(
        default=None, description="The OpenID issuer, when it is not Google."
    )
    audiences: list[Filled] = Field(default=[], description="Further audiences whose tokens are taken.")


class Service(Section):
    """The Cloud Run service."""

    cpu: Cpu = Field(default="1", json_schema_extra=_numbers_too)
    memory: Annotated[str, matches(r"^[1-9][0-9]*(Mi|Gi)$")] = "1Gi"
    concurrency: int = Field(default=40, ge=1, le=1000, description="Requests at once for one instance.")
    min_instances: int = Field(default=0, ge=0, le=100)
    max_instances: int = Field(default=1, ge=1, le=100)
    timeout: int = Field(default=300, ge=1, le=3600, description="Seconds for one request.")
    startup_timeout: int = Field(default=120, ge=10, le=240, description="Seconds until the container must be ready.")
    workers: int = Field(default=1, ge=1, le=16, description="Processes of MLflow in one instance.")
    http2: bool = Field(
        default=True,
        description="End-to-end HTTP/2: Cloud Run refuses no upload over 32 MiB. false saves a fraction of a millisecond a "
        "request.",
    )
    direct_transfers: bool = Field(
        default=False,
        description="Large artifacts go straight to the bucket by signed URLs: the service's account gets the right to sign "
        "as itself.",
    )
    ingress: Literal["all", "internal", "internal-and-cloud-load-balancing"] = Field(
        default="all",
        description="From where requests may come. Anything but all needs public_url: a load balancer's address, or one "
        "inside the network.",
    )
    network: Network | None = Field(
        default=None,
        description="The VPC network that the service sends through (Direct VPC egress); sql/network if left out.",
    )
    subnet: Subnet | None = Field(
        default=None,
        description="The subnet of that network, in a Shared VPC by its full name; sql/subnet if left out.",
    )
    egress: Literal["private-ranges-only", "all-traffic"] = Field(
        default="private-ranges-only", description="What goes through that network."
    )
    env: dict[Variable, str] = Field(
        default={}, description="Further settings of the container. No secret belongs here."
    )


class Sql(Section):
    """The database: PostgreSQL on Cloud SQL."""

    version: Annotated[str, matches(r"^POSTGRES_1[4-9]$")] = "POSTGRES_16"
    tier: Annotated[str, matches(r"^(db-f1-micro|db-g1-small|db-custom-[0-9]+-[0-9]+)$")] = "db-f1-micro"
    storage_gb: int = Field(default=10, ge=10, le=65536, description="The least size of its disk; it grows by itself.")
    availability: Literal["zonal", "regional"] = "zonal"
    backups: int = Field(
        default=7, ge=1, le=365, description="Daily backups that are kept, in the region that everything is in."
    )
    release_backups: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Backups from before a release that are kept; older ones go with the next release.",
    )
    point_in_time_recovery: bool = False
    deletion_protection: bool = False
    network: Network | None = Field(
        default=None,
        description="A VPC network with private services access, for a database without a public address; a Shared VPC's by "
        "its full name.",
    )
    subnet: Subnet | None = Field(
        default=None, description="The subnet through which the service reaches that network."
    )
    flags: dict[Annotated[str, matches(r"^[a-z][a-z0-9_.]*$")], str] = Field(
        default={}, description="PostgreSQL's own settings, by Cloud SQL's names for them."
    )


class Bucket(Section):
    """The artifacts' bucket."""

    prefix: Annotated[str, matches(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")] = "artifacts"
    lifecycle: Filled | None = Field(
        default=None,
        description="A file with lifecycle rules in Cloud Storage's own format, relative to this one (default: "
        "deploy/lifecycle.json).",
    )


class Smoke(Section):
    """As whom the smoke test comes in."""

    impersonate: Email | None = Field(
        default=None, description="A service account whose identity token is used. Otherwise: gcloud's active account."
    )


class Ci(Section):
    """The GitHub repository whose workflow deploys this environment; `bootstrap` lets it, and nobody else."""

    repository: Annotated[str, matches(r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")] = Field(description="ORG/REPO.")
    environment: Filled | None = Field(
        default=None, description="GitHub's environment, whose reviewers then count (default: this environment's name)."
    )
    pool: Name = Field(default="github", description="The workload identity pool (and provider) to make or use.")


class Housekeeping(Section):
    """The job that removes for good what was deleted in MLflow long ago (`gatehouse gc`), on a schedule."""

    schedule: Annotated[str, matches(r"^\S+( \S+){4}$")] = Field(
        default="0 4 * * 0", description="When, in cron's five fields."
    )
    time_zone: Annotated[str, matches(r"^[A-Za-z_]+(/[A-Za-z0-9_+-]+)*$")] = "Etc/UTC"
    older_than: Annotated[str, matches(r"^[1-9][0-9]*[dh]$")] = Field(
        default="30d", description="What was deleted that long ago goes, with its artifacts."
    )


class Budget(Section):
    """A monthly budget for the project, of which the billing account's administrators are told at 50, 90 and 100 %."""

    billing_account: Annotated[str, matches(r"^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$")]
    usd: int = Field(ge=1, description="US dollars a month.")


class Monitoring(Section):
    """What watches: an uptime check, alerts by e-mail, a dashboard, and a store of the audit log's own."""

    emails: Annotated[list[Email], Field(min_length=1)] = Field(description="Whom the alerts reach.")
    audit_days: int = Field(default=400, ge=1, le=3650, description="Days for which the audit log is kept.")
    error_percent: int = Field(default=5, ge=1, le=100, description="Failed requests (5xx) of all, over 5 minutes.")
    latency_seconds: int = Field(default=10, ge=1, le=3600, description="95th percentile of a request's time.")
    budget: Budget | None = Field(default=None, description="A monthly budget, by the rights over its billing account.")


class Settings(Section):
    """An environment of Gatehouse on Cloud Run."""

    project: Account = Field(description="The Google Cloud project's id (not its number).")
    region: Annotated[str, matches(r"^[a-z]+-[a-z]+[0-9]+$")] = Field(
        description="Where everything lives: the service, the database and its backups, the bucket, the secrets, the image and "
        "its build."
    )
    namespace: Annotated[str, matches(r"^[a-z0-9]([a-z0-9-]{0,21}[a-z0-9])?$")] = Field(
        description="What tells this environment's resources from the others': mlflow-NAMESPACE. At most 23 characters."
    )
    names: Names = Names()
    oauth: OAuth
    access_policy: Filled | None = Field(
        default=None, description="A file with the access policy, relative to this one."
    )
    public_url: Annotated[str, matches(r"^https://[a-z0-9.-]+$")] | None = Field(
        default=None,
        description="The address that people use, when it is a domain of your own and not the service's run.app address.",
    )
    image: Filled = Field(
        default="cloudbuild",
        description=(
            "How the image comes to be: cloudbuild, docker (built and pushed from here), promoted (what `promote` "
            "brought), "
            "or a full name that exists already."
        ),
    )
    kms_key: Annotated[str, matches(r"^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$")] | None = (
        Field(
            None,
            description=(
                "A key of your own (CMEK) for the database, the bucket, the service and its jobs, in the region. Not "
                "for the secrets and the "
                "image repository: these have Google's."
            ),
        )
    )
    quota_project: Account | None = Field(
        default=None, description="The project whose quota the tool's own API calls use."
    )
    service: Service = Service()
    sql: Sql = Sql()
    bucket: Bucket = Bucket()
    smoke: Smoke = Smoke()
    housekeeping: Housekeeping | None = Field(
        default=None,
        description="Remove on a schedule what was deleted long ago. {} for the defaults; left out: never.",
    )
    monitoring: Monitoring | None = Field(
        default=None, description="Watch it: alerts, dashboard, uptime check, and the audit log's own store."
    )
    ci: Ci | None = Field(default=None, description="The GitHub repository whose workflow deploys this environment.")
    labels: dict[LabelKey, LabelValue] = Field(
        default={},
        description="Labels of every resource. These and the tool's own are all that there are: others are taken off.",
    )


def schema() -> dict[str, Any]:
    """Return the JSON schema of an environment's file, for editors."""
    given = Settings.model_json_schema()
    made: dict[str, Any] = _inline(given, given.pop("$defs", {}))
    made.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An environment of Gatehouse on Cloud Run",
    } | made


def _inline(node: Any, sections: dict[str, Any]) -> Any:
    """Put each section where it is used, without pydantic's titles and its `or null`: YAML leaves a setting out."""
    if isinstance(node, list):
        return [_inline(item, sections) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        section = _inline(sections[node["$ref"].rsplit("/", 1)[1]], sections)
        return section | {k: _inline(v, sections) for k, v in node.items() if k not in {"$ref", "default"}}
    kinds = [kind for kind in node.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        node = kinds[0] | {k: v for k, v in node.items() if k not in {"anyOf", "default"}}
        return _inline(node, sections)
    kept = {k: _inline(v, sections) for k, v in node.items() if k != "title" or not isinstance(v, str)}
    if "patternProperties" in node:
        kept["additionalProperties"] = False
    if isinstance(node.get("properties"), dict):
        kept["properties"] = {k: _inline(v, sections) for k, v in node["properties"].items()}
    return kept


def text() -> str:
    """Return the schema as it stands in its file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(text(), encoding="utf-8")
    sys.stderr.write(f"wrote {SCHEMA_FILE}\n")
