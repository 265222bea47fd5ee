"""MLflow's job runner, started as ``mlflow server`` does (mlflow/server/__init__.py, ``_run_server``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path


def queue_environment(folder: Path) -> dict[str, str]:
    """Return what tells MLflow where the jobs' queue lives; to be set before MLflow is imported."""
    return {"_MLFLOW_HUEY_STORAGE_PATH": str(folder)}


def launch_runner(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the job runner, which ends by itself when this process does.

    Args:
        environment: added to this process's.
    """
    from mlflow.server.jobs.executor_registry import validate_executor_config
    from mlflow.server.jobs.utils import _launch_job_execution_runner, get_job_execution_engine

    validate_executor_config()
    get_job_execution_engine()
    runner: subprocess.Popen[bytes] = _launch_job_execution_runner(dict(environment), os.getpid())
    return runner
