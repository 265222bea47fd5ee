"""An environment: its file, with what follows from it (names, URLs, limits that settings share).

Every problem is told at once, with its path.

Sources, the later winning: the defaults of `deploy.settings`, `deploy/environments/NAME.yaml`, the variables `DEPLOY_…`
(for CI): the path in the file in capitals, `DEPLOY_SQL_TIER` for `sql/tier`, its value read as YAML.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from deploy import policy
from deploy.settings import Bucket, OAuth, Service, Settings, Sql

HERE = Path(__file__).parent
#: The top of the repository: commands run there, and the paths in them are relative to it.
ROOT = HERE.parent

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

#: CPUs → the least memory, in MiB, that Cloud Run takes with them ("Configure memory limits", "Configure CPU limits").
LEAST_MEMORY = {"1": 512, "2": 512, "4": 2048, "6": 4096, "8": 4096}
#: … and the most, in MiB.
MOST_MEMORY = {"1": 4096, "2": 8192, "4": 16384, "6": 24576, "8": 32768}

#: Connections of one pool: those that are kept, and those beyond. MLflow's log-batch holds two at a time, so a worker
#: needs one more than it has threads for such calls (gatehouse.dispatch.dispatcher.QUICK_THREADS), or they all wait for
#: each other. An overflow of 0 reads as unset.
POOL_SIZE, POOL_OVERFLOW = 4, 1
#: As many as the container has by itself.
READ_CONNECTIONS = 4
RESERVED = 3


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

    @property
    def verify_job(self) -> str:
        """The Cloud Run job that counts what `restore` restored; it is there for so long alone."""
        return f"{self.service}-verify"

    @property
    def gc_job(self) -> str:
        """The Cloud Run job that removes what was deleted long ago, and its schedule."""
        return f"{self.service}-gc"

    @property
    def build_account(self) -> str:
        """The account that Cloud Build runs as."""
        return f"{self.service_account[:24]}-build"

    @property
    def build_bucket(self) -> str:
        """The bucket of Cloud Build's sources and logs."""
        return f"{self.bucket[:57]}-build"

    @property
    def deployer(self) -> str:
        """The account that the workflow of this environment deploys as."""
        return f"{self.service_account[:22]}-deployer"

    def secret(self, key: str) -> str:
        """Return the full name of one of the secrets of `deploy.resources.secrets.SECRETS`."""
        return f"{self.secrets}-{key}"


@dataclass(frozen=True)
class Config:
    """One environment, complete and valid."""

    environment: str
    settings: Settings
    names: Names
    policy: str | None
    policy_file: Path | None
    lifecycle: Path
    #: How a person called it: a name, or a file's path.
    given: str

    @property
    def project(self) -> str:
        """The project's id."""
        return self.settings.project

    @property
    def region(self) -> str:
        """The region of everything."""
        return self.settings.region

    @property
    def sql(self) -> Sql:
        """The database's section."""
        return self.settings.sql

    @property
    def service(self) -> Service:
        """The service's section."""
        return self.settings.service

    @property
    def oauth(self) -> OAuth:
        """Who may come in."""
        return self.settings.oauth

    @property
    def artifacts(self) -> Bucket:
        """The bucket's section."""
        return self.settings.bucket

    @property
    def account(self) -> str:
        """The e-mail address of the service's own account."""
        return self.address(self.names.service_account)

    def address(self, account: str) -> str:
        """Return the e-mail address of one of the project's service accounts."""
        return f"{account}@{self.project}.iam.gserviceaccount.com"

    @property
    def connection(self) -> str:
        """The database's connection name."""
        return f"{self.project}:{self.region}:{self.names.sql}"

    def on(self, sql: str) -> Config:
        """Return the same environment on another database server: one that a backup was restored to."""
        return replace(self, names=replace(self.names, sql=sql))

    @property
    def bucket(self) -> str:
        """The bucket's URL."""
        return f"gs://{self.names.bucket}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every resource."""
        return {"app": "gatehouse", "environment": self.environment} | self.settings.labels

    @property
    def policy_digest(self) -> str:
        """The access policy's digest: how a change is seen without reading the secret."""
        return hashlib.sha256((self.policy or "").encode()).hexdigest()[:16]

    @property
    def repository(self) -> str:
        """Where the image lives, without its tag."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.names.repository}/gatehouse"

    @property
    def network(self) -> tuple[str, str] | None:
        """The (network, subnet) that the service sends through; None for the internet alone."""
        network = self.service.network or self.sql.network
        subnet = self.service.subnet or self.sql.subnet
        return (network, subnet) if network and subnet else None

    @property
    def private_network(self) -> str:
        """The full name of the database's private network; empty for none."""
        network = self.sql.network
        if not network or "/" in network:
            return network or ""
        return f"projects/{self.project}/global/networks/{network}"

    def url(self, number: str, tag: str = "") -> str:
        """Return the service's URL, which is known before the first deploy: `number` is the project's."""
        label = f"{tag}---{self.names.service}" if tag else self.names.service
        return f"https://{label}-{number}.{self.region}.run.app"

    def public_url(self, number: str) -> str:
        """Return the address that people use: the service's URL, or a domain of one's own."""
        return self.settings.public_url or self.url(number)

    @property
    def read_connections(self) -> int:
        """How many connections each worker reads with (READ_CONNECTIONS); the smallest tier allows next to none."""
        return 1 if self.sql.tier == "db-f1-micro" else READ_CONNECTIONS

    def connection_budget(self) -> tuple[int, int]:
        """Return (connections that the service can open, connections that the database allows).

        Tracking and registry keep a pool each in every worker, beside the connections that it reads with; a release
        runs one instance more. The pools are held to POOL + OVERFLOW.
        """
        instances = self.service.max_instances + 1
        used = instances * self.service.workers * (2 * (POOL_SIZE + POOL_OVERFLOW) + self.read_connections)
        # What is left: PostgreSQL keeps RESERVED for its administrators (superuser_reserved_connections).
        if "max_connections" in self.sql.flags:
            return used, int(self.sql.flags["max_connections"]) - RESERVED
        tier = self.sql.tier
        memory = {"db-f1-micro": 0.6, "db-g1-small": 1.7}.get(tier) or int(tier.rsplit("-", 1)[1]) / 1024
        return used, next(allowed for least, allowed in CONNECTIONS if memory >= least) - RESERVED


