"""The image: its repository, how it is built from a commit, and by which name it is deployed.

What is built is a clean export of the commit (`git archive`) of the files that the Dockerfile copies, and nothing else:
no file that merely lies in the working copy can get into an image or into Cloud Build's bucket.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cloud.google import Google
from deploy.config import ROOT, Config
from deploy.resources.base import (
    LABELS,
    Argv,
    Difference,
    compare,
    joined,
    own_labels,
    p,
    setting,
    switch,
)

#: What the Dockerfile can see that matters, and so what an image is built from.
INPUTS = (
    "Dockerfile",
    ".dockerignore",
    "start.sh",
    "oauth2_proxy.cfg.tmpl",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements/server.txt",
    "proxy",
    "listener",
    "src",
    "client",
)
#: Cloud Run's machines, whatever this one is.
PLATFORM = "linux/amd64"
WRITER, READER = "roles/artifactregistry.writer", "roles/artifactregistry.reader"
#: Cloud Build writes logs to a bucket of one's own only as this (Google's "Store build logs").
BUILD_BUCKET_ROLE = "roles/storage.admin"
BUILT = ("cloudbuild", "docker")


class SourceError(Exception):
    """The sources here can't be built as they are; the message says why and what to do."""


@dataclass(frozen=True)
class Repository:
    """The settings of the image repository."""

    format: str = setting(refuse="another kind of repository has this name: set names/repository")
    immutable_tags: bool = setting(switch("--immutable-tags", ""))
    labels: dict[str, str] = setting(LABELS, name="label")


def difference(config: Config, answer: dict[str, Any]) -> Difference:
    """Return what is to be changed of the repository, and what isn't."""
    to_be = Repository("DOCKER", True, config.labels)
    is_ = Repository(
        answer.get("format", ""),
        answer.get("dockerConfig", {}).get("immutableTags", False),
        own_labels(answer.get("labels")),
    )
    return compare(f"image repository {config.names.repository}", to_be, is_)


# Which image
# ----------------------------------------------------------------------------------------------------------------------


