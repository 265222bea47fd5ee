"""Gatehouse's own settings: the one table of them, and the check that reports all problems at once.

``OAUTH2_PROXY_*`` are oauth2-proxy's own settings and ``MLFLOW_*`` are MLflow's own: verdicts.py has what becomes of
each. Secrets come as ``NAME`` or as a file named by ``NAME_FILE``. This module imports the standard library alone: it
runs before anything else does.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from gatehouse.artifacts.addresses import Addresses
    from gatehouse.identities.issuers import Issuer

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
DATABASE_SCHEMES = ("postgresql", "postgresql+psycopg2", "postgres", "sqlite")
#: The driver that is installed. From version 2.1 on, SQLAlchemy takes a plain "postgresql" for another one.
POSTGRESQL = "postgresql+psycopg2"
ARTIFACT_SCHEMES = ("gs", "s3", "wasbs", "abfss", "file")
REPLICA = "MLFLOW_READ_REPLICA_BACKEND_STORE_URI"
#: Beyond these, memory and database connections grow for machines that mostly wait.
MOST_AUTOMATIC_WORKERS = 4
#: A Unix socket's path may have this many bytes on Linux (unix(7)).
SOCKET_PATH_BYTES = 107


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with one setting, and how to mend it.

    ``of_machine`` tells that the setting is well formed, and that the machine can't meet it.
    """

    name: str
    what: str
    fix: str
    of_machine: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.what}\n    fix: {self.fix}"


class SettingsError(Exception):
    """At least one setting can't be used; ``problems`` lists all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class Invalid(ValueError):
    """Raised by a parser: what is wrong with the value, and the fix."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True)
class Number:
    """A parser of whole numbers from ``low`` to ``high``."""

    low: int
    high: int

    def __call__(self, value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", value) or not self.low <= int(value) <= self.high:
            raise Invalid(
                f"is {value!r}, which isn't a whole number from {self.low} to {self.high}", f"for example {self.low}"
            )
        return int(value)


def parse_number(low: int, high: int) -> Number:
    """Return a parser of whole numbers from ``low`` to ``high``."""
    return Number(low, high)


def parse_workers(value: str) -> int:
    """Return the number of processes; 0 for ``auto``, which ``load`` makes a number."""
    if value == "auto":
        return 0
    if not re.fullmatch(r"[1-9]|[1-5][0-9]|6[0-4]", value):
        raise Invalid(f"is {value!r}, which is neither auto nor a whole number from 1 to 64", "leave it unset")
    return int(value)


def parse_listener(value: str) -> tuple[str, int]:
    """Return host and port that something listens on; a port alone is on every interface."""
    host, colon, port = value.rpartition(":")
    bracketed = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]", host)
    well_formed = re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535
    if not well_formed or (colon and not bracketed and not re.fullmatch(r"[A-Za-z0-9.-]*", host)):
        raise Invalid(f"is {value!r}, which is neither a port nor HOST:PORT", "for example 9090 or 127.0.0.1:9090")
    return (bracketed[1] if bracketed else host or "0.0.0.0"), int(port)  # noqa: S104 - a container's port


def parse_hops(value: str) -> int:
    """Return the number of front ends; -1 for ``auto``, which ``load`` makes a number."""
    if value == "auto":
        return -1
    if not re.fullmatch(r"[0-9]", value):
        raise Invalid(f"is {value!r}, which is neither auto nor a whole number from 0 to 9", "count the front ends")
    return int(value)


