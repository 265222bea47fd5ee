"""MLflow's workspaces: the one of the request at hand, and what MLflow keeps for them in this process."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: The variable that switches workspaces on, for MLflow's server and its jobs.
SWITCH = "MLFLOW_ENABLE_WORKSPACES"
#: The header by which a client names one, as ASGI spells it.
HEADER = b"x-mlflow-workspace"


def enabled() -> bool:
    """Return whether workspaces are on in this process."""
    return os.environ.get(SWITCH, "").lower() in {"true", "1"}


def enter(name: str) -> None:
    """Let MLflow take this workspace for the one of the request, in this context and all that copy it.

    MLflow's own look-up by the header, a statement for each request, passes a request by for which that is done.
    """
    from mlflow.utils.workspace_context import set_server_request_workspace

    set_server_request_workspace(name)


def current() -> str | None:
    """Return the workspace of the request at hand, or None outside of one."""
    from mlflow.utils import workspace_context

    name = workspace_context._WORKSPACE.get()
    return str(name) if name else None


def path_in_store(path: str) -> str:
    """Return where in the store MLflow looks for the artifact of this path, for the workspace of the request at hand.

    Raises:
        MlflowException: if the path names another workspace.
    """
    from mlflow.server import handlers

    return str(handlers._get_workspace_scoped_repo_path_if_enabled(path) or "")


def register_store(scheme: str, open_store: Callable[..., Any]) -> None:
    """Let MLflow's server open another store of workspaces for the URLs of a scheme.

    Args:
        scheme: of the database's URL.
        open_store: takes ``workspace_uri``.
    """
    from mlflow.tracking._workspace import registry

    registry._get_workspace_store_registry().register(scheme, open_store)


def store() -> Any:
    """Return the store of workspaces that MLflow's handlers use, opened at the first call."""
    from mlflow.server import workspace_helpers

    return workspace_helpers._get_workspace_store()


def shared_engine(uri: str) -> tuple[Any, Any]:
    """Return the engine of MLflow's tracking store for a database, and what makes sessions on it."""
    from mlflow.store.db import utils
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.utils.uri import extract_db_type_from_uri
    from sqlalchemy.orm import sessionmaker

    engine = SqlAlchemyStore._get_or_create_engine(uri)
    return engine, utils._get_managed_session_maker(sessionmaker(bind=engine), extract_db_type_from_uri(uri))


class _ByWorkspace:
    """A cache in which each workspace has entries of its own."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._lock = threading.Lock()

    def get(self, event: Any) -> Any:
        with self._lock:
            return self._cache.get((current(), event))

    def __setitem__(self, event: Any, webhooks: Any) -> None:
        with self._lock:
            self._cache[current(), event] = webhooks


def separate_webhooks() -> None:
    """Let MLflow remember for each workspace which webhooks wait for an event.

    It remembers them by the event alone (3.17), so that one team's webhook would be told of another's models.
    """
    from cachetools import TTLCache
    from mlflow.environment_variables import MLFLOW_WEBHOOK_CACHE_TTL
    from mlflow.webhooks import delivery

    delivery._webhook_cache = _ByWorkspace(TTLCache(maxsize=4096, ttl=MLFLOW_WEBHOOK_CACHE_TTL.get()))
