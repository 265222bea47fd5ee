"""MLflow's job runner, started as ``mlflow server`` does (mlflow/server/__init__.py, ``_run_server``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def queue_environment(folder: Path) -> dict[str, str]:
    """Return what tells MLflow where the jobs' queue lives; to be set before MLflow is imported."""
    return {"_MLFLOW_HUEY_STORAGE_PATH": str(folder)}


def check() -> None:
    """Refuse the settings of jobs that MLflow's own server would refuse at its start; imports MLflow."""
    from mlflow.server.jobs.executor_registry import validate_executor_config
    from mlflow.server.jobs.utils import get_job_execution_engine

    validate_executor_config()
    get_job_execution_engine()


def runner_module(environment: Mapping[str, str]) -> str:
    """Return the module that ``_launch_job_execution_runner`` would start, given MLflow's environment."""
    engine = environment.get("MLFLOW_SERVER_JOB_EXECUTION_ENGINE")
    return f"mlflow.server.jobs.{'_executor_runner' if engine else '_job_runner'}"


def runner_environment(database: str, folder: Path, server: int) -> dict[str, str]:
    """Return what the job runner reads; it ends by itself when the process ``server`` does.

    Args:
        database: URL of the tracking store.
        folder: where the jobs' queue lives.
        server: a process id.
    """
    return {
        "MLFLOW_TRACKING_URI": database,
        "MLFLOW_BACKEND_STORE_URI": database,
        "_MLFLOW_SERVER_FILE_STORE": database,
        "MLFLOW_SERVER_PID": str(server),
        "_MLFLOW_SERVER_UP_TIME": str(int(time.time() * 1000)),
        **queue_environment(folder),
    }