def sections(info: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a setting that is a section of its own; None for a plain one."""
    kinds = [info.annotation, *get_args(info.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def leaves(
    model: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield (path, description) of every setting."""
    for key, info in model.model_fields.items():
        section = sections(info)
        if section is not None:
            yield from leaves(section, (*path, key))
        else:
            yield (*path, key), info


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
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        problems += [_told(item) for item in error.errors()]
        raise ConfigError(str(path), problems) from None
    if problems:
        raise ConfigError(str(path), problems)
    base, given = f"mlflow-{settings.namespace}", settings.names
    names = Names(
        service=given.service or base,
        service_account=given.service_account or base,
        repository=given.repository or base,
        bucket=given.bucket or f"{settings.project}-{base}",
        sql=given.sql or base,
        secrets=given.secrets or base,
    )
    rules, file = None, None
    if settings.access_policy:
        file = path.parent / settings.access_policy
        try:
            rules = file.read_text(encoding="utf-8")
        except OSError as error:
            problems.append(f"access_policy: {file} cannot be read ({error.strerror})")
    lifecycle = path.parent / settings.bucket.lifecycle if settings.bucket.lifecycle else HERE / "lifecycle.json"
    try:
        json.loads(lifecycle.read_text(encoding="utf-8"))["rule"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"bucket/lifecycle: {lifecycle} is no file of lifecycle rules ({error!r})")
    config = Config(path.stem, settings, names, rules, file, lifecycle, environment)
    problems += _cross_checks(config)
    if rules is not None and file is not None:
        problems += [f"access_policy: {line}" for line in policy.problems(rules, path.stem, file.name)]
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
        *above, key = known[name]
        target = data
        for section in above:
            if not isinstance(target.setdefault(section, {}), dict):
                break
            target = target[section]
        else:
            try:
                target[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                problems.append(f"{name}: is no valid YAML")
    return problems


def _told(error: Any) -> str:
    """Return a line about one of pydantic's findings."""
    place = [part for part in error["loc"] if part != "[key]"]
    path = "/".join(str(part) for part in place) or "the file"
    model: Any = Settings
    info: FieldInfo | None = None
    for part in place:
        info = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if info is None:
            break
        model = sections(info)
    meaning = (info.description or "") if info is not None else ""
    if error["type"] == "missing":
        return f"{path}: is missing. {meaning}".rstrip()
    if error["type"] == "extra_forbidden":
        section: Any = Settings
        for part in place[:-1]:
            section = sections(section.model_fields[part])
        return f"{path}: no such setting; known here: {', '.join(section.model_fields)}"
    if error["type"] == "string_pattern_mismatch":
        return f"{path}: {error['input']!r} must match {error['ctx']['pattern']}. {meaning}".rstrip()
    return f"{path}: {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def mebibytes(memory: str) -> int:
    """Return Cloud Run's `512Mi` or `2Gi` in MiB."""
    return int(memory[:-2]) * (1 if memory.endswith("Mi") else 1024)


def _cross_checks(config: Config) -> list[str]:
    problems = []
    name = config.names.service
    # The number has at most 13 digits, the longest prefix is the candidate's.
    if len(f"{CANDIDATE}---{name}-{'0' * 13}") > LABEL_LIMIT:
        problems.append(
            f"names/service: {name} is too long: {CANDIDATE}---{name}-PROJECTNUMBER must fit in {LABEL_LIMIT} "
            "characters"
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
    problems += _service_checks(config) + _database_checks(config)
    if config.settings.kms_key and f"/locations/{config.region}/" not in config.settings.kms_key:
        problems.append(f"kms_key: {config.settings.kms_key} is not in {config.region}, where everything lives")
    for place in ("service/network", "sql/network"):
        section, key = place.split("/")
        network = getattr(getattr(config.settings, section), key)
        if network and "/" in network and not ((config.network or ("", ""))[1]).startswith("projects/"):
            problems.append(f"{section}/subnet: a Shared VPC's subnet needs its full name: projects/HOST/regions/…")
    return problems


def _service_checks(config: Config) -> list[str]:
    problems, service = [], config.service
    if service.min_instances > service.max_instances:
        problems.append("service/min_instances: must not be more than service/max_instances")
    memory, least, most = mebibytes(service.memory), LEAST_MEMORY[service.cpu], MOST_MEMORY[service.cpu]
    if memory < 512:
        problems.append(f"service/memory: {service.memory}: the second generation of Cloud Run needs 512Mi")
    elif not least <= memory <= most:
        problems.append(
            f"service/memory: {service.memory} doesn't go with service/cpu {service.cpu}: Cloud Run takes {least}Mi to "
            f"{most}Mi with it"
        )
    if bool(service.network) != bool(service.subnet):
        problems.append("service/network and service/subnet: one needs the other")
    if service.egress == "all-traffic" and config.network is None:
        problems.append("service/egress: all-traffic needs service/network and service/subnet to send it through")
    if service.ingress != "all" and not config.settings.public_url:
        problems.append(
            f"service/ingress: {service.ingress} closes the run.app address: set public_url to the load balancer's "
            "(docs/deploy.md)"
        )
    clash = set(service.env) & set(MANAGED)
    problems += [f"service/env/{key}: is set by the deploy tool; use its own setting" for key in sorted(clash)]
    problems += [
        f"service/env/{key}: looks like a secret, and environment files hold none"
        for key in sorted(service.env)
        if any(word in key for word in ("PASSWORD", "SECRET", "PASSPHRASE", "PRIVATE_KEY", "ACCOUNT_JSON"))
        and key not in MANAGED
    ]
    return problems


def _database_checks(config: Config) -> list[str]:
    problems, sql, service = [], config.sql, config.service
    if sql.network and not sql.subnet and not service.subnet:
        problems.append("sql/subnet: is missing: with sql/network the service needs a subnet to reach it")
    if sql.tier.startswith("db-custom-"):
        cpus, size = (int(part) for part in sql.tier.split("-")[2:])
        if (cpus != 1 and cpus % 2) or not cpus * 922 <= size <= cpus * 6656 or size < 3840 or size % 256:
            problems.append(
                f"sql/tier: {sql.tier}: one or an even number of CPUs; 0.9 to 6.5 GB each, at least 3840 MB, in steps "
                "of 256 MB"
            )
    if not sql.flags.get("max_connections", "100").isdigit():
        problems.append("sql/flags/max_connections: must be a number")
        return problems
    used, allowed = config.connection_budget()
    if used > allowed:
        problems.append(
            f"sql/tier: {sql.tier} allows {allowed} connections (and {RESERVED} for its administrators), but"
            f" {service.max_instances} instances (and one during a release) with {service.workers} workers can open "
            f"{used};"
            " take a larger tier or fewer instances"
        )
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
    "HTTP2",
    "GOOGLE_CLOUD_PROJECT",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW",
    "READ_CONNECTIONS",
)
