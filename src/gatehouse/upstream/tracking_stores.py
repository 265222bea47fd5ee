"""MLflow's tracking and registry stores: the ones that its handlers use, and how ours takes their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def tracking_store() -> Any:
    """Return the tracking store that MLflow's handlers use, opened at the first call."""
    from mlflow.server import handlers

    return handlers._get_tracking_store()


def registry_store() -> Any:
    """Return the model registry that MLflow's handlers use, opened at the first call."""
    from mlflow.server import handlers

    return handlers._get_model_registry_store()


def register_tracking_store(scheme: str, open_store: Callable[..., Any]) -> None:
    """Let MLflow's server open another store for the URLs of a scheme.

    MLflow's own way is an entry point of a package; this holds for the server's process alone.

    Args:
        scheme: of the database's URL.
        open_store: takes ``store_uri`` and ``artifact_uri``.
    """
    from mlflow.server import handlers

    handlers._tracking_store_registry.register(scheme, open_store)


def check_metric(key: str, value: float, timestamp: int, step: int, path: str) -> None:
    """Refuse a metric as MLflow's store does.

    Args:
        path: how the refusal names it, for example ``metrics[3]``.

    Raises:
        MlflowException: with INVALID_PARAMETER_VALUE.
    """
    from mlflow.utils.validation import _validate_metric

    _validate_metric(key, value, timestamp, step, path=path)


def is_name(name: str) -> bool:
    """Tell whether MLflow takes this as the name of a metric; parameters and tags of runs have the same rule."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric_name

    try:
        _validate_metric_name(name)
    except MlflowException:
        return False
    return True


def random_run_name() -> str:
    """Return a name as MLflow gives it to a run that comes without one."""
    from mlflow.utils.name_utils import _generate_random_name

    return str(_generate_random_name())


def store_of_all_workspaces(uri: str) -> Any:
    """Return a tracking store that sees what every workspace has, for a command that cleans up behind all of them.

    MLflow's own without workspaces sees the same, but refuses to open a database in which another than ``default``
    holds something (``_initialize_store_state``).
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    class Store(SqlAlchemyStore):  # type: ignore[misc]  # MLflow has no types
        def _initialize_store_state(self) -> None:
            pass

    return Store(uri, "mlflow-artifacts:/")


def deleted_runs(store: Any, older_than_ms: int) -> list[str]:
    """Return the ids of runs that were deleted at least so many milliseconds ago."""
    found: list[str] = store._get_deleted_runs(older_than=older_than_ms)
    return found


def deleted_logged_models(store: Any, older_than_ms: int) -> list[str]:
    """Return the ids of logged models that were deleted at least so many milliseconds ago."""
    found: list[str] = store._get_deleted_logged_models(older_than=older_than_ms)
    return found


def most_connections(pool: Any) -> int:
    """Return how many connections a pool of SQLAlchemy's may have at once; its overflow has no public name."""
    return int(pool.size() + max(0, pool._max_overflow))
