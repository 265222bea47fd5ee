"""Pure builders: each returns the argument list of one gcloud command. Nothing here runs anything."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path

from deploy.config import Config

#: Where commands run: paths in them are relative to it.
ROOT = Path(__file__).parent.parent

Argv = tuple[str, ...]

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


def _labels(config: Config) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(config.labels.items()))


def _p(config: Config) -> str:
    return f"--project={config.project}"


# Project ------------------------------------------------------------------------------------------------------------------------


def services_list(config: Config) -> Argv:
    return ("gcloud", "services", "list", "--enabled", _p(config))


def services_enable(config: Config, apis: list[str]) -> Argv:
    return ("gcloud", "services", "enable", *apis, _p(config))


def project_describe(config: Config) -> Argv:
    return ("gcloud", "projects", "describe", config.project)


def project_policy(config: Config) -> Argv:
    return ("gcloud", "projects", "get-iam-policy", config.project)


def sql_condition(config: Config) -> str:
    """Return the IAM condition that narrows a role to this environment's database."""
    name = f"projects/{config.project}/instances/{config.names.sql}"
    return f'resource.name == "{name}" && resource.service == "sqladmin.googleapis.com"'


def project_bind(config: Config, verb: str = "add") -> Argv:
    condition = f"title={config.names.sql},expression={sql_condition(config)}"
    return (
        "gcloud", "projects", f"{verb}-iam-policy-binding", config.project,
        f"--member=serviceAccount:{config.account}", "--role=roles/cloudsql.client", f"--condition={condition}",
    )  # fmt: skip


def billing_describe(config: Config) -> Argv:
    return ("gcloud", "billing", "projects", "describe", config.project)


def org_policy(config: Config, constraint: str) -> Argv:
    return ("gcloud", "org-policies", "describe", constraint, "--effective", _p(config))


#: The least of Google's own roles that has iam.serviceAccounts.signBlob.
SIGNER = "roles/iam.serviceAccountTokenCreator"

# Service account ----------------------------------------------------------------------------------------------------------------


def account_describe(config: Config) -> Argv:
    return ("gcloud", "iam", "service-accounts", "describe", config.account, _p(config))


def account_create(config: Config) -> Argv:
    return (
        "gcloud", "iam", "service-accounts", "create", config.names.service_account,
        f"--display-name=Gatehouse {config.environment}", f"--description={_labels(config)}", _p(config),
    )  # fmt: skip


def account_delete(config: Config) -> Argv:
    return ("gcloud", "iam", "service-accounts", "delete", config.account, "--quiet", _p(config))


def account_policy(config: Config) -> Argv:
    return ("gcloud", "iam", "service-accounts", "get-iam-policy", config.account, _p(config))


def account_bind(config: Config) -> Argv:
    """The right to sign as itself, and as nobody else: it is given on the account, not on the project."""
    return (
        "gcloud", "iam", "service-accounts", "add-iam-policy-binding", config.account,
        f"--member=serviceAccount:{config.account}", f"--role={SIGNER}", _p(config),
    )  # fmt: skip


# Image --------------------------------------------------------------------------------------------------------------------------


def repository_describe(config: Config) -> Argv:
    return (
        "gcloud",
        "artifacts",
        "repositories",
        "describe",
        config.names.repository,
        f"--location={config.region}",
        _p(config),
    )


def repository_create(config: Config) -> Argv:
    """A tag never moves: what was tested is what serves."""
    return (
        "gcloud", "artifacts", "repositories", "create", config.names.repository, "--repository-format=docker",
        f"--location={config.region}", "--immutable-tags", f"--labels={_labels(config)}", _p(config),
    )  # fmt: skip


def repository_delete(config: Config) -> Argv:
    return (
        "gcloud",
        "artifacts",
        "repositories",
        "delete",
        config.names.repository,
        f"--location={config.region}",
        "--quiet",
        _p(config),
    )


def image_describe(config: Config, image: str) -> Argv:
    return ("gcloud", "artifacts", "docker", "images", "describe", image, _p(config))


