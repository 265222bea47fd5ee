"""MLflow's application as the settings want it: its environment, and the stores that it opens."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from gatehouse.database import engine
from gatehouse.start.settings import Settings
from gatehouse.start.verdicts import listed
from gatehouse.upstream import application, lazy, tracking_stores, workspaces


def environment(settings: Settings, with_workspaces: bool = False) -> dict[str, str]:
    """Return what MLflow's application reads.

    A public MLFLOW_* variable that is set already wins, or adds to a list.
    """
    public_url = settings.public_url or ""
    database = engine.named(settings.backend_store_uri, settings.database_timeout)
    replica = engine.named(settings.read_replica, settings.database_timeout) if settings.read_replica else None
    switch = {workspaces.SWITCH: "true"} if with_workspaces else {}
    private = switch | application.environment(
        database, settings.artifacts_destination, settings.default_artifact_root, replica
    )
    # MLflow compares the Host and Origin headers with these; its own defaults are localhost only.
    lists = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": urlsplit(public_url).netloc,
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": public_url,
    }
    added = {name: ",".join(dict.fromkeys([own, *listed(os.environ, name)])) for name, own in lists.items()}
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # numpy's library would start a thread for each CPU, and the server has nothing for them to do.
        "OPENBLAS_NUM_THREADS": "1",
        # Each instance would enqueue every unfinished job again.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return private | added | {name: value for name, value in defaults.items() if not os.environ.get(name)}


def configure(settings: Settings, with_workspaces: bool = False) -> None:
    """Set the environment that MLflow's application reads, and put off what it imports without need.

    To be called before ``upstream.application.load``.
    """
    engine.register()
    os.environ.update(environment(settings, with_workspaces))
    lazy.install()


def open_stores() -> set[Engine]:
    """Open the tracking and the registry store; return the engines that hold connections since.

    ``schema.ensure`` must have run: MLflow would upgrade an older schema.
    """
    from gatehouse.database import metrics

    metrics.register()
    engines: set[Engine] = set()

    def note(connection: Connection) -> None:
        engines.add(connection.engine)

    event.listen(Engine, "engine_connect", note)
    try:
        tracking_stores.tracking_store()
        tracking_stores.registry_store()
    finally:
        event.remove(Engine, "engine_connect", note)
    return engines
