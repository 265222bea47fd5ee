"""MLflow's job runner, for those who switch it on with MLFLOW_SERVER_ENABLE_JOB_EXECUTION=true.

``mlflow server`` starts it beside its workers (mlflow/server/__init__.py, ``_run_server``); so does this, with one
difference: there is no HTTP address that a job could come in by without an identity, so jobs reach the stores
directly, as MLflow's own executor does. A job that calls a model through MLflow's gateway needs
MLFLOW_GATEWAY_URI set to an address that lets it in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gatehouse.upstream import jobs

if TYPE_CHECKING:
    import subprocess

    from gatehouse.start.settings import Settings


def configure(run_directory: Path) -> bool:
    """Return whether jobs are on, and if so set where their queue lives; to be called before MLflow is imported."""
    if os.environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "").lower() not in {"true", "1"}:
        return False
    queue = run_directory / "jobs"
    queue.mkdir(mode=0o700)
    os.environ.update(jobs.queue_environment(queue))
    return True


def start_runner(settings: Settings) -> subprocess.Popen[bytes]:
    """Start the job runner, which ends by itself when this process does."""
    environment = {
        "MLFLOW_TRACKING_URI": settings.backend_store_uri,
        "MLFLOW_BACKEND_STORE_URI": settings.backend_store_uri,
    }
    return jobs.launch_runner(environment)
