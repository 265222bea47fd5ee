"""Running gcloud: argument lists in, JSON out, and its errors in words that help.

A secret goes in through standard input, never through an argument, and no text that comes out (an error, a log line) still holds one:
`Redactor` knows every secret of this process. gcloud's own log files are switched off, because they quote arguments.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from deploy.commands import ROOT

Kind = Literal["missing", "denied", "disabled", "exists", "later", "other"]

#: A secret value in a text that people see.
REDACTED = "[REDACTED]"

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

#: The start of a permission → the role that has it, for who may not.
ROLES = {
    "serviceusage.": "roles/serviceusage.serviceUsageAdmin",
    "resourcemanager.projects.setIamPolicy": "roles/resourcemanager.projectIamAdmin",
    "resourcemanager.projects.getIamPolicy": "roles/resourcemanager.projectIamAdmin",
    "resourcemanager.": "roles/browser",
    "iam.serviceaccounts.actas": "roles/iam.serviceAccountUser",
    "iam.serviceaccounts.getopenidtoken": "roles/iam.serviceAccountOpenIdTokenCreator",
    "iam.serviceaccounts.getaccesstoken": "roles/iam.serviceAccountTokenCreator",
    "iam.": "roles/iam.serviceAccountAdmin",
    "secretmanager.": "roles/secretmanager.admin",
    "storage.": "roles/storage.admin",
    "cloudsql.": "roles/cloudsql.admin",
    "artifactregistry.": "roles/artifactregistry.admin",
    "cloudbuild.": "roles/cloudbuild.builds.editor",
    "run.": "roles/run.admin",
    "logging.": "roles/logging.viewer",
    "orgpolicy.": "roles/orgpolicy.policyViewer",
}

#: The command group → the start of the permissions that it needs, where the error names none.
GROUPS = {
    "services": "serviceusage.",
    "projects": "resourcemanager.projects.setIamPolicy",
    "iam": "iam.",
    "secrets": "secretmanager.",
    "storage": "storage.",
    "sql": "cloudsql.",
    "artifacts": "artifactregistry.",
    "builds": "cloudbuild.",
    "run": "run.",
    "logging": "logging.",
    "org-policies": "orgpolicy.",
}

_PERMISSION = re.compile(
    r"\b((?:serviceusage|resourcemanager|iam|secretmanager|storage|cloudsql|artifactregistry|cloudbuild|run|logging|orgpolicy)"
    r"\.[a-zA-Z]+\.[a-zA-Z]+)\b"
)

#: What passes by itself: rights and accounts that are not known everywhere yet, two writers, busy instances, quotas per minute.
_LATER = re.compile(
    r"concurrent policy changes|Permission denied on secret|another operation was already in progress|ABORTED|"
    r"Service account \S+ does not exist|RESOURCE_EXHAUSTED.*per minute|Quota exceeded for quota metric.*per minute|"
    r"currently unavailable|UNAVAILABLE|Internal error encountered|Conflict for resource"
)


class GcloudError(Exception):
    """A gcloud command failed. `kind` says how, `message` is gcloud's text without secrets, `fix` what to do."""

    def __init__(self, argv: Sequence[str], kind: Kind, message: str, fix: str = "") -> None:
        super().__init__(f"{message}\n{fix}".strip())
        self.argv, self.kind, self.message, self.fix = tuple(argv), kind, message, fix


