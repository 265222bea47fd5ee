"""MLflow's own server application, configured by its environment and otherwise unchanged.

``mlflow server`` hands its options to its workers in variables that MLflow keeps private
(mlflow/server/constants.py). The version is pinned, and tests/gate/test_mlflow_contract.py guards the names.
MLflow reads some of them while it is imported, so ``configure`` must run before ``load``.
"""

from __future__ import annotations

import os
import warnings
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from gatehouse.database import engine
from gatehouse.start.settings import Settings
from gatehouse.upstream import lazy


def environment(settings: Settings) -> dict[str, str]:
    """Return what MLflow's application reads; a public MLFLOW_* variable that is set already wins."""
    public_url = settings.public_url or ""
    database = engine.named(settings.backend_store_uri)
    private = {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_BOOT_ID": os.urandom(16).hex(),
        # Only MLflow's job processes may rebuild custom scorers' code.
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    if settings.artifacts_destination is not None:
        private |= {
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": settings.artifacts_destination,
        }
    else:
        private["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(settings.default_artifact_root)
    defaults = {
        # MLflow compares the Host and Origin headers with these; its own defaults are localhost only.
        "MLFLOW_SERVER_ALLOWED_HOSTS": urlsplit(public_url).netloc,
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": public_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # numpy's library would start a thread for each CPU, and the server has nothing for them to do.
        "OPENBLAS_NUM_THREADS": "1",
        # Each instance would enqueue every unfinished job again.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return private | {name: value for name, value in defaults.items() if not os.environ.get(name)}


def configure(settings: Settings) -> None:
    """Set the environment that MLflow's application reads, and put off what it imports without need."""
    engine.register()
    os.environ.update(environment(settings))
    lazy.install()


def load() -> Any:
    """Import MLflow's application: the slow part of a start."""
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


def open_stores() -> set[Engine]:
    """Open the tracking and the registry store; return the engines that hold connections since.

    ``schema.ensure`` must have verified the schema.
    """
    from mlflow.server import handlers
    from mlflow.store.db import utils

    from gatehouse.database import metrics as tracking_store

    tracking_store.register()
    engines: set[Engine] = set()

    def note(connection: Connection) -> None:
        engines.add(connection.engine)

    event.listen(Engine, "engine_connect", note)
    # MLflow would run all its migrations' files to learn the newest revision.
    verify, utils._verify_schema = utils._verify_schema, lambda _engine: None
    try:
        handlers._get_tracking_store()
        handlers._get_model_registry_store()
    finally:
        utils._verify_schema = verify
        event.remove(Engine, "engine_connect", note)
    return engines
