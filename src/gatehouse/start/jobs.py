"""MLflow's job runner, for those who switch it on with MLFLOW_SERVER_ENABLE_JOB_EXECUTION=true.

``mlflow server`` starts it beside its workers (mlflow/server/__init__.py, ``_run_server``); here the supervisor does,
with one difference: there is no HTTP address that a job could come in by without an identity, so jobs reach the stores
directly, as MLflow's own executor does. A job that calls a model through MLflow's gateway needs MLFLOW_GATEWAY_URI set
to an address that lets it in.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gatehouse.artifacts import jobs_guard
from gatehouse.start.plan import Program
from gatehouse.upstream import jobs, workspaces

if TYPE_CHECKING:
    from gatehouse.start.plan import ServerPlan


def wanted(environment: Mapping[str, str]) -> bool:
    """Return whether jobs are on."""
    return environment.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "").lower() in {"true", "1"}


def queue(run_directory: Path) -> Path:
    """Return the folder of the jobs' queue."""
    return run_directory / "jobs"


def configure(plan: ServerPlan) -> None:
    """Set where the queue lives; to be called before MLflow is imported."""
    if plan.jobs:
        queue(plan.run_directory).mkdir(mode=0o700)
        os.environ.update(jobs.queue_environment(queue(plan.run_directory)))


#: What a job's process reads of the container's environment: where it is, how it reaches others, and MLflow's own
#: settings. Not the credentials of stores and model providers: JOB_ENVIRONMENT names those that jobs need.
_KEPT = re.compile(
    r"PATH|HOME|TMPDIR|TZ|LANG|LC_[A-Z]+|PYTHON[A-Z]+|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
    r"|(?i:https?_proxy|no_proxy)|MLFLOW_[A-Z0-9_]+"
)
#: They decrypt the gateway's keys, sign webhooks and sessions: the server's alone.
_SERVERS_OWN = re.compile(r"MLFLOW_(CRYPTO_KEK_[A-Z_]+|WEBHOOK_SECRET_ENCRYPTION_KEY|FLASK_SERVER_SECRET_KEY)")


def runner(plan: ServerPlan, environment: Mapping[str, str]) -> Program:
    """Return the job runner, which starts a consumer for each kind of job; it ends by itself when this process does.

    Args:
        environment: MLflow's.
    """
    settings = plan.settings
    kept = {
        name: value
        for name, value in environment.items()
        if (_KEPT.fullmatch(name) and not _SERVERS_OWN.fullmatch(name)) or name in settings.job_environment
    }
    return Program(
        (sys.executable, "-m", jobs.runner_module(environment)),
        {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            **kept,
            **({workspaces.SWITCH: "true"} if plan.workspaces else {}),
            **jobs.runner_environment(settings.backend_store_uri, queue(plan.run_directory), os.getpid()),
            **jobs_guard.environment(
                plan.run_directory / "jobs-python",
                str(settings.artifacts_destination or settings.default_artifact_root),
                settings.allowed_artifact_locations,
                settings.public_url,
            ),
        },
    )
