"""An environment's configuration: one YAML file, checked whole, with every name that follows from it.

Sources, the later winning: the schema's defaults, `deploy/environments/NAME.yaml`, the variables `DEPLOY_…` (for CI): the path in the
file in capitals, `DEPLOY_SQL_TIER` for `sql/tier`, its value read as YAML. Every problem is reported at once, with its path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

HERE = Path(__file__).parent
SCHEMA: dict[str, Any] = json.loads((HERE / "schema.json").read_text(encoding="utf-8"))

#: The audience of every identity token that `gcloud auth print-identity-token` prints for a person.
GCLOUD_AUDIENCE = "32555940559.apps.googleusercontent.com"

#: Cloud Run's deterministic URL needs a first label of at most this many characters (RFC 1035).
LABEL_LIMIT = 63
SOCKET_LIMIT = 107  # sun_path, less its final zero
CANDIDATE = "candidate"  # the tag under which a new revision is tested

#: Memory in GiB → connections that Cloud SQL for PostgreSQL allows by default ("Quotas and limits", read in 2025).
CONNECTIONS = (
    (120, 1000),
    (60, 800),
    (30, 600),
    (15, 500),
    (7.5, 400),
    (6, 200),
    (3.75, 100),
    (1.7, 50),
    (0, 25),
)


class ConfigError(Exception):
    """The configuration is wrong; `problems` has a line for each reason."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class Names:
    """What each resource is called."""

    service: str
    service_account: str
    repository: str
    bucket: str
    sql: str
    secrets: str

    @property
    def job(self) -> str:
        """The Cloud Run job that upgrades and checks the schema."""
        return f"{self.service}-schema"

    def secret(self, key: str) -> str:
        """Return the full name of one of the secrets of `deploy.secrets.SECRETS`."""
        return f"{self.secrets}-{key}"


@dataclass(frozen=True)
class Config:
    """One environment, complete and valid. `data` is the file with its defaults filled in."""

    environment: str
    data: dict[str, Any]
    names: Names
    policy: str | None
    policy_file: Path | None
    lifecycle: Path
    #: How a person called it: a name, or a file's path.
    given: str

    @property
    def project(self) -> str:
        """The project's id."""
        return str(self.data["project"])

    @property
    def region(self) -> str:
        """The region of everything."""
        return str(self.data["region"])

    @property
    def sql(self) -> dict[str, Any]:
        """The database's section."""
        section: dict[str, Any] = self.data["sql"]
        return section

    @property
    def service(self) -> dict[str, Any]:
        """The service's section."""
        section: dict[str, Any] = self.data["service"]
        return section

    @property
    def oauth(self) -> dict[str, Any]:
        """Who may come in."""
        section: dict[str, Any] = self.data["oauth"]
        return section

    @property
    def account(self) -> str:
        """The e-mail address of the service's own account."""
        return f"{self.names.service_account}@{self.project}.iam.gserviceaccount.com"

    @property
    def connection(self) -> str:
        """The database's connection name."""
        return f"{self.project}:{self.region}:{self.names.sql}"

    @property
    def bucket(self) -> str:
        """The bucket's URL."""
        return f"gs://{self.names.bucket}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every resource."""
        own: dict[str, str] = self.data["labels"]
        return {"app": "gatehouse", "environment": self.environment} | own

    @property
    def policy_digest(self) -> str:
        """The access policy's digest: how a change is seen without reading the secret."""
        return hashlib.sha256((self.policy or "").encode()).hexdigest()[:16]

    @property
    def repository(self) -> str:
        """Where the image lives, without its tag."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.names.repository}/gatehouse"

    def url(self, number: str, tag: str = "") -> str:
        """Return the service's URL, which is known before the first deploy: `number` is the project's."""
        label = f"{tag}---{self.names.service}" if tag else self.names.service
        return f"https://{label}-{number}.{self.region}.run.app"

    def public_url(self, number: str) -> str:
        """Return the address that people use: the service's URL, or a domain of one's own."""
        return str(self.data.get("public_url") or self.url(number))

    def connection_budget(self) -> tuple[int, int]:
        """Return (connections that the service can open, connections that the database allows).

        Tracking and registry keep a pool each in every worker; a release runs one instance more. The pools are held to POOL + OVERFLOW.
        """
        instances = self.service["max_instances"] + 1
        used = instances * self.service["workers"] * 2 * (POOL_SIZE + POOL_OVERFLOW)
        tier = self.sql["tier"]
        # What is left: PostgreSQL keeps RESERVED for its administrators (superuser_reserved_connections).
        memory = {"db-f1-micro": 0.6, "db-g1-small": 1.7}.get(tier) or int(tier.rsplit("-", 1)[1]) / 1024
        return used, next(allowed for least, allowed in CONNECTIONS if memory >= least) - RESERVED


#: Connections of one pool: those that are kept, and those beyond. MLflow's log-batch holds two at a time, so a worker needs one more
#: than it has threads for such calls (gatehouse.pipeline.dispatch.QUICK_THREADS), or they all wait for each other. An overflow of 0 reads as unset.
POOL_SIZE, POOL_OVERFLOW = 4, 1
RESERVED = 3


def leaves(
    schema: dict[str, Any] | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield (path, schema) of every setting."""
    for key, part in (schema or SCHEMA)["properties"].items():
        if "properties" in part:
            yield from leaves(part, (*path, key))
        else:
            yield (*path, key), part


