"""What every command works with: the configuration, the cloud, the secrets of this process, and where to print."""

from __future__ import annotations

import getpass
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deploy import denied, smoke
from deploy.cloud.errors import CloudError
from deploy.cloud.gcloud import Gcloud
from deploy.cloud.google import Google
from deploy.config import ROOT, Config, load
from deploy.exit_codes import DENIED, FAILED
from deploy.observe import State, observe
from deploy.resources import images, project
from deploy.resources.secrets import Vault


class Stop(Exception):
    """The command can't go on; the message says why and what to do, `code` is the process's exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Session:
    """One run of the tool."""

    config: Config
    gcloud: Gcloud
    google: Google
    vault: Vault
    out: Console

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line, without wrapping (a command must stay one line to be copied) and without markup."""
        self.out.print(
            self.gcloud.redactor.clean(text),
            style=style or None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def observe(self, image: str = "") -> State:
        """Look at everything that belongs to the environment. Raises CloudError."""
        return observe(self.config, self.google, image)

    def number(self) -> str:
        """Return the project's number. Raises CloudError."""
        return project.number(self.config, self.google)

    def image(self) -> str:
        """Return the image that the configuration asks for; empty where only `promote` says which. Raises Stop."""
        try:
            return images.wanted(self.config)
        except images.SourceError as error:
            raise Stop(str(error)) from None

    def token(self, audience: str) -> str:
        """Return an identity token of who deploys: MLFLOW_TRACKING_TOKEN, an account's, or gcloud's.

        Raises CloudError.
        """
        know = self.gcloud.redactor.know
        if given := os.environ.get("MLFLOW_TRACKING_TOKEN", ""):
            return know(given)
        account = self.config.settings.smoke.impersonate
        if not account:
            return know(self.gcloud.run(("gcloud", "auth", "print-identity-token"), plain=True).strip())
        # Straight from the API that makes it: gcloud would ask for an access token in the account's name first, a right
        # that nobody needs.
        url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{account}:generateIdToken"
        try:
            answer = self.google.call("POST", url, {"audience": audience, "includeEmail": True})
        except CloudError as error:
            if error.kind not in {"denied", "missing"}:
                raise
            raise CloudError(
                error.what, "denied", f"no identity token of {account}: {error.message}",
                f"Who deploys needs roles/iam.serviceAccountOpenIdTokenCreator on it:\n  gcloud iam service-accounts"
                f" add-iam-policy-binding {account} --member=user:YOU@YOUR.DOMAIN "
                "--role=roles/iam.serviceAccountOpenIdTokenCreator",
            ) from None  # fmt: skip
        return know(str(answer["token"]))

    def stopped(self, error: Exception, after: str) -> Stop:
        """Return the end of a command that failed on its way: the error with its way out, and what there is after it."""
        told = denied.explain(self.config, self.google, error) if isinstance(error, CloudError) else str(error)
        lacks = isinstance(error, CloudError) and error.kind == "denied"
        return Stop(f"{told}\n{after}", DENIED if lacks else FAILED)

    def smoke(self, url: str, public_url: str) -> None:
        """Run the smoke test. Raises SmokeError, CloudError."""
        told = (lambda _: None) if self.out.is_terminal else self.say
        smoke.run(url, public_url, self.token(public_url), os.environ, self.gcloud.redactor, told)


def open_session(environment: str) -> Session:
    """Return a session for an environment's name or file. Raises ConfigError."""
    return session_of(load(environment, os.environ))


def session_of(config: Config) -> Session:
    """Return a session for an environment."""
    patience = float(os.environ.get("GATEHOUSE_DEPLOY_PATIENCE", "150"))
    gcloud = Gcloud(os.environ, ROOT, patience)
    google = Google(os.environ, gcloud.access_token, gcloud.redactor, patience, config.settings.quota_project or "")
    gcloud.token = google.token
    if config.settings.quota_project:
        gcloud.environ["CLOUDSDK_BILLING_QUOTA_PROJECT"] = config.settings.quota_project
    return Session(config, gcloud, google, Vault(config, google), Console(highlight=False))


def oauth_client(path: str) -> tuple[str, str, list[str]]:
    """Read the file that the Google console gives: (client id, secret, redirect URIs). Raises Stop."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        client = data.get("web") or data["installed"]
        return str(client["client_id"]), str(client["client_secret"]), list(client.get("redirect_uris", []))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Stop(
            f"{path}: is not an OAuth client's JSON file ({type(error).__name__}). In the console, the client's page "
            "has «Download JSON»."
        ) from None


def ask(question: str, *, hidden: bool = False) -> str:
    """Ask a person; a secret is not shown. Raises Stop where nobody can answer."""
    if not sys.stdin.isatty() and not hidden:
        print(question, end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            raise Stop(f"nobody to answer «{question.strip()}»: pass --oauth-client FILE and --yes")
        return line.strip()
    try:
        return (getpass.getpass(question) if hidden and sys.stdin.isatty() else input(question)).strip()
    except EOFError:
        raise Stop(f"nobody to answer «{question.strip()}»: pass --oauth-client FILE and --yes") from None
