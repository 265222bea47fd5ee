"""Running gcloud, for what changes something: the very lines that `plan` prints, and its errors in words that help.

A secret goes in through standard input, never through an argument, and no text that comes out (an error, a log line)
still holds one. gcloud's own log files are switched off, because they quote arguments. Several gclouds at a time would
share one credential database, which locks ("database is locked"): each gets the token of `deploy.cloud.google` instead,
in a file that only this user can read.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deploy.cloud import record
from deploy.cloud.errors import CloudError, Kind, Redactor
from deploy.cloud.rights import ROLES

#: What every gcloud of ours runs with: no prompt, no log file (it quotes arguments), no request logging, no surprise.
SETTINGS = {
    "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "1",
    "CLOUDSDK_CORE_SHOULD_PROMPT_TO_ENABLE_API": "false",
    "CLOUDSDK_CORE_LOG_HTTP": "false",
    "CLOUDSDK_CORE_VERBOSITY": "warning",
    "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
    "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
}

#: What passes by itself: rights and accounts that are not known everywhere yet, two writers, busy instances, quotas per
#: minute.
_LATER = re.compile(
    r"concurrent policy changes|Permission denied on secret|another operation was already in progress|ABORTED|"
    r"Service account \S+ does not exist|RESOURCE_EXHAUSTED.*per minute|Quota exceeded for quota metric.*per minute|"
    r"currently unavailable|UNAVAILABLE|Internal error encountered|Conflict for resource|database is locked|"
    r"(HTTPError|status|code)\W{1,3}(429|500|502|503|504)\b"
)

TOKEN_LIFE_S = 2400  # a token that a command starts with: gcloud can't renew it, and the longest command waits for an hour's operation

Argv = tuple[str, ...]


class GcloudError(CloudError):
    """A gcloud command failed; `argv` is the command."""

    def __init__(self, argv: Sequence[str], kind: Kind, message: str, fix: str = "", permission: str = "") -> None:
        super().__init__(f"{' '.join(argv[:5])} …", kind, message, fix, permission)
        self.argv = tuple(argv)


class Gcloud:
    """Runs gcloud commands.

    Args:
        environ: the environment to run in; SETTINGS are laid over it.
        cwd: the directory that the commands' paths are relative to.
        patience: seconds for which a write is tried again when the reason passes by itself.
        token: gives an access token, so that gcloud need not open its credential database. None lets gcloud look for
        itself.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        cwd: Path,
        patience: float = 150,
        redactor: Redactor | None = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.environ = {key: value for key, value in environ.items() if not key.startswith("DEPLOY_")} | SETTINGS
        self.cwd, self.patience, self.token = cwd, patience, token
        self.redactor = redactor or Redactor()
        self._lock, self._folder = threading.Lock(), ""

    def run(
        self, argv: Sequence[str], stdin: str | Path | None = None, *, timeout: float = 3900, plain: bool = False
    ) -> str:
        """Run one command and return its output. `stdin` is a text or a file; `plain` leaves the token out.

        Raises GcloudError.
        """
        environ = self.environ
        if self.token is not None and argv[0] == "gcloud" and not plain:
            environ = environ | {"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": self._token_file(self.token())}
        text = stdin if isinstance(stdin, str) else None
        try:
            with open(self.cwd / stdin if isinstance(stdin, Path) else os.devnull, "rb") as file:  # noqa: PTH123
                done = subprocess.run(
                    list(argv),
                    **({"input": text} if text is not None else {"stdin": file}),
                    capture_output=True,
                    text=True,
                    env=environ,
                    cwd=self.cwd,
                    timeout=timeout,
                    check=False,
                )
        except FileNotFoundError as error:
            fix = (
                "Install the Google Cloud CLI, or put it on PATH." if argv[0] == "gcloud" else f"Put {argv[0]} on PATH."
            )
            raise GcloudError(argv, "other", f"{argv[0]}: no such program", fix) from error
        except subprocess.TimeoutExpired as error:
            raise GcloudError(
                argv, "other", f"no answer within {timeout:.0f} s", "Run the same command again."
            ) from error
        record.write(self.environ, self.redactor, {"argv": list(argv), "code": done.returncode})
        if done.returncode:
            raise self._error(argv, done.stderr)
        return done.stdout

    def write(self, argv: Sequence[str], stdin: str | Path | None = None) -> str:
        """Run a command that changes something, again and again while what stops it passes by itself."""
        deadline, pause = time.monotonic() + self.patience, 1.0
        while True:
            try:
                return self.run(argv, stdin)
            except GcloudError as error:
                if error.kind not in {"later", "disabled"} or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 15)

    def access_token(self) -> tuple[str, datetime]:
        """Return (access token, its end in UTC) of gcloud's active account. Raises GcloudError."""
        command = ("gcloud", "config", "config-helper", f"--min-expiry={TOKEN_LIFE_S}s", "--format=json(credential)")
        try:
            told: dict[str, Any] = json.loads(self.run(command, plain=True))["credential"]
        except GcloudError as error:
            raise GcloudError(command, "denied", error.message, "Sign in: gcloud auth login") from None
        end = datetime.fromisoformat(told["token_expiry"].replace("Z", "+00:00"))
        return str(told["access_token"]), end.astimezone(timezone.utc)

    def _token_file(self, token: str) -> str:
        """Return a file with the token, readable for nobody else; it goes with this process."""
        with self._lock:
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix="gatehouse-deploy-")
                atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            path = Path(self._folder, "token")
            if not path.exists() or path.read_text(encoding="utf-8") != token:
                fresh = path.with_suffix(".new")
                with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(token)
                fresh.replace(path)
            return str(path)

    def _error(self, argv: Sequence[str], stderr: str) -> GcloudError:
        text = self.redactor.clean(stderr)
        lines = [
            line for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "- '@type'", "  "))
        ]
        first = next((i for i, line in enumerate(lines) if line.startswith("ERROR")), 0)
        message = "\n".join(lines[first : first + 4]) or f"{argv[0]} failed without a word"
        message = re.sub(r" ?This command is authenticated with an access token from .*", "", message)
        kind = classify(text)
        permission = permission_in(text) if kind == "denied" else ""
        return GcloudError(argv, kind, message, advice(argv, text), permission)


