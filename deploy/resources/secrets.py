"""The secrets: which there are, how each comes to be, and how a value travels without being seen."""

from __future__ import annotations

import base64
import os.path
import secrets
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deploy.cloud.google import Google
from deploy.config import ROOT, Config
from deploy.resources import database
from deploy.resources.base import LABELS, Argv, Difference, compare, joined, own_labels, p, setting

POLICY_PATH = "/etc/gatehouse/access/policy.yaml"
READER = "roles/secretmanager.secretAccessor"


@dataclass(frozen=True)
class Secret:
    """One secret: `key` ends its name; `setting` is the variable (or the file) in which the container gets it.

    `generate` makes a fresh value (None: a person gives it). `shell` prints one, for who runs the plan's commands by
    hand.
    """

    key: str
    setting: str
    what: str
    generate: Callable[[], str] | None
    shell: str


def _fernet() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


#: 32 characters out of 64: oauth2-proxy takes 16, 24 or 32 bytes, and no newline.
_COOKIE = "openssl rand -base64 24 | tr -d '\\n' | tr '+/' '-_'"

SECRETS: dict[str, Secret] = {
    secret.key: secret
    for secret in (
        Secret(
            "database-url",
            "BACKEND_STORE_URI",
            "database URL with its password",
            lambda: secrets.token_urlsafe(32),
            "",
        ),
        Secret(
            "oauth-client-secret",
            "OAUTH2_PROXY_CLIENT_SECRET",
            "OAuth client's secret",
            None,
            '(read -rsp "OAuth client secret: " s && printf %s "$s")',
        ),
        Secret(
            "cookie-secret",
            "OAUTH2_PROXY_COOKIE_SECRET",
            "session cookies' secret",
            lambda: secrets.token_urlsafe(24),
            _COOKIE,
        ),
        Secret(
            "kek-passphrase",
            "MLFLOW_CRYPTO_KEK_PASSPHRASE",
            "passphrase of MLflow's stored keys",
            lambda: secrets.token_urlsafe(32),
            "openssl rand -hex 32 | tr -d '\\n'",
        ),
        Secret(
            "webhook-key",
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
            "key of MLflow's webhook secrets",
            _fernet,
            "openssl rand -base64 32 | tr -d '\\n' | tr '+/' '-_'",
        ),
        Secret("access-policy", POLICY_PATH, "access policy", None, ""),
    )
}

#: What `rotate` can renew. The other two encrypt what is stored: a new value would make that unreadable.
ROTATABLE = {"cookie": "cookie-secret", "database": "database-url", "oauth": "oauth-client-secret"}

#: Kept by `destroy` as long as the data is, and deleted after it: what they open would else be lost before it is gone.
OF_THE_DATA = ("database-url", "kek-passphrase", "webhook-key")


def has(config: Config, key: str) -> bool:
    """Return whether an environment has a secret of this kind."""
    return key != "access-policy" or config.policy is not None


def wanted(config: Config) -> list[Secret]:
    """Return the secrets that this environment has."""
    return [secret for secret in SECRETS.values() if has(config, secret.key)]


@dataclass(frozen=True)
class Container:
    """A secret's settings; its values are its versions'."""

    location: str = setting(
        refuse="a secret can't be moved. Keep region as it is, or delete the secret (what it opens is lost) and apply "
        "again"
    )
    labels: dict[str, str] = setting(LABELS, name="label")


@dataclass
class Kept:
    """What is there of one secret."""

    answer: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=dict)
    #: The number of its newest version, and of the newest *enabled* one (0: none), where that was looked up.
    newest: int = 0
    enabled: int = 0

    @property
    def notes(self) -> dict[str, str]:
        """The secret's annotations."""
        found: dict[str, str] = self.answer.get("annotations", {})
        return found


def difference(config: Config, name: str, answer: dict[str, Any]) -> Difference:
    """Return what is to be changed of a secret's settings, and what isn't."""
    to_be = Container(config.region, config.labels)
    replicas = answer.get("replication", {}).get("userManaged", {}).get("replicas", [])
    where = ", ".join(sorted(replica["location"] for replica in replicas)) or "everywhere"
    return compare(f"secret {name}", to_be, Container(where, own_labels(answer.get("labels"))))


def _url(config: Config, name: str = "") -> str:
    return f"https://secretmanager.googleapis.com/v1/projects/{config.project}/secrets" + (f"/{name}" if name else "")


def look(config: Config, google: Google) -> dict[str, Kept]:
    """Return the environment's secrets that are there, by their key. Raises CloudError."""
    names = {config.names.secret(key): key for key in SECRETS}
    listed = google.pages(_url(config), "secrets", filter=f"name:{config.names.secrets}-", pageSize="250")
    short = {item["name"].rsplit("/", 1)[1]: item for item in listed}
    return {key: Kept(short[name]) for name, key in names.items() if name in short}


def look_at_policy(config: Config, google: Google, name: str) -> dict[str, Any]:
    """Return who may read a secret. Raises CloudError."""
    answer: dict[str, Any] = google.get(f"{_url(config, name)}:getIamPolicy", **{"options.requestedPolicyVersion": "3"})
    return answer


def versions(config: Config, google: Google, name: str) -> list[dict[str, Any]]:
    """Return a secret's versions, the newest first. Raises CloudError."""
    return list(google.pages(f"{_url(config, name)}/versions", "versions", pageSize="100"))