def image_build(config: Config, image: str) -> Argv:
    return (
        "gcloud",
        "builds",
        "submit",
        ".",
        f"--tag={image}",
        "--ignore-file=deploy/gcloudignore",
        "--timeout=1800",
        _p(config),
    )


def docker_build(image: str) -> Argv:
    return ("docker", "build", f"--tag={image}", ".")


def docker_push(image: str) -> Argv:
    return ("docker", "push", image)


# Database -----------------------------------------------------------------------------------------------------------------------


def sql_describe(config: Config) -> Argv:
    return ("gcloud", "sql", "instances", "describe", config.names.sql, _p(config))


def sql_settings(config: Config) -> Argv:
    """The settings that can be changed later: the same flags for `create` and `patch`."""
    sql = config.sql
    flags = [
        f"--tier={sql['tier']}",
        f"--availability-type={sql['availability']}",
        "--backup-start-time=03:00",
        f"--retained-backups-count={sql['backups']}",
        "--connector-enforcement=REQUIRED",
        "--ssl-mode=ENCRYPTED_ONLY",
        "--deletion-protection" if sql["deletion_protection"] else "--no-deletion-protection",
    ]
    if sql["point_in_time_recovery"]:
        flags.append("--enable-point-in-time-recovery")
    return tuple(flags)


def sql_create(config: Config) -> Argv:
    """Beta, for `--labels` alone. No authorised network, and connectors are enforced: the only way in is the Cloud SQL socket."""
    sql = config.sql
    address = (
        ("--no-assign-ip", f"--network=projects/{config.project}/global/networks/{sql['network']}")
        if "network" in sql
        else ("--assign-ip",)
    )
    return (
        "gcloud", "beta", "sql", "instances", "create", config.names.sql, f"--database-version={sql['version']}",
        "--edition=enterprise", f"--region={config.region}", f"--storage-size={sql['storage_gb']}", "--storage-type=SSD",
        "--storage-auto-increase", *sql_settings(config), *address, f"--labels={_labels(config)}", "--timeout=3600", _p(config),
    )  # fmt: skip


def sql_patch(config: Config, storage: bool = False) -> Argv:
    more = (f"--storage-size={config.sql['storage_gb']}",) if storage else ()
    return (
        "gcloud", "beta", "sql", "instances", "patch", config.names.sql, *sql_settings(config), *more,
        f"--update-labels={_labels(config)}", "--quiet", _p(config),
    )  # fmt: skip


def sql_delete(config: Config) -> Argv:
    return ("gcloud", "sql", "instances", "delete", config.names.sql, "--quiet", _p(config))


def sql_operations(config: Config) -> Argv:
    return (
        "gcloud",
        "sql",
        "operations",
        "list",
        f"--instance={config.names.sql}",
        "--filter=status!=DONE",
        _p(config),
    )


def sql_wait(config: Config, operation: str) -> Argv:
    return ("gcloud", "sql", "operations", "wait", operation, "--timeout=3600", _p(config))


def databases_list(config: Config) -> Argv:
    return ("gcloud", "sql", "databases", "list", f"--instance={config.names.sql}", _p(config))


def database_create(config: Config, name: str) -> Argv:
    return ("gcloud", "sql", "databases", "create", name, f"--instance={config.names.sql}", _p(config))


def users_list(config: Config) -> Argv:
    return ("gcloud", "sql", "users", "list", f"--instance={config.names.sql}", _p(config))


def user_create(config: Config, name: str) -> Argv:
    """The password comes in on standard input, as a file of flags."""
    return (
        "gcloud",
        "sql",
        "users",
        "create",
        name,
        f"--instance={config.names.sql}",
        "--flags-file=-",
        _p(config),
    )


def user_password(config: Config, name: str) -> Argv:
    return (
        "gcloud",
        "sql",
        "users",
        "set-password",
        name,
        f"--instance={config.names.sql}",
        "--flags-file=-",
        _p(config),
    )


def backup_create(config: Config, description: str) -> Argv:
    return (
        "gcloud",
        "sql",
        "backups",
        "create",
        f"--instance={config.names.sql}",
        f"--description={description}",
        _p(config),
    )


def backups_list(config: Config) -> Argv:
    return ("gcloud", "sql", "backups", "list", f"--instance={config.names.sql}", "--limit=10", _p(config))


