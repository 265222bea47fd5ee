"""The secrets: which there are, how each comes to be, and how a value travels without being seen."""

from __future__ import annotations

import base64
import os.path
import secrets
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from deploy import commands
from deploy.config import Config
from deploy.gcloud import Gcloud

USER, DATABASE = "mlflow", "mlflow"
POLICY_PATH = "/etc/gatehouse/access/policy.yaml"


@dataclass(frozen=True)
class Secret:
    """One secret: `key` ends its name; `setting` is the variable (or the file) in which the container gets it.

    `generate` makes a fresh value (None: a person gives it). `shell` prints one, for who runs the plan's commands by hand.
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

#: Kept by `destroy` as long as the data is.
OF_THE_DATA = ("database-url", "kek-passphrase", "webhook-key")


def wanted(config: Config) -> list[Secret]:
    """Return the secrets that this environment has."""
    return [secret for secret in SECRETS.values() if secret.key != "access-policy" or config.policy is not None]


@dataclass(frozen=True)
class Input:
    """What a command gets on its standard input: a value for a secret, or gcloud's flags with the database's password."""

    kind: Literal["value", "password"]
    key: str


class Vault:
    """Holds values for as long as this process lives. Safe to use from several threads."""

    def __init__(self, config: Config, gcloud: Gcloud) -> None:
        self._config, self._gcloud = config, gcloud
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()

    def give(self, key: str, value: str) -> None:
        """Take a value that a person gave."""
        with self._lock:
            self._values[key] = self._gcloud.redactor.know(value)

    def value(self, key: str) -> str:
        """Return the value for a new version: given, or generated now."""
        with self._lock:
            if key not in self._values:
                if key == "access-policy":
                    self._values[key] = self._config.policy or ""
                elif key == "database-url":
                    self._values[key] = database_url(
                        self._config, self._gcloud.redactor.know(secrets.token_urlsafe(32))
                    )
                else:
                    generate = SECRETS[key].generate
                    if generate is None:
                        raise RuntimeError(f"nobody gave the {SECRETS[key].what}")
                    self._values[key] = generate()
                if key != "access-policy":
                    self._gcloud.redactor.know(self._values[key])
            return self._values[key]

    def known(self, key: str) -> bool:
        """Return whether this process has a value."""
        return key in self._values

    def stored(self, key: str, version: str) -> str:
        """Return the value of a version from Secret Manager."""
        argv = commands.secret_access(self._config, self._config.names.secret(key), version)
        return self._gcloud.redactor.know(self._gcloud.run(argv))

    def input(self, source: Input, version: str = "latest") -> str:
        """Return what a command reads."""
        if source.kind == "value":
            return self.value(source.key)
        url = self._values.get("database-url") or self.stored("database-url", version)
        return f"--password: {self._gcloud.redactor.know(password_of(url))}\n"


def database_url(config: Config, password: str) -> str:
    """Return the database's URL, through Cloud Run's socket."""
    return f"postgresql+psycopg2://{USER}:{password}@/{DATABASE}?host=/cloudsql/{config.connection}"


def password_of(url: str) -> str:
    """Return the password in a URL of `database_url`."""
    return url.split("://", 1)[1].split("@", 1)[0].split(":", 1)[1]


def shell(config: Config, source: Input) -> str:
    """Return the shell words that make what a command reads, for who runs the plan's commands by hand."""
    if source.kind == "password":
        name = config.names.secret("database-url")
        read = f"gcloud secrets versions access latest --secret={name} --project={config.project}"
        return f"printf -- '--password: %s\\n' \"$({read} | sed -E 's#^[^:]*://[^:]*:([^@]*)@.*#\\1#')\""
    if source.key == "database-url":
        return f"printf '{database_url(config, '%s')}' \"$(openssl rand -hex 32)\""
    if source.key == "access-policy":
        return f"cat {shlex.quote(os.path.relpath(str(config.policy_file), commands.ROOT))}"
    return SECRETS[source.key].shell
