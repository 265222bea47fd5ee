"""Where the server's own addresses are enforced:

as MLflow opens an artifact store, and as an address is written to a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatehouse.artifacts.addresses import Addresses, Foreign
from gatehouse.upstream.artifacts import guard_repositories, guard_served

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def register(addresses: Addresses) -> None:
    """Let MLflow's server, in this process, open and take in no address that isn't its own."""
    register_stores(addresses)
    guard_served(lambda address: _checked(addresses.check_proxied, address, "PERMISSION_DENIED"))
    _guard_rows(addresses)


def register_stores(addresses: Addresses) -> Callable[[], None]:
    """Let MLflow, in this process, open no artifact store that isn't the server's own; return what ends that."""
    return guard_repositories(lambda address: _checked(addresses.check, address, "PERMISSION_DENIED"))


def register_jobs(addresses: Addresses) -> None:
    """As :func:`register`, for a process of MLflow's jobs, which serves nobody."""
    register_stores(addresses)
    _guard_rows(addresses)


def _checked(check: Callable[[str], None], address: str, code: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    try:
        check(address)
    except Foreign as error:
        raise MlflowException(str(error), getattr(databricks_pb2, code)) from None


def _guard_rows(addresses: Addresses) -> None:
    from sqlalchemy import event, inspect
    from sqlalchemy.orm import Session

    # Table → columns that a client chooses, and what they may hold. What MLflow derives from them (a run's address, a
    # logged model's) may still be an old foreign one, so that metrics go on being logged there; opening it is refused.
    columns: Mapping[str, Mapping[str, Callable[[str], None]]] = {
        "experiments": {"artifact_location": addresses.check},
        "model_versions": {"source": addresses.check_source},
        "workspaces": {"default_artifact_root": addresses.check, "trace_archival_location": addresses.check},
    }

    def before_flush(session: Any, _context: Any, _instances: Any) -> None:
        for row in (*session.new, *session.dirty):
            for column, check in columns.get(row.__tablename__, {}).items():
                address = getattr(row, column)
                if address and inspect(row).attrs[column].history.has_changes():
                    _checked(check, address, "INVALID_PARAMETER_VALUE")

    event.listen(Session, "before_flush", before_flush)