def available_cpus() -> int:
    """Return how many CPUs this process may use:

    its affinity, and its container's quota (cgroup v2 cpu.max, v1), rounded.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = period = ""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    if not quota:
        with contextlib.suppress(OSError):
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
    if quota.isdigit() and period.isdigit() and int(period):
        cpus = min(cpus, round(int(quota) / int(period)))
    return max(cpus, 1)


def parse_public_url(value: str) -> str:
    """Return the origin (scheme, host and port, no trailing slash) that browsers and clients use."""
    example = "give the address that people type, for example https://mlflow-dev-123456789.europe-west1.run.app"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as error:
        raise Invalid(f"is {value!r}, which isn't a URL ({error})", example) from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise Invalid(f"is {value!r}, which isn't an http or https URL", example)
    if url.path not in {"", "/"} or url.query or url.fragment or url.username is not None:
        raise Invalid(f"is {value!r}; it may have a scheme, a host and a port only", example)
    if not re.fullmatch(r"[A-Za-z0-9.-]+|[0-9a-fA-F:.]+", url.hostname):
        raise Invalid(f"is {value!r}, whose host has characters that no host name has", example)
    if url.scheme == "http" and url.hostname not in LOOPBACK_HOSTS:
        raise Invalid(
            f"is {value!r}: session cookies and tokens would cross the network in clear",
            "use https://, as the platform's front end does; http is for localhost alone",
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    default_port = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{host}" + (f":{port}" if port not in {None, default_port} else "")


def _split(value: str, example: str) -> SplitResult:
    try:
        return urlsplit(value)
    except ValueError:
        # The value may hold a password, so it isn't repeated.
        raise Invalid("isn't a URL", example) from None


#: What libpq takes in a URL (its documentation, "Parameter Key Words"); None: any value.
LIBPQ_PARAMETERS: Mapping[str, str | None] = {
    "host": None, "hostaddr": None, "port": None, "dbname": None, "user": None, "password": None, "passfile": None,
    "client_encoding": None, "options": None, "application_name": None, "fallback_application_name": None,
    "sslcert": None,
    "sslkey": None, "sslpassword": None, "sslrootcert": None, "sslcrl": None, "sslcrldir": None, "requirepeer": None,
    "krbsrvname": None, "gsslib": None, "service": None, "require_auth": None,
    "connect_timeout": "[0-9]+", "keepalives_idle": "[0-9]+", "keepalives_interval": "[0-9]+",
    "keepalives_count": "[0-9]+",
    "tcp_user_timeout": "[0-9]+", "keepalives": "[01]", "sslcompression": "[01]", "sslsni": "[01]",
    "gssdelegation": "[01]",
    "ssl_min_protocol_version": r"TLSv1(?:\.[123])?", "ssl_max_protocol_version": r"TLSv1(?:\.[123])?",
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "channel_binding": "disable|prefer|require",
    "gssencmode": "disable|prefer|require",
    "sslcertmode": "disable|allow|require",
    "sslnegotiation": "postgres|direct",
    "target_session_attrs": "any|read-write|read-only|primary|standby|prefer-standby",
    "load_balance_hosts": "disable|random",
}  # fmt: skip
#: Ours: a token of the platform's stands for the password (gatehouse.database.tokens).
OWN_PARAMETERS: Mapping[str, str | None] = {"gatehouse_auth": "google"}
#: Parameters of other programs, and what to write instead.
FOREIGN_PARAMETERS: Mapping[str, str] = {
    "pgbouncer": "remove it, it is Prisma's",
    "connection_limit": "remove it, it is Prisma's; MLFLOW_SQLALCHEMYSTORE_POOL_SIZE is the setting",
    "pool_timeout": "remove it, it is Prisma's",
    "schema": "options=-csearch_path%3DSCHEMA",
    "currentSchema": "options=-csearch_path%3DSCHEMA",
    "search_path": "options=-csearch_path%3DSCHEMA",
    "ssl": "sslmode=require, or sslmode=verify-full with sslrootcert=/FILE",
    "charset": "client_encoding=utf8",
    "statement_timeout": "remove it; DATABASE_TIMEOUT is the setting",
}


def check_parameters(query: str) -> None:
    """Check a database URL's parameters: libpq refuses those of other programs, or waits for ever with a misspelt one.

    Raises:
        Invalid: with all that are wrong. Values may be secret, and are shown where libpq has a list of them alone.
    """
    wrong, fixes = [], []
    known = {**LIBPQ_PARAMETERS, **OWN_PARAMETERS}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            wrong.append(f"{name}=, which libpq doesn't know")
            near = get_close_matches(name, known, 1)
            fixes.append(f"instead of {name}: " + FOREIGN_PARAMETERS.get(name, near[0] + "=…" if near else "nothing"))
        elif (allowed := known[name]) and not re.fullmatch(allowed, value):
            wrong.append(f"{name}={value[:40]!r}")
            near = get_close_matches(value, allowed.split("|"), 1) if "|" in allowed else []
            fixes.append(f"{name}={near[0]}" if near else f"{name} takes {allowed}")
    if wrong:
        raise Invalid(f"has {', and '.join(wrong)}", "; ".join(fixes))


def parse_database(value: str) -> str:
    """Return the SQLAlchemy URL of the tracking database, with the driver that is installed."""
    example = (
        "postgresql://USER:PASSWORD@HOST/DATABASE, or for Cloud SQL "
        "postgresql+psycopg2://USER:PASSWORD@/DATABASE?host=/cloudsql/PROJECT:REGION:INSTANCE"
    )
    url = _split(value, example)
    if url.scheme not in DATABASE_SCHEMES:
        raise Invalid(
            f"has the scheme {url.scheme!r}; Gatehouse serves PostgreSQL and SQLite",
            f"use {example}",
        )
    if url.scheme == "sqlite":
        if not value.startswith("sqlite:////"):
            raise Invalid("isn't an absolute path to an SQLite file", "use sqlite:////ABSOLUTE/PATH.db (four slashes)")
        return value
    if not url.path.strip("/"):
        raise Invalid("names no database", f"use {example}")
    try:
        url.port  # noqa: B018 - the property checks the number
    except ValueError:
        raise Invalid(
            "has a port that isn't a number, most likely because the password has '/', '#', '?' or '@' in it",
            "percent-encode the password: python3 -c 'import urllib.parse; print(urllib.parse.quote(input(), "
            'safe=""))\'',
        ) from None
    check_parameters(url.query)
    if "gatehouse_auth=" in url.query and url.password:
        raise Invalid(
            "has a password, and gatehouse_auth, by which a token stands for it",
            "take one of the two out; the user is the account's address without .gserviceaccount.com",
        )
    socket_folder = re.search(r"(?:^|&)host=([^&]*)", url.query)
    if socket_folder and unquote(socket_folder[1]).startswith("/"):
        path = unquote(socket_folder[1]) + "/.s.PGSQL.5432"
        if len(path.encode()) > SOCKET_PATH_BYTES:
            raise Invalid(
                f"leads to a socket path of {len(path.encode())} bytes; the system allows {SOCKET_PATH_BYTES}",
                "mount the database's socket under a shorter folder",
            )
    return POSTGRESQL + value[len(url.scheme) :]


def parse_artifacts(value: str) -> str:
    """Return the URL of the artifact store that the server writes to; a plain path becomes ``file://``."""
    example = (
        f"use one of {', '.join(scheme + '://…' for scheme in ARTIFACT_SCHEMES)}, for example gs://my-bucket/mlflow"
    )
    if value.startswith("/"):
        return "file://" + value.rstrip("/")
    url = _split(value, example)
    if url.scheme not in ARTIFACT_SCHEMES:
        raise Invalid(f"has the scheme {url.scheme!r}", example)
    if url.scheme == "file":
        if url.netloc or not url.path.startswith("/"):
            raise Invalid(f"is {value!r}, which isn't an absolute path", "use file:///ABSOLUTE/PATH (three slashes)")
        return value.rstrip("/")
    if not url.netloc:
        raise Invalid(f"is {value!r}, which names no bucket", example)
    if url.scheme in {"wasbs", "abfss"}:
        kind = {"wasbs": "blob", "abfss": "dfs"}[url.scheme]
        if not re.fullmatch(rf"[^@:]+@[^@.:]+\.{kind}\.[A-Za-z0-9.-]+", url.netloc):
            raise Invalid(
                "names no container, account and service",
                f"use {url.scheme}://CONTAINER@ACCOUNT.{kind}.core.windows.net/PATH",
            )
    elif "@" in url.netloc:
        # It may be a password, so it isn't repeated.
        raise Invalid("has an @ before its bucket", f"{example}; credentials are settings of their own")
    return value.rstrip("/")


