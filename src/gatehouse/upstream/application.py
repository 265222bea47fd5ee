"""MLflow's own server application, unchanged, and the private variables by which it is configured.

``mlflow server`` hands its options to its workers in variables that MLflow keeps private (mlflow/server/constants.py).
MLflow reads some of them while it is imported, so they must be set before :func:`load`.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from gatehouse.upstream import lazy


def environment(
    database: str, destination: str | None, artifact_root: str | None, read_replica: str | None = None
) -> dict[str, str]:
    """Return the private variables of MLflow's application.

    Args:
        database: URL of the tracking store and the model registry.
        destination: where the server stores artifacts, or None if clients do it themselves.
        artifact_root: where they do.
        read_replica: URL of a replica of the database, for reads.
    """
    names = {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_BOOT_ID": os.urandom(16).hex(),
        # Only MLflow's job processes may rebuild custom scorers' code.
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    if read_replica is not None:
        names["_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE"] = read_replica
    if destination is None:
        return names | {"_MLFLOW_SERVER_ARTIFACT_ROOT": str(artifact_root)}
    return names | {
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": destination,
    }


def load() -> Any:
    """Import MLflow's application (``fastapi.FastAPI``): the slow part of a start."""
    with warnings.catch_warnings():
        # MLflow's choice of libraries is nothing that whoever reads this log can change.
        warnings.simplefilter("ignore")
        from mlflow.server.fastapi_app import app

    lazy.started()
    return app


def load_flask() -> Any:
    """Return the Flask application that MLflow's application serves most routes with."""
    from mlflow.server import app

    return app


def read_replica() -> str | None:
    """Return the URL of the database's replica, as ``environment`` has it."""
    return os.environ.get("_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE")