# Bucket -------------------------------------------------------------------------------------------------------------------------


def bucket_describe(config: Config) -> Argv:
    return ("gcloud", "storage", "buckets", "describe", config.bucket, "--raw", _p(config))


def bucket_create(config: Config) -> Argv:
    return (
        "gcloud", "storage", "buckets", "create", config.bucket, f"--location={config.region}",
        "--uniform-bucket-level-access", "--public-access-prevention", _p(config),
    )  # fmt: skip


def bucket_update(config: Config) -> Argv:
    return (
        "gcloud", "storage", "buckets", "update", config.bucket, "--uniform-bucket-level-access", "--public-access-prevention",
        "--versioning", f"--lifecycle-file={os.path.relpath(config.lifecycle, ROOT)}", f"--update-labels={_labels(config)}", _p(config),
    )  # fmt: skip


def bucket_policy(config: Config) -> Argv:
    return ("gcloud", "storage", "buckets", "get-iam-policy", config.bucket, _p(config))


def bucket_bind(config: Config) -> Argv:
    return (
        "gcloud", "storage", "buckets", "add-iam-policy-binding", config.bucket,
        f"--member=serviceAccount:{config.account}", "--role=roles/storage.objectUser", _p(config),
    )  # fmt: skip


def bucket_delete(config: Config) -> Argv:
    return ("gcloud", "storage", "rm", "--recursive", config.bucket, "--all-versions", _p(config))


# Secrets ------------------------------------------------------------------------------------------------------------------------


def secrets_list(config: Config) -> Argv:
    return ("gcloud", "secrets", "list", _p(config))


def secret_create(config: Config, name: str, annotations: Mapping[str, str] | None = None) -> Argv:
    notes = ",".join(f"{key}={value}" for key, value in (annotations or {}).items())
    return (
        "gcloud", "secrets", "create", name, "--data-file=-", "--replication-policy=user-managed",
        f"--locations={config.region}", f"--labels={_labels(config)}", *((f"--set-annotations={notes}",) if notes else ()), _p(config),
    )  # fmt: skip


def secret_annotate(config: Config, name: str, annotations: Mapping[str, str]) -> Argv:
    notes = ",".join(f"{key}={value}" for key, value in annotations.items())
    return ("gcloud", "secrets", "update", name, f"--update-annotations={notes}", _p(config))


def secret_add(config: Config, name: str) -> Argv:
    return ("gcloud", "secrets", "versions", "add", name, "--data-file=-", _p(config))


def secret_access(config: Config, name: str, version: str) -> Argv:
    return ("gcloud", "secrets", "versions", "access", version, f"--secret={name}", _p(config))


def secret_disable(config: Config, name: str, version: str) -> Argv:
    return ("gcloud", "secrets", "versions", "disable", version, f"--secret={name}", "--quiet", _p(config))


def secret_versions(config: Config, name: str) -> Argv:
    return ("gcloud", "secrets", "versions", "list", name, _p(config))


def secret_policy(config: Config, name: str) -> Argv:
    return ("gcloud", "secrets", "get-iam-policy", name, _p(config))


def secret_bind(config: Config, name: str) -> Argv:
    return (
        "gcloud", "secrets", "add-iam-policy-binding", name, f"--member=serviceAccount:{config.account}",
        "--role=roles/secretmanager.secretAccessor", _p(config),
    )  # fmt: skip


def secret_delete(config: Config, name: str) -> Argv:
    return ("gcloud", "secrets", "delete", name, "--quiet", _p(config))


# Cloud Run ----------------------------------------------------------------------------------------------------------------------


def _r(config: Config) -> str:
    return f"--region={config.region}"


def service_describe(config: Config) -> Argv:
    return ("gcloud", "run", "services", "describe", config.names.service, _r(config), _p(config))


def revision_describe(config: Config, name: str) -> Argv:
    return ("gcloud", "run", "revisions", "describe", name, _r(config), _p(config))


def revisions_list(config: Config) -> Argv:
    return ("gcloud", "run", "revisions", "list", f"--service={config.names.service}", _r(config), _p(config))


