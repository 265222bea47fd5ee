"""The Cloud Run job that upgrades or checks the database's schema, and what its exit code says."""

from __future__ import annotations

import time

from deploy import commands, service
from deploy.config import Config
from deploy.gcloud import Gcloud, GcloudError, classify

MIGRATE, CHECK = ("gatehouse", "migrate"), ("gatehouse", "migrate", "--check")

#: Exit codes of `gatehouse migrate` and `gatehouse migrate --check` (src/gatehouse/commands/migrate.py).
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


def argv(config: Config, image: str, database_version: str, arguments: tuple[str, ...]) -> commands.Argv:
    """Return the command that makes the job with an image and runs it."""
    return commands.job_run(config, service.job_flags(config, image, database_version), arguments)


def run(config: Config, gcloud: Gcloud, command: tuple[str, ...]) -> None:
    """Run the job and wait. Raises JobError with the exit code, GcloudError if it could not be run at all."""
    deadline, pause = time.monotonic() + gcloud.patience, 1.0
    while True:
        try:
            gcloud.write(command)
        except GcloudError as error:
            if "execution failed" not in error.message:
                raise
            code, message = _end(config, gcloud)
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


def _end(config: Config, gcloud: Gcloud) -> tuple[int, str]:
    """Return (exit code, message) of the job's newest execution."""
    runs = gcloud.json(commands.job_executions(config)) or []
    if not runs:
        return 0, "no execution"
    execution = runs[0]
    message = next(
        (c.get("message", "") for c in execution["status"].get("conditions", []) if c["type"] == "Completed"),
        "",
    )
    tasks = gcloud.json(commands.job_tasks(config, execution["metadata"]["name"])) or []
    code = next((t["status"].get("lastAttemptResult", {}).get("exitCode", 0) for t in tasks), 0)
    return int(code), message


def check(config: Config, gcloud: Gcloud, image: str, database_version: str) -> int:
    """Return what an image's `gatehouse migrate --check` says of the database, as its exit code."""
    try:
        run(config, gcloud, argv(config, image, database_version, CHECK))
    except JobError as error:
        if not error.code:
            raise
        return error.code
    return UP_TO_DATE