def _git(*arguments: str, root: Path) -> str:
    try:
        done = subprocess.run(("git", *arguments), cwd=root, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        raise SourceError(f"image: git is needed to build an image from a commit ({error.strerror})") from error
    if done.returncode:
        raise SourceError(
            f"image: {root} is no git checkout ({done.stderr.strip().splitlines()[-1]}). An image is built from a "
            "commit: clone the"
            " repository, or name an image that exists (image: HOST/PROJECT/REPOSITORY/NAME@sha256:…)"
        )
    return done.stdout


def commit(root: Path = ROOT) -> str:
    """Return the commit that is checked out. Raises SourceError."""
    return _git("rev-parse", "HEAD", root=root).strip()


def content_tag(root: Path = ROOT) -> str:
    """Return `src-` and 16 hexadecimal digits over names, modes and contents of the image's sources in the commit.

    Raises SourceError.
    """
    listed = _git("ls-tree", "-r", "HEAD", "--", *INPUTS, root=root)
    return f"src-{hashlib.sha256(listed.encode()).hexdigest()[:16]}"


def uncommitted(root: Path = ROOT) -> list[str]:
    """Return the image's sources that differ from the commit. Raises SourceError."""
    listed = _git("status", "--porcelain", "--untracked-files=all", "--", *INPUTS, root=root)
    return [line[3:] for line in listed.splitlines()]


def wanted(config: Config, root: Path = ROOT) -> str:
    """Return the full name of the image to deploy; empty where only `promote` says which. Raises SourceError."""
    how = config.settings.image
    if how == "promoted":
        return ""
    return f"{config.repository}:{content_tag(root)}" if how in BUILT else how


def archive(image: str) -> str:
    """Return the file that the image's sources are exported to, relative to the top of the repository."""
    return f"deploy/{image.rsplit(':', 1)[1]}.tar.gz"


# Looks
# ----------------------------------------------------------------------------------------------------------------------------


def _registry(config: Config) -> str:
    host = "https://artifactregistry.googleapis.com/v1"
    return f"{host}/projects/{config.project}/locations/{config.region}/repositories/{config.names.repository}"


def look(config: Config, google: Google) -> dict[str, Any] | None:
    """Return the repository as the API shows it; None if there is none. Raises CloudError."""
    answer: dict[str, Any] | None = google.find(_registry(config))
    return answer


def look_at_policy(config: Config, google: Google) -> dict[str, Any]:
    """Return who may do what in the repository. Raises CloudError."""
    answer: dict[str, Any] = google.get(f"{_registry(config)}:getIamPolicy", **{"options.requestedPolicyVersion": "3"})
    return answer


@dataclass(frozen=True)
class Place:
    """Where an image of Artifact Registry is: `LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/PACKAGE`."""

    location: str
    project: str
    repository: str
    package: str

    @property
    def url(self) -> str:
        """The API's URL of the repository."""
        host = "https://artifactregistry.googleapis.com/v1"
        return f"{host}/projects/{self.project}/locations/{self.location}/repositories/{self.repository}"


def without_tag(image: str) -> str:
    """Return an image's name without its tag or digest."""
    name = image.partition("@")[0]
    head, _, last = name.rpartition("/")
    return f"{head}/{last.partition(':')[0]}"


def place(image: str) -> Place | None:
    """Return where an image is; None if that is not in Artifact Registry."""
    found = re.fullmatch(r"([a-z0-9-]+)-docker\.pkg\.dev/([^/]+)/([^/]+)/(.+)", without_tag(image))
    return Place(found[1], found[2], found[3], found[4].replace("/", "%2F")) if found else None


def digest(google: Google, image: str) -> str:
    """Return an image's digest; empty if it is not there, or not in Artifact Registry. Raises CloudError."""
    if "@" in image:
        return image.partition("@")[2]
    where = place(image)
    if where is None:
        return ""
    answer = google.find(f"{where.url}/packages/{where.package}/tags/{image.rsplit(':', 1)[1]}")
    return str(answer["version"]).rsplit("/", 1)[1] if answer else ""


def policy_of(google: Google, where: Place) -> dict[str, Any]:
    """Return who may do what in a repository. Raises CloudError."""
    answer: dict[str, Any] = google.get(f"{where.url}:getIamPolicy", **{"options.requestedPolicyVersion": "3"})
    return answer


def bind_reader(where: Place, member: str) -> Argv:
    """Let somebody pull from a repository."""
    return (
        "gcloud", "artifacts", "repositories", "add-iam-policy-binding", where.repository, f"--location={where.location}",
        f"--member={member}", f"--role={READER}", f"--project={where.project}",
    )  # fmt: skip


# Commands
# -------------------------------------------------------------------------------------------------------------------------


def users(config: Config, google: Google) -> list[str]:
    """Return who else serves images of this environment's repository: other services here, other projects' Cloud Run. Raises CloudError."""
    url = f"https://run.googleapis.com/apis/serving.knative.dev/v1/namespaces/{config.project}/services"
    found = []
    for item in google.get(url).get("items", []):
        held = [container["image"] for container in item["spec"]["template"]["spec"]["containers"]]
        if item["metadata"]["name"] != config.names.service and any(h.startswith(config.repository) for h in held):
            found.append(f"the service {item['metadata']['name']}")
    for binding in look_at_policy(config, google).get("bindings", []):
        if binding["role"] == READER:
            found += [member for member in binding["members"] if not member.startswith("deleted:")]
    return found


def create(config: Config) -> Argv:
    """A tag never moves: what was tested is what serves."""
    return (
        "gcloud", "artifacts", "repositories", "create", config.names.repository, "--repository-format=docker",
        f"--location={config.region}", "--immutable-tags",
        f"--labels={joined(config.labels)}", p(config),
    )  # fmt: skip


def update(config: Config, flags: Argv) -> Argv:
    """Change the repository's settings."""
    return (
        "gcloud", "artifacts", "repositories", "update", config.names.repository, f"--location={config.region}", *flags, p(config),
    )  # fmt: skip


def bind(config: Config, account: str) -> Argv:
    """Let an account push images."""
    return (
        "gcloud", "artifacts", "repositories", "add-iam-policy-binding", config.names.repository, f"--location={config.region}",
        f"--member=serviceAccount:{account}", f"--role={WRITER}", p(config),
    )  # fmt: skip


def delete(config: Config) -> Argv:
    """Delete the repository with every image."""
    return (
        "gcloud", "artifacts", "repositories", "delete", config.names.repository, f"--location={config.region}", "--quiet", p(config),
    )  # fmt: skip


def export(image: str, of: str) -> Argv:
    """Export the image's sources from a commit, and nothing that is not in it."""
    return ("git", "archive", "--format=tar.gz", f"--output={archive(image)}", of, *INPUTS)


def build(config: Config, image: str) -> Argv:
    """Build in the region, as an account of the build's own, with source and log in a bucket of one's own.

    The log is not followed: who isn't a Viewer of the whole project could not, and gcloud would fail after a build that
    didn't.
    """
    names, bucket = config.names, config.names.build_bucket
    return (
        "gcloud", "builds", "submit", archive(image), f"--tag={image}", f"--region={config.region}",
        f"--service-account=projects/{config.project}/serviceAccounts/{config.address(names.build_account)}",
        f"--gcs-source-staging-dir=gs://{bucket}/source", f"--gcs-log-dir=gs://{bucket}/log", "--suppress-logs", "--timeout=1800", p(config),
    )  # fmt: skip


def docker_build(image: str) -> Argv:
    """Build here, for Cloud Run's kind of machine; the exported sources come in on standard input."""
    return ("docker", "build", f"--platform={PLATFORM}", f"--tag={image}", "-")


def docker_push(image: str) -> Argv:
    """Push what was built here."""
    return ("docker", "push", image)


def log_of_failed_build(config: Config, google: Google) -> str:
    """Return the end of the newest failed build's log, and where the whole of it is; empty if there is none.

    Raises CloudError.
    """
    url = f"https://cloudbuild.googleapis.com/v1/projects/{config.project}/locations/{config.region}/builds"
    builds = google.get(url, pageSize="20").get("builds", [])
    mine = [b for b in builds if b.get("logsBucket", "").startswith(f"gs://{config.names.build_bucket}")]
    if not mine or mine[0].get("status") == "SUCCESS":
        return ""
    bucket, _, folder = mine[0]["logsBucket"].removeprefix("gs://").partition("/")
    name = f"{folder}/log-{mine[0]['id']}.txt".lstrip("/").replace("/", "%2F")
    text = google.raw("GET", f"https://storage.googleapis.com/storage/v1/b/{bucket}/o/{name}", alt="media")
    lines = text.decode("utf-8", "replace").splitlines()[-40:]
    return google.redactor.clean("\n".join([*lines, f"The whole log: {mine[0].get('logUrl', '')}"]))