def service_deploy(config: Config, flags: tuple[str, ...], *, traffic: bool, tag: str) -> Argv:
    """Cloud Run's own IAM check is off: the proxy in the container is the gate, and that check would strip the tokens' signatures."""
    quiet = () if traffic else ("--no-traffic", f"--tag={tag}")
    return (
        "gcloud",
        "run",
        "deploy",
        config.names.service,
        *flags,
        "--no-invoker-iam-check",
        *quiet,
        _r(config),
        _p(config),
    )


def service_secrets(config: Config, changed: Mapping[str, str], environment: Mapping[str, str], tag: str) -> Argv:
    """A new revision, without traffic, that differs in secrets' versions (and settings) alone."""
    pairs = ",".join(f"{setting}={reference}" for setting, reference in changed.items())
    values = (f"--update-env-vars={','.join(f'{k}={v}' for k, v in environment.items())}",) if environment else ()
    return (
        "gcloud", "run", "services", "update", config.names.service, f"--update-secrets={pairs}", *values, "--no-traffic", f"--tag={tag}",
        _r(config), _p(config),
    )  # fmt: skip


def _update_traffic(config: Config, change: str) -> Argv:
    return ("gcloud", "run", "services", "update-traffic", config.names.service, change, _r(config), _p(config))


def service_promote(config: Config, tag: str) -> Argv:
    """All traffic to the revision that has the tag."""
    return _update_traffic(config, f"--to-tags={tag}=100")


def service_traffic(config: Config, revision: str) -> Argv:
    """All traffic to one revision."""
    return _update_traffic(config, f"--to-revisions={revision}=100")


def service_untag(config: Config, tag: str) -> Argv:
    return _update_traffic(config, f"--remove-tags={tag}")


def service_tag(config: Config, tag: str, revision: str) -> Argv:
    return (
        "gcloud",
        "run",
        "services",
        "update-traffic",
        config.names.service,
        f"--update-tags={tag}={revision}",
        _r(config),
        _p(config),
    )


def service_delete(config: Config) -> Argv:
    return ("gcloud", "run", "services", "delete", config.names.service, "--quiet", _r(config), _p(config))


def job_describe(config: Config) -> Argv:
    return ("gcloud", "run", "jobs", "describe", config.names.job, _r(config), _p(config))


def job_run(config: Config, flags: tuple[str, ...], arguments: tuple[str, ...]) -> Argv:
    """Make or change the schema job, run it, and wait for its end."""
    return (
        "gcloud", "run", "jobs", "deploy", config.names.job, *flags, f"--args={','.join(arguments)}", "--max-retries=0",
        "--task-timeout=1800", "--execute-now", "--wait", _r(config), _p(config),
    )  # fmt: skip


def job_tasks(config: Config, execution: str) -> Argv:
    return (
        "gcloud",
        "run",
        "jobs",
        "executions",
        "tasks",
        "list",
        f"--execution={execution}",
        _r(config),
        _p(config),
    )


def job_executions(config: Config) -> Argv:
    return (
        "gcloud",
        "run",
        "jobs",
        "executions",
        "list",
        f"--job={config.names.job}",
        "--limit=1",
        _r(config),
        _p(config),
    )


def job_delete(config: Config) -> Argv:
    return ("gcloud", "run", "jobs", "delete", config.names.job, "--quiet", _r(config), _p(config))


# The rest -----------------------------------------------------------------------------------------------------------------------


def logs(config: Config, *, severity: str, freshness: str, limit: int) -> Argv:
    names = f'("{config.names.service}" OR "{config.names.job}")'
    query = f"(resource.labels.service_name={names} OR resource.labels.job_name={names}) AND severity>={severity}"
    return ("gcloud", "logging", "read", query, f"--freshness={freshness}", f"--limit={limit}", _p(config))


def identity_token(config: Config, audience: str) -> Argv:
    account = config.data.get("smoke", {}).get("impersonate")
    if account:
        return (
            "gcloud", "auth", "print-identity-token", f"--impersonate-service-account={account}", f"--audiences={audience}",
            "--include-email",
        )  # fmt: skip
    return ("gcloud", "auth", "print-identity-token")