def parse_client_artifacts(value: str) -> str:
    """Return the artifact root that clients write to themselves, with their own credentials."""
    root = parse_artifacts(value)
    if root.startswith("file:"):
        raise Invalid(
            f"is {value!r}: clients would write to a folder of their own machine",
            "set ARTIFACTS_DESTINATION instead, so that the server stores the artifacts",
        )
    return root


def parse_locations(value: str) -> tuple[str, ...]:
    """Return the places beside its own store that the server may touch."""
    from gatehouse.artifacts.addresses import Foreign, parse_allowed

    try:
        return parse_allowed(value)
    except Foreign as error:
        raise Invalid(str(error), "list folders of buckets, for example gs://team/models,s3://other/mlflow") from None


def parse_issuers(value: str) -> tuple[Issuer, ...]:
    """Return who vouches for machines."""
    from gatehouse.identities import issuers

    try:
        return issuers.parse(value)
    except issuers.BadIssuer as error:
        raise Invalid(str(error), issuers.EXAMPLE) from None


def parse_file(value: str) -> Path:
    """Return the path of a file that can be read now."""
    path = Path(value)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise Invalid(f"is {value!r}: {error.strerror}", "mount the file, or correct the path") from None
    return path


def parse_environment_name(value: str) -> str:
    """Return the name of the deployment's environment, as the access policy's sections use it."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", value):
        raise Invalid(f"is {value!r}", "use small letters, digits and hyphens, for example production")
    return value


def parse_service_account(value: str) -> str:
    """Return the JSON text of a Google service account's key from its base64 form."""
    fix = "encode the key file: base64 -w0 key.json"
    try:
        key = json.loads(base64.b64decode("".join(value.split()), validate=True))
    except (binascii.Error, ValueError):
        raise Invalid("isn't the base64 form of a JSON file", fix) from None
    missing = [
        name
        for name in ("type", "client_email", "private_key", "token_uri")
        if not (isinstance(key, dict) and key.get(name))
    ]
    if missing:
        raise Invalid(f"decodes to JSON without {', '.join(missing)}", f"take a service account's key; {fix}")
    return json.dumps(key)