def take_versions(kept: Kept, listed: list[dict[str, Any]]) -> None:
    """Note the newest versions of a secret."""
    states = {int(item["name"].rsplit("/", 1)[1]): item["state"] for item in listed}
    kept.newest = max(states, default=0)
    kept.enabled = max((number for number, state in states.items() if state == "ENABLED"), default=0)


def read(config: Config, google: Google, name: str, version: str) -> str:
    """Return a version's value, which no error or log line will then hold. Raises CloudError."""
    answer = google.get(f"{_url(config, name)}/versions/{version}:access")
    return google.redactor.know(base64.b64decode(answer["payload"]["data"]).decode())


# Commands
# -------------------------------------------------------------------------------------------------------------------------


def create(config: Config, name: str, annotations: Mapping[str, str]) -> Argv:
    """Make a secret with its first version, in the region alone."""
    return (
        "gcloud", "secrets", "create", name, "--data-file=-", "--replication-policy=user-managed", f"--locations={config.region}",
        f"--labels={joined(config.labels)}",
        *((f"--set-annotations={joined(annotations)}",) if annotations else ()), p(config),
    )  # fmt: skip


def update(config: Config, name: str, flags: Argv) -> Argv:
    """Change a secret's settings."""
    return ("gcloud", "secrets", "update", name, *flags, p(config))


def annotate(config: Config, name: str, annotations: Mapping[str, str]) -> Argv:
    """Note what a secret's value goes with."""
    return update(config, name, (f"--update-annotations={joined(annotations)}",))


def add(config: Config, name: str) -> Argv:
    """Add a version."""
    return ("gcloud", "secrets", "versions", "add", name, "--data-file=-", p(config))


def disable(config: Config, name: str, version: str) -> Argv:
    """Disable a version."""
    return ("gcloud", "secrets", "versions", "disable", version, f"--secret={name}", "--quiet", p(config))


def bind(config: Config, name: str) -> Argv:
    """Let the service's account read a secret."""
    return (
        "gcloud", "secrets", "add-iam-policy-binding", name, f"--member=serviceAccount:{config.account}", f"--role={READER}", p(config),
    )  # fmt: skip


def delete(config: Config, name: str) -> Argv:
    """Delete a secret with every version."""
    return ("gcloud", "secrets", "delete", name, "--quiet", p(config))


# Values
# ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """What a command gets on its standard input:

    a value for a secret, gcloud's flags with the database's password, a file, or a document.
    """

    kind: Literal["value", "password", "file", "document"]
    key: str


class Vault:
    """Holds values for as long as this process lives. Safe to use from several threads."""

    def __init__(self, config: Config, google: Google) -> None:
        self._config, self._google = config, google
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()

    def give(self, key: str, value: str) -> None:
        """Take a value that a person gave."""
        with self._lock:
            self._values[key] = self._google.redactor.know(value)

    def value(self, key: str) -> str:
        """Return the value for a new version: given, or generated now."""
        know = self._google.redactor.know
        with self._lock:
            if key not in self._values:
                if key == "access-policy":
                    self._values[key] = self._config.policy or ""
                elif key == "database-url":
                    self._values[key] = know(database_url(self._config, know(secrets.token_urlsafe(32))))
                else:
                    generate = SECRETS[key].generate
                    if generate is None:
                        raise RuntimeError(f"nobody gave the {SECRETS[key].what}")
                    self._values[key] = know(generate())
            return self._values[key]

    def known(self, key: str) -> bool:
        """Return whether this process has a value."""
        return key in self._values

    def stored(self, key: str, version: str) -> str:
        """Return the value of a version that exists. Raises CloudError."""
        return read(self._config, self._google, self._config.names.secret(key), version)

    def input(self, source: Input) -> str | Path:
        """Return what a command reads: a text, or a file relative to the top of the repository. Raises CloudError."""
        if source.kind == "value":
            return self.value(source.key)
        if source.kind == "file":
            return Path(source.key)
        # The password of the URL that the container gets: this run's, or the newest that is stored.
        url = self._values.get("database-url") or self.stored("database-url", "latest")
        return f"--password: {self._google.redactor.know(password_of(url))}\n"


def database_url(config: Config, password: str) -> str:
    """Return the database's URL, through Cloud Run's socket."""
    return f"postgresql+psycopg2://{database.USER}:{password}@/{database.DATABASE}?host=/cloudsql/{config.connection}"


def password_of(url: str) -> str:
    """Return the password in a URL of `database_url`."""
    return url.split("://", 1)[1].split("@", 1)[0].split(":", 1)[1]


def shell(config: Config, source: Input) -> str:
    """Return the shell words that make what a command reads, for who runs the plan's commands by hand."""
    if source.kind == "file":
        return f"cat {shlex.quote(source.key)}"
    if source.kind == "password":
        name = config.names.secret("database-url")
        read_it = f"gcloud secrets versions access latest --secret={name} --project={config.project}"
        return f"printf -- '--password: %s\\n' \"$({read_it} | sed -E 's#^[^:]*://[^:]*:([^@]*)@.*#\\1#')\""
    if source.key == "database-url":
        return f"printf '{database_url(config, '%s')}' \"$(openssl rand -hex 32)\""
    if source.key == "access-policy":
        return f"cat {shlex.quote(os.path.relpath(str(config.policy_file), ROOT))}"
    return SECRETS[source.key].shell
