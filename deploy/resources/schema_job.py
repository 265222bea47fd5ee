"""The Cloud Run job that upgrades or checks the database's schema, and what its exit code says."""

from __future__ import annotations

import time
from typing import Any

from deploy.cloud.errors import CloudError
from deploy.cloud.gcloud import Gcloud, GcloudError, classify
from deploy.cloud.google import Google
from deploy.config import Config
from deploy.resources.base import Argv, joined, p

MIGRATE, CHECK = ("gatehouse", "migrate"), ("gatehouse", "migrate", "--check")
#: Prints what `counts` reads.
COUNT = (*CHECK, "--count")

#: Exit codes of `gatehouse migrate` and `gatehouse migrate --check`.
UP_TO_DATE, NEEDS_UPGRADE, UNREACHABLE, NEWER = 0, 65, 69, 76
MEANING = {
    NEEDS_UPGRADE: "the schema is older than this release needs",
    UNREACHABLE: "the database can't be reached or refuses the password",
    NEWER: "the schema is newer than this release knows",
}


class JobError(RuntimeError):
    """The job ended with an exit code other than 0 (`code`; 0 if it did not get as far as that)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def flags(config: Config, image: str, database_version: str, **more: str) -> Argv:
    """Return what any job of this environment is given: the same image, and no secret but the database's. `more` are further settings."""
    secret = f"--set-secrets=BACKEND_STORE_URI={config.names.secret('database-url')}:{database_version}"
    network = config.network
    key = config.settings.kms_key
    return (
        f"--image={image}",
        f"--service-account={config.account}",
        f"--set-cloudsql-instances={config.connection}",
        secret,
        f"--set-env-vars={joined({'APP_ENV': config.environment} | more)}",
        "--memory=1Gi",
        f"--labels={joined(config.labels)}",
        *((f"--key={key}",) if key else ()),
        *(
            (f"--network={network[0]}", f"--subnet={network[1]}", f"--vpc-egress={config.service.egress}")
            if network
            else ()
        ),
    )


def argv(config: Config, image: str, database_version: str, arguments: tuple[str, ...], name: str = "") -> Argv:
    """Make or change the schema job (or another of the name), run it, and wait for its end."""
    return (
        "gcloud", "run", "jobs", "deploy", name or config.names.job, *flags(config, image, database_version), f"--args={','.join(arguments)}",
        "--max-retries=0", "--task-timeout=1800", "--execute-now", "--wait", f"--region={config.region}", p(config),
    )  # fmt: skip


def delete(config: Config, name: str = "") -> Argv:
    """Delete a job with its executions."""
    return (
        "gcloud",
        "run",
        "jobs",
        "delete",
        name or config.names.job,
        "--quiet",
        f"--region={config.region}",
        p(config),
    )


def base(config: Config) -> str:
    """Return Cloud Run's API of jobs."""
    return f"https://{config.region}-run.googleapis.com/apis/run.googleapis.com/v1/namespaces/{config.project}"


def look(config: Config, google: Google, name: str = "") -> dict[str, Any] | None:
    """Return a job as the API shows it; None if there is none. Raises CloudError."""
    answer: dict[str, Any] | None = google.find(f"{base(config)}/jobs/{name or config.names.job}")
    return answer


def executions(config: Config, google: Google, name: str = "") -> list[dict[str, Any]]:
    """Return a job's newest execution, in a list; an empty one if it never ran. Raises CloudError."""
    label = f"run.googleapis.com/job = {name or config.names.job}"
    listed = google.get(f"{base(config)}/executions", labelSelector=label).get("items", [])
    return sorted(listed, key=lambda run: str(run["metadata"]["creationTimestamp"]), reverse=True)[:1]


def run(config: Config, gcloud: Gcloud, google: Google, command: Argv, name: str = "") -> None:
    """Run the job (of the name) and wait. Raises JobError with the exit code, GcloudError if it could not be run at all."""
    deadline, pause = time.monotonic() + gcloud.patience, 1.0
    while True:
        try:
            gcloud.write(command)
        except GcloudError as error:
            if "execution failed" not in error.message:
                raise
            code, message = _end(config, google, name)
            # Rights that were given a moment ago are not known everywhere yet: the container did not even start.
            if classify(message) == "later" and time.monotonic() + pause < deadline:
                time.sleep(pause)
                pause = min(pause * 2, 15)
                continue
            told = MEANING.get(code, message)
            raise JobError(
                code,
                f"the schema job failed: {told} (exit code {code})" if code else f"the schema job failed: {message}",
            ) from error
        return


def _end(config: Config, google: Google, name: str = "") -> tuple[int, str]:
    """Return (exit code, message) of the job's newest execution."""
    runs = executions(config, google, name)
    if not runs:
        return 0, "no execution"
    conditions = runs[0]["status"].get("conditions", [])
    message = next((c.get("message", "") for c in conditions if c["type"] == "Completed"), "")
    label = f"run.googleapis.com/execution = {runs[0]['metadata']['name']}"
    try:
        tasks = google.get(f"{base(config)}/tasks", labelSelector=label).get("items", [])
    except CloudError:
        tasks = []
    code = next((t["status"].get("lastAttemptResult", {}).get("exitCode", 0) for t in tasks), 0)
    return int(code), str(message)


def check(config: Config, gcloud: Gcloud, google: Google, image: str, database_version: str) -> int:
    """Return what an image's `gatehouse migrate --check` says of the database, as its exit code."""
    try:
        run(config, gcloud, google, argv(config, image, database_version, CHECK))
    except JobError as error:
        if not error.code:
            raise
        return error.code
    return UP_TO_DATE


def counts(config: Config, google: Google, name: str, patience: float) -> dict[str, Any]:
    """Return what the newest execution of a job counted: the `schema`'s revision, and `rows` by table.

    Its line reaches the log a few seconds after it was written.

    Raises:
        JobError: when it isn't there after `patience` seconds.
        CloudError: when the log can't be read.
    """
    execution = executions(config, google, name)[0]["metadata"]["name"]
    body = {
        "resourceNames": [f"projects/{config.project}"],
        "filter": f'resource.type="cloud_run_job" AND labels."run.googleapis.com/execution_name"="{execution}"'
        ' AND jsonPayload.message="counted"',
        "pageSize": 1,
    }
    deadline, pause = time.monotonic() + patience, 0.5
    while True:
        answer = google.call("POST", "https://logging.googleapis.com/v2/entries:list", body)
        for entry in answer.get("entries", []):
            found: dict[str, Any] = entry["jsonPayload"]
            return found
        if time.monotonic() + pause > deadline:
            raise JobError(
                0,
                f"{execution} counted, and its line is not in the log after {patience:.0f} s: run the same command again",
            )
        time.sleep(pause)
        pause = min(pause * 2, 10)