def parse_switch(value: str) -> bool:
    """Return whether something is on."""
    if value not in {"true", "false"}:
        raise Invalid(f"is {value!r}", "use true or false")
    return value == "true"


def parse_names(value: str) -> tuple[str, ...]:
    """Return the names of environment variables in a list."""
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
    if wrong:
        what = f"has {wrong[0]!r}, which isn't the name of a variable"
        raise Invalid(what, "list names, separated by commas, for example OPENAI_API_KEY")
    return names


def parse_text(value: str) -> str:
    """Return the value unchanged."""
    return value


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    ``default`` is the text that stands for an unset variable; None means that there is no value then.
    """

    name: str
    parse: Callable[[str], Any]
    help: str
    default: str | None = None
    secret: bool = False


TABLE: tuple[Setting, ...] = (
    Setting("PORT", parse_number(1, 65535), "the public port", "4180"),
    Setting(
        "PUBLIC_URL",
        parse_public_url,
        "the address that people use; by default the origin of the proxy's redirect URL",
    ),
    Setting("BACKEND_STORE_URI", parse_database, "the database: `postgresql://…` or `sqlite:////…`", secret=True),
    Setting(
        "ARTIFACTS_DESTINATION",
        parse_artifacts,
        "where the server stores artifacts: `gs://…`, `s3://…`, `wasbs://…`, `abfss://…`, `file:///…`",
    ),
    Setting(
        "DEFAULT_ARTIFACT_ROOT",
        parse_client_artifacts,
        "instead of it: the bucket that clients write to themselves",
    ),
    Setting(
        "ALLOWED_ARTIFACT_LOCATIONS",
        parse_locations,
        "further places that the server may read and write, such as `gs://team/models`, separated by commas",
        "",
    ),
    Setting(
        "DIRECT_TRANSFERS",
        parse_switch,
        "`true`: large artifacts go straight between clients and the bucket, by signed URLs",
        "false",
    ),
    Setting(
        "ARTIFACT_TIMEOUT",
        parse_number(1, 3600),
        "seconds in which a client must move 64 KiB of an artifact; a slower one is cut off",
        "60",
    ),
    Setting("OAUTH_PROXY_CONFIG", parse_file, "a complete oauth2-proxy file, used instead of the template"),
    Setting(
        "LOGIN_CLIENT_ID", parse_text, "the provider's public client with which people run `mlflow-gatehouse login`"
    ),
    Setting(
        "GCLOUD_TOKENS",
        parse_switch,
        "`false`: with Google, no tokens of people's gcloud, whose audience is the same for every server in the world",
        "true",
    ),
    Setting(
        "MACHINE_ISSUERS",
        parse_issuers,
        "who vouches for machines without an e-mail address: `NAME=ISSUER; audience=…`, separated by commas "
        "([docs/machines.md](docs/machines.md))",
        "",
    ),
    Setting(
        "API_KEYS",
        parse_switch,
        "`true`: people make keys for programs that can't renew a token "
        "([docs/machines.md](docs/machines.md#keys-for-what-cant-renew-a-token))",
        "false",
    ),
    Setting("ACCESS_POLICY", parse_file, "a YAML file that says who may read, write and administer"),
    Setting("AUDIT_READS", parse_switch, "`true`: the audit log has a line for each read too", "false"),
    Setting("APP_ENV", parse_environment_name, "which section of the access policy applies", "development"),
    Setting(
        "WORKERS",
        parse_workers,
        "processes that serve MLflow; `auto`: one for each CPU, four at most, and one on SQLite",
        "auto",
    ),
    Setting(
        "FAST_READS",
        parse_switch,
        "`false`: MLflow's own handlers answer all reads; on PostgreSQL, Gatehouse answers the most frequent ones "
        "itself",
        "true",
    ),
    Setting("FAST_WRITES", parse_switch, "`false`: the same for what training scripts send most", "true"),
    Setting(
        "READ_CONNECTIONS",
        parse_number(1, 64),
        "connections to PostgreSQL that each worker has for these, beside MLflow's two pools",
        "4",
    ),
    Setting(
        "METRICS",
        parse_listener,
        "the port, or `HOST:PORT`, where Prometheus finds `/metrics` ([docs/monitoring.md](docs/monitoring.md)); "
        "never the public one",
    ),
    Setting(
        "TRUSTED_HOPS",
        parse_hops,
        "front ends before the public port that append to X-Forwarded-For, for the audit log's client address; "
        "`auto`: 1 on Cloud Run, else 0",
        "auto",
    ),
    Setting(
        "GOOGLE_ACCOUNT_JSON_BASE64",
        parse_service_account,
        "a Google service account's key for the artifact store, base64",
        secret=True,
    ),
    Setting(
        "HTTP2",
        parse_switch,
        "`true`: the public port speaks HTTP/2 in cleartext too, which lifts Cloud Run's limit of 32 MiB",
        "false",
    ),
    Setting(
        "DATABASE_TIMEOUT",
        parse_number(1, 3600),
        "seconds that a request may keep the database busy; its query is ended then, as when its client has gone",
        "60",
    ),
    Setting(
        "JOB_ENVIRONMENT",
        parse_names,
        "variables that MLflow's jobs get beside the database's, by name: a model provider's key, for example",
    ),
    Setting("STARTUP_TIMEOUT", parse_number(1, 3600), "seconds until MLflow must be ready", "120"),
    Setting(
        "SHUTDOWN_TIMEOUT",
        parse_number(1, 3600),
        "seconds that requests get to finish after TERM; Cloud Run allows 10 in all",
        "8",
    ),
)

#: Secrets of oauth2-proxy, of MLflow and of artifact stores that may come as NAME_FILE too.
PASSED_SECRETS: tuple[str, ...] = (
    "OAUTH2_PROXY_CLIENT_ID",
    "OAUTH2_PROXY_CLIENT_SECRET",
    "OAUTH2_PROXY_COOKIE_SECRET",
    "OAUTH2_PROXY_REDIS_PASSWORD",
    "OAUTH2_PROXY_REDIS_SENTINEL_PASSWORD",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_CLIENT_SECRET",
)
SECRETS: tuple[str, ...] = (*(setting.name for setting in TABLE if setting.secret), *PASSED_SECRETS)


@dataclass(frozen=True, repr=False)
class Settings:
    """The parsed settings; its repr never shows a secret."""

    port: int
    public_url: str | None
    backend_store_uri: str
    artifacts_destination: str | None
    default_artifact_root: str | None
    allowed_artifact_locations: tuple[str, ...]
    direct_transfers: bool
    artifact_timeout: int
    oauth_proxy_config: Path | None
    login_client_id: str | None
    gcloud_tokens: bool
    machine_issuers: tuple[Issuer, ...]
    api_keys: bool
    access_policy: Path | None
    audit_reads: bool
    app_env: str
    workers: int
    fast_reads: bool
    fast_writes: bool
    read_connections: int
    metrics: tuple[str, int] | None
    trusted_hops: int
    google_account_json_base64: str | None
    http2: bool
    database_timeout: int
    job_environment: tuple[str, ...]
    startup_timeout: int
    shutdown_timeout: int
    #: MLflow's own setting MLFLOW_READ_REPLICA_BACKEND_STORE_URI.
    read_replica: str | None = field(default=None, repr=False)

    def addresses(self) -> Addresses:
        """Return the places whose artifacts the server may touch."""
        from gatehouse.artifacts.addresses import Addresses

        own = self.artifacts_destination or self.default_artifact_root
        return Addresses(str(own), self.allowed_artifact_locations, self.public_url)

    def __repr__(self) -> str:
        secret = {setting.name.lower() for setting in TABLE if setting.secret}
        shown = (
            f"{f.name}={'[REDACTED]' if f.name in secret else getattr(self, f.name)!r}" for f in fields(self) if f.repr
        )
        return f"Settings({', '.join(shown)})"


def read_secret_files(environment: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Replace each ``NAME_FILE`` of a secret by ``NAME`` with the file's content, less one trailing newline.

    Files are read once, here: on a live-mounted volume a later read could see another version.
    """
    resolved = dict(environment)
    problems = []
    for name in SECRETS:
        path = resolved.pop(f"{name}_FILE", "")
        if not path:
            continue
        if resolved.get(name):
            problems.append(Problem(name, f"and {name}_FILE are both set", "unset one of them"))
            continue
        try:
            content = Path(path).read_bytes()
            resolved[name] = re.sub(r"\r?\n\Z", "", content.decode())
        except OSError as error:
            problems.append(
                Problem(f"{name}_FILE", f"is {path!r}: {error.strerror}", "mount the file, or correct the path")
            )
        except UnicodeDecodeError:
            problems.append(Problem(f"{name}_FILE", f"is {path!r}, which isn't text", "store the secret as UTF-8 text"))
        else:
            if not resolved[name]:
                problems.append(Problem(f"{name}_FILE", f"is {path!r}, which is empty", "store the secret in it"))
    for name in SECRETS:
        if re.search(r"[\x00-\x1f\x7f]", resolved.get(name, "")):
            problems.append(
                Problem(
                    name,
                    "has a line break or another control character in it",
                    'store it without: printf %s "$SECRET" instead of echo',
                )
            )
    return resolved, problems


