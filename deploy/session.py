"""What every command works with: the configuration, gcloud, the secrets of this process, and where to print."""

from __future__ import annotations

import getpass
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deploy import commands, smoke
from deploy.config import Config, load
from deploy.gcloud import Gcloud
from deploy.secrets import Vault


class Stop(Exception):
    """The command can't go on; the message says why and what to do."""


@dataclass
class Session:
    """One run of the tool."""

    config: Config
    gcloud: Gcloud
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

    def number(self) -> str:
        """Return the project's number."""
        return str(self.gcloud.json(commands.project_describe(self.config))["projectNumber"])

    def token(self, audience: str) -> str:
        """Return an identity token of who deploys: MLFLOW_TRACKING_TOKEN, or gcloud's."""
        given = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
        return self.gcloud.redactor.know(
            given or self.gcloud.run(commands.identity_token(self.config, audience)).strip()
        )

    def smoke(self, url: str, public_url: str) -> None:
        """Run the smoke test. Raises SmokeError."""
        told = (lambda _: None) if self.out.is_terminal else self.say
        smoke.run(url, public_url, self.token(public_url), os.environ, self.gcloud.redactor, told)


def open_session(environment: str) -> Session:
    """Return a session for an environment's name or file. Raises ConfigError."""
    config = load(environment, os.environ)
    gcloud = Gcloud(os.environ, float(os.environ.get("GATEHOUSE_DEPLOY_PATIENCE", "150")))
    return Session(config, gcloud, Vault(config, gcloud), Console(highlight=False))


def oauth_client(path: str) -> tuple[str, str, list[str]]:
    """Read the file that the Google console gives: (client id, secret, redirect URIs). Raises Stop."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        client = data.get("web") or data["installed"]
        return str(client["client_id"]), str(client["client_secret"]), list(client.get("redirect_uris", []))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Stop(
            f"{path}: is not an OAuth client's JSON file ({type(error).__name__}). In the console, the client's page has «Download JSON»."
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