def classify(text: str) -> Kind:
    """Return what kind of error gcloud's text tells of: it prints the API's code and typed details beside the words."""
    if "SERVICE_DISABLED" in text or "has not been used in project" in text:
        return "disabled"
    if _LATER.search(text):
        return "later"
    if (
        re.search(r"Cannot find (service|job)|NOT_FOUND|not found|does not exist|HTTPError 404|\b404\b", text)
        and "or it may not exist" not in text
    ):
        return "missing"
    if re.search(r"PERMISSION_DENIED|does not have permission|not authorized|\b403\b|denied", text):
        return "denied"
    if re.search(r"ALREADY_EXISTS|already exists|is the subject of a conflict|\b409\b", text):
        return "exists"
    return "other"


def permission_in(text: str) -> str:
    """Return the permission that a refusal names, if it is one that the tool uses:

    no piece of an address is taken for one.
    """
    known = {permission.lower(): permission for permission in ROLES}
    words = re.findall(r"(?<![\w@.-])[A-Za-z]+(?:\.[A-Za-z]+){2,}(?![\w@-])", text)
    return next((known[word.lower()] for word in words if word.lower() in known), "")


def advice(argv: Sequence[str], text: str) -> str:
    """Return what to do about an error that has a way out of its own, as one or two lines; empty for the others."""
    project = next((a.partition("=")[2] for a in argv if a.startswith("--project=")), "PROJECT")
    if "Billing must be enabled" in text:
        return f"Link a billing account: https://console.cloud.google.com/billing/linkedaccount?project={project}"
    if "requireInvokerIam" in text:
        return (
            "The organisation forbids services without Cloud Run's own IAM check "
            "(constraints/run.managed.requireInvokerIam)."
            " Gatehouse's\n  proxy is the gate, so that check must be off: ask for an exception for the project "
            f"{project}."
        )
    if "run.allowedIngress" in text or "is not allowed by the organization policy" in text:
        return (
            "The organisation forbids this ingress (constraints/run.allowedIngress): set service/ingress to one that "
            "it allows, and public_url"
            " to the load balancer's address (docs/deploy.md)."
        )
    if "sql.restrictPublicIp" in text:
        return (
            "The organisation forbids public addresses of databases: set sql/network and sql/subnet in the "
            "environment's file."
        )
    if "gcp.resourceLocations" in text:
        return (
            "The organisation forbids this region (constraints/gcp.resourceLocations): set region to one that it "
            "allows."
        )
    if "bucket name is not available" in text or "bucket namespace" in text:
        return "Bucket names are shared by all of Google Cloud: set names/bucket in the environment's file."
    if "cannot reuse the name" in text:
        return "A deleted database server's name is free again after a week. Until then: names/sql in the environment's file, with another."
    if "tag immutability" in text or "immutable" in text.lower():
        return "The image was pushed meanwhile. Run the same command again: it will find it."
    kind = classify(text)
    if kind == "exists":
        return (
            "It came to be meanwhile (another run, another person?). Run the same command again: it continues from "
            "what exists."
        )
    if kind == "disabled":
        return (
            "An API was enabled a moment ago and is not known everywhere yet. Run the same command again in a few "
            "minutes."
        )
    return ""