def parse_table(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Parse each setting of the table; an empty variable counts as unset.

    Returns: the values by lower-case name (None for what couldn't be parsed), and the problems.
    """
    values: dict[str, Any] = {}
    problems = []
    for setting in TABLE:
        text = environment.get(setting.name) or setting.default
        values[setting.name.lower()] = None
        if text is None:
            continue
        try:
            values[setting.name.lower()] = setting.parse(text)
        except Invalid as error:
            problems.append(Problem(setting.name, error.what, error.fix))
    return values, problems


def load(environment: Mapping[str, str]) -> Settings:
    """Return the settings of an environment whose secrets are resolved already.

    Raises:
        SettingsError: with every problem found.
    """
    _, settings, problems = read(environment)
    if settings is None:
        raise SettingsError(problems)
    return settings


def read(environment: Mapping[str, str]) -> tuple[dict[str, Any], Settings | None, list[Problem]]:
    """Parse and check the settings of an environment whose secrets are resolved already.

    Returns:
        The values by lower-case name (None for what couldn't be parsed), the settings unless something is wrong with
        them, and every problem found.
    """
    values, problems = parse_table(environment)
    if not environment.get("BACKEND_STORE_URI"):
        problems.append(
            Problem(
                "BACKEND_STORE_URI",
                "is not set",
                "give the database, for example postgresql://USER:PASSWORD@HOST/DATABASE, or a file with it in "
                "BACKEND_STORE_URI_FILE",
            )
        )
    destination, root = environment.get("ARTIFACTS_DESTINATION"), environment.get("DEFAULT_ARTIFACT_ROOT")
    if destination and root:
        problems.append(
            Problem(
                "ARTIFACTS_DESTINATION",
                "and DEFAULT_ARTIFACT_ROOT are both set",
                "keep ARTIFACTS_DESTINATION if the server stores the artifacts, DEFAULT_ARTIFACT_ROOT if clients "
                "write to the bucket themselves",
            )
        )
    elif not destination and not root:
        problems.append(
            Problem(
                "ARTIFACTS_DESTINATION",
                "is not set, and neither is DEFAULT_ARTIFACT_ROOT",
                "give the artifact store, for example ARTIFACTS_DESTINATION=gs://my-bucket/mlflow",
            )
        )
    for name in ("artifacts_destination", "default_artifact_root"):
        problems += check_place(name.upper(), values[name])
    if values["direct_transfers"] and (root or str(values["artifacts_destination"]).startswith("file:")):
        what = "clients write to the bucket themselves" if root else "a folder of the server has no signed URLs"
        problems.append(
            Problem("DIRECT_TRANSFERS", f"is true, but {what}", "unset it, or set ARTIFACTS_DESTINATION to a bucket")
        )
    if environment.get("GOOGLE_ACCOUNT_JSON_BASE64") and environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        problems.append(
            Problem(
                "GOOGLE_ACCOUNT_JSON_BASE64",
                "and GOOGLE_APPLICATION_CREDENTIALS are both set",
                "unset one of them",
            )
        )
    problems += check_pool(environment)
    replica, replica_problems = parse_replica(environment, values["backend_store_uri"])
    problems += replica_problems
    if problems:
        return values, None, problems
    values["job_environment"] = values["job_environment"] or ()
    if not values["workers"]:
        on_sqlite = values["backend_store_uri"].startswith("sqlite:")
        values["workers"] = 1 if on_sqlite else min(available_cpus(), MOST_AUTOMATIC_WORKERS)
    if values["trusted_hops"] < 0:
        # Cloud Run's front end appends the client's address, oauth2-proxy that of the front end.
        values["trusted_hops"] = 1 if environment.get("K_SERVICE") else 0
    return values, Settings(**values, read_replica=replica), []


def parse_replica(environment: Mapping[str, str], primary: str | None) -> tuple[str | None, list[Problem]]:
    """Return the database's read replica, if MLflow's setting names one, and what is wrong with it."""
    value = environment.get(REPLICA)
    if not value:
        return None, []
    try:
        replica = parse_database(value)
    except Invalid as error:
        return None, [Problem(REPLICA, error.what, error.fix)]
    if replica.startswith("sqlite:") or (primary or POSTGRESQL).startswith("sqlite:"):
        return None, [Problem(REPLICA, "is set, and SQLite has no replicas", "unset it, or use PostgreSQL for both")]
    if replica == primary:
        return None, [Problem(REPLICA, "is BACKEND_STORE_URI itself", "unset it, or name the replica")]
    return replica, []


def connections_needed(workers: int) -> int:
    """Return how many database connections the workers use at once:

    each of a worker's threads one, and one a second.
    """
    from gatehouse.dispatch.dispatcher import LEAST_QUICK_THREADS, QUICK_THREADS

    return workers * (max(LEAST_QUICK_THREADS, QUICK_THREADS // workers) + 1)


def check_place(name: str, place: str | None) -> list[Problem]:
    """Check that everybody reads the address of the server's own store in the same way."""
    from gatehouse.artifacts.addresses import Addresses, Foreign

    try:
        if place:
            Addresses(place)
    except Foreign as error:
        return [Problem(name, f"is {place!r}, but {error}", "use an address without such characters")]
    return []


def check_pool(environment: Mapping[str, str]) -> list[Problem]:
    """Check that MLflow's pools of database connections are large enough for a worker's threads.

    Some of MLflow's calls (log-batch) hold one connection while they take a second. With no more connections than
    threads, all threads can have their first and wait for their second until SQLAlchemy gives up after 30 s.
    """
    size, overflow = "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"
    if not environment.get(size) and not environment.get(overflow):
        return []
    from gatehouse.dispatch.dispatcher import QUICK_THREADS

    try:
        # SQLAlchemy's defaults (QueuePool); MLflow reads 0 as unset.
        total = (int(environment.get(size) or 0) or 5) + (int(environment.get(overflow) or 0) or 10)
    except ValueError:
        return [Problem(size, f"or {overflow} isn't a whole number", "for example 4 and 1")]
    if total > QUICK_THREADS:
        return []
    what = f"and {overflow} allow {total} connections; {QUICK_THREADS} threads of a worker would wait for each other"
    return [Problem(size, what, f"allow at least {QUICK_THREADS + 1}: {size}={QUICK_THREADS} and {overflow}=1")]