class Redactor:
    """Knows the secrets of this process, and takes them out of texts."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._lock = threading.Lock()

    def know(self, value: str) -> str:
        """Remember a secret and return it."""
        if value:
            with self._lock:
                self._values.add(value)
        return value

    def clean(self, text: str) -> str:
        """Return the text without the secrets."""
        with self._lock:
            values = sorted(self._values, key=len, reverse=True)
        for value in values:
            text = text.replace(value, REDACTED)
        return text


class Gcloud:
    """Runs gcloud commands for one project.

    Args:
        environ: the environment to run in; SETTINGS are laid over it.
        patience: seconds for which a write is tried again when the reason passes by itself.
    """

    def __init__(self, environ: Mapping[str, str], patience: float = 150) -> None:
        self.environ = {key: value for key, value in environ.items() if not key.startswith("DEPLOY_")} | SETTINGS
        self.patience = patience
        self.redactor = Redactor()

    def run(self, argv: Sequence[str], stdin: str | None = None, *, timeout: float = 3900) -> str:
        """Run one command and return its output. Raises GcloudError."""
        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                env=self.environ,
                cwd=ROOT,
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
        if done.returncode:
            raise self._error(argv, done.stderr)
        return done.stdout

    def json(self, argv: Sequence[str]) -> Any:
        """Run a command that prints JSON."""
        return json.loads(self.run([*argv, "--format=json"]) or "null")

    def find(self, argv: Sequence[str]) -> Any:
        """Run a command that describes something; None if it does not exist."""
        try:
            return self.json(argv)
        except GcloudError as error:
            if error.kind == "missing":
                return None
            raise

    def write(self, argv: Sequence[str], stdin: str | None = None) -> str:
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

    def _error(self, argv: Sequence[str], stderr: str) -> GcloudError:
        text = self.redactor.clean(stderr)
        lines = [
            line for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "- '@type'", "  "))
        ]
        first = next((i for i, line in enumerate(lines) if line.startswith("ERROR")), 0)
        message = "\n".join(lines[first : first + 4]) or "gcloud failed without a word"
        message = re.sub(r" ?This command is authenticated with an access token from .*", "", message)
        kind = classify(text)
        return GcloudError(argv, kind, message, fix_for(argv, kind, text))


def classify(text: str) -> Kind:
    """Return what kind of error gcloud's text tells of."""
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


def role_for(argv: Sequence[str], text: str) -> tuple[str, str]:
    """Return (permission, role) that would have allowed a command; the permission may be empty."""
    found = _PERMISSION.search(re.sub(r"\(gcloud[^)]*\)", "", text))
    permission = found[1] if found else ""
    group = next((part for part in argv[1:] if part in GROUPS), "")
    wanted = (permission or GROUPS.get(group, "")).lower()
    role = next(
        (role for start, role in ROLES.items() if wanted.startswith(start.lower()) or start.lower() == wanted),
        "roles/owner",
    )
    return permission, role


def fix_for(argv: Sequence[str], kind: Kind, text: str) -> str:
    """Return what to do about an error, as one or two lines; empty where gcloud's own text is all there is."""
    project = next((a.partition("=")[2] for a in argv if a.startswith("--project=")), "PROJECT")
    if argv[1:3] in (("projects", "describe"), ("projects", "add-iam-policy-binding")):
        project = argv[3]
    if kind == "denied" and "buckets" in argv and "describe" in argv:
        return (
            "Either another project has a bucket of this name (names are shared by all of Google Cloud): set names/bucket in the environment's\n"
            f"  file. Or it is yours and you may not see it: you need roles/storage.admin on {project}."
        )
    if kind == "denied":
        permission, role = role_for(argv, text)
        told = f" ({permission})" if permission else ""
        return (
            f"Missing right{told}: whoever administers {project} can grant it with\n"
            f"  gcloud projects add-iam-policy-binding {project} --member=user:YOU@YOUR.DOMAIN --role={role} --condition=None"
        )
    if kind == "exists":
        return "It came to be meanwhile (another run, another person?). Run the same command again: it continues from what exists."
    if kind == "disabled":
        return "An API was enabled a moment ago and is not known everywhere yet. Run the same command again in a few minutes."
    if "Billing must be enabled" in text:
        return f"Link a billing account: https://console.cloud.google.com/billing/linkedaccount?project={project}"
    if "requireInvokerIam" in text:
        return (
            "The organisation forbids services without Cloud Run's own IAM check (constraints/run.managed.requireInvokerIam). Gatehouse's\n"
            f"  proxy is the gate, so that check must be off: ask for an exception for the project {project}."
        )
    if "sql.restrictPublicIp" in text:
        return "The organisation forbids public addresses of databases: set sql/network and sql/subnet in the environment's file."
    if "bucket name is not available" in text or "bucket namespace" in text:
        return "Bucket names are shared by all of Google Cloud: set names/bucket in the environment's file."
    if "tag immutability" in text or "immutable" in text.lower():
        return "The image was pushed meanwhile. Run the same command again: it will find it."
    return ""


def environment() -> dict[str, str]:
    """Return this process's environment."""
    return dict(os.environ)