def variables() -> dict[str, tuple[str, ...]]:
    """Return the environment variables that override a setting, with its path."""
    return {"DEPLOY_" + "_".join(path).upper(): path for path, _ in leaves()}


def load(environment: str, environ: Mapping[str, str], directory: Path = HERE / "environments") -> Config:
    """Read and check the environment `NAME` (or the path of a file). Raises ConfigError with every problem."""
    path = Path(environment) if environment.endswith((".yaml", ".yml")) else directory / f"{environment}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in directory.glob("*.yaml")))
        raise ConfigError(str(path), [f"cannot be read ({error.strerror}). Environments here: {known}"]) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"is no valid YAML: {' '.join(str(error).split())}"]) from error
    data = data if isinstance(data, dict) else {}
    problems = _override(data, environ)
    problems += [_told(error) for error in sorted(jsonschema.Draft202012Validator(SCHEMA).iter_errors(data), key=str)]
    if problems:
        raise ConfigError(str(path), problems)
    for place, part in leaves():
        section = data
        for key in place[:-1]:
            section = section.setdefault(key, {})
        if "default" in part:
            section.setdefault(place[-1], part["default"])
    data.setdefault("labels", {})
    data["service"].setdefault("env", {})
    data["oauth"].setdefault("audiences", [])
    data["service"]["cpu"] = str(data["service"]["cpu"])
    base = f"mlflow-{data['namespace']}"
    given = data.get("names", {})
    names = Names(
        service=given.get("service", base),
        service_account=given.get("service_account", base),
        repository=given.get("repository", base),
        bucket=given.get("bucket", f"{data['project']}-{base}"),
        sql=given.get("sql", base),
        secrets=given.get("secrets", base),
    )
    policy, file = None, None
    if "access_policy" in data:
        file = path.parent / data["access_policy"]
        try:
            policy = file.read_text(encoding="utf-8")
        except OSError as error:
            problems.append(f"access_policy: {file} cannot be read ({error.strerror})")
    lifecycle = path.parent / data["bucket"]["lifecycle"] if "lifecycle" in data["bucket"] else HERE / "lifecycle.json"
    try:
        json.loads(lifecycle.read_text(encoding="utf-8"))["rule"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"bucket/lifecycle: {lifecycle} is no file of lifecycle rules ({error!r})")
    config = Config(path.stem, data, names, policy, file, lifecycle, environment)
    problems += _cross_checks(config)
    if problems:
        raise ConfigError(str(path), problems)
    return config


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    known, problems = variables(), []
    for name, value in environ.items():
        if not name.startswith("DEPLOY_"):
            continue
        if name not in known:
            problems.append(
                f"{name}: no such setting (an environment variable; for example DEPLOY_SQL_TIER is sql/tier)"
            )
            continue
        *sections, key = known[name]
        target = data
        for section in sections:
            if not isinstance(target.setdefault(section, {}), dict):
                break
            target = target[section]
        else:
            try:
                target[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                problems.append(f"{name}: is no valid YAML")
    return problems


def _told(error: jsonschema.ValidationError) -> str:
    path = "/".join(str(part) for part in error.absolute_path)
    schema: dict[str, Any] = error.schema  # type: ignore[assignment]  # never a bare true or false here
    instance: Any = error.instance
    if error.validator == "required":
        missing = next(key for key in schema["required"] if key not in instance)
        return (
            f"{'/'.join(filter(None, [path, missing]))}: is missing. {_meaning(schema['properties'][missing])}".rstrip()
        )
    if error.validator == "additionalProperties":
        known = schema.get("properties", {})
        extra = ", ".join(sorted(set(instance) - set(known)))
        return f"{path + '/' if path else ''}{extra}: no such setting; known here: {', '.join(known)}"
    if error.validator == "pattern":
        return f"{path}: {error.instance!r} must match {error.validator_value}. {_meaning(schema)}".rstrip()
    return f"{path or 'the file'}: {error.message}"


def _meaning(schema: dict[str, Any]) -> str:
    return str(schema.get("description", ""))


def _cross_checks(config: Config) -> list[str]:
    problems = []
    name = config.names.service
    # The number has at most 13 digits, the longest prefix is the candidate's.
    if len(f"{CANDIDATE}---{name}-{'0' * 13}") > LABEL_LIMIT:
        problems.append(
            f"names/service: {name} is too long: {CANDIDATE}---{name}-PROJECTNUMBER must fit in {LABEL_LIMIT} characters"
            f" ({LABEL_LIMIT - len(CANDIDATE) - 17} for the name), or the URL would not be known in advance"
        )
    if not 6 <= len(config.names.service_account) <= 30:
        problems.append(f"names/service_account: {config.names.service_account} must have 6 to 30 characters")
    if len(config.names.bucket) > 63:
        problems.append(
            f"names/bucket: {config.names.bucket} has {len(config.names.bucket)} characters, 63 are allowed; set it"
        )
    if config.names.bucket.startswith("goog") or "google" in config.names.bucket:
        problems.append(
            f"names/bucket: {config.names.bucket}: Cloud Storage refuses names with 'goog' in front or 'google' in them"
        )
    socket = f"/cloudsql/{config.connection}/.s.PGSQL.5432"
    if len(socket) > SOCKET_LIMIT:
        problems.append(
            f"names/sql: the socket {socket} has {len(socket)} characters; a socket's path has at most {SOCKET_LIMIT}"
        )
    service = config.service
    if service["min_instances"] > service["max_instances"]:
        problems.append("service/min_instances: must not be more than service/max_instances")
    memory = service["memory"]
    if memory.endswith("Mi") and int(memory[:-2]) < 512:
        problems.append(f"service/memory: {memory}: the second generation of Cloud Run needs 512Mi")
    if config.sql.get("network") and not config.sql.get("subnet"):
        problems.append("sql/subnet: is missing: with sql/network the service needs a subnet to reach it")
    tier = config.sql["tier"]
    if tier.startswith("db-custom-"):
        cpus, size = (int(part) for part in tier.split("-")[2:])
        if (cpus != 1 and cpus % 2) or not cpus * 922 <= size <= cpus * 6656 or size < 3840 or size % 256:
            problems.append(
                f"sql/tier: {tier}: one or an even number of CPUs; 0.9 to 6.5 GB each, at least 3840 MB, in steps of 256 MB"
            )
    used, allowed = config.connection_budget()
    if used > allowed:
        problems.append(
            f"sql/tier: {tier} allows {allowed} connections (and {RESERVED} for its administrators), but"
            f" {service['max_instances']} instances (and one during a release) with {service['workers']} workers can open {used};"
            " take a larger tier or fewer instances"
        )
    clash = set(service["env"]) & set(MANAGED)
    problems += [f"service/env/{key}: is set by the deploy tool; use its own setting" for key in sorted(clash)]
    problems += [
        f"service/env/{key}: looks like a secret, and environment files hold none"
        for key in sorted(service["env"])
        if any(word in key for word in ("PASSWORD", "SECRET", "PASSPHRASE", "PRIVATE_KEY", "ACCOUNT_JSON"))
        and key not in MANAGED
    ]
    return problems


#: The container's settings that follow from the rest.
MANAGED = (
    "PORT",
    "PUBLIC_URL",
    "BACKEND_STORE_URI",
    "ARTIFACTS_DESTINATION",
    "DIRECT_TRANSFERS",
    "OAUTH2_PROXY_CLIENT_ID",
    "OAUTH2_PROXY_CLIENT_SECRET",
    "OAUTH2_PROXY_COOKIE_SECRET",
    "OAUTH2_PROXY_EMAIL_DOMAINS",
    "OAUTH2_PROXY_OIDC_ISSUER_URL",
    "OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES",
    "ACCESS_POLICY",
    "APP_ENV",
    "WORKERS",
    "STARTUP_TIMEOUT",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW",
)
