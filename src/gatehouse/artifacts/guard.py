"""Where the server's own addresses are enforced:

as MLflow opens an artifact store, and as an address is written to a row.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gatehouse.artifacts import boundary
from gatehouse.artifacts.addresses import Addresses, Foreign
from gatehouse.upstream import workspaces
from gatehouse.upstream.artifacts import guard_repositories, guard_served

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def register(addresses: Addresses, destination: str | None = None) -> None:
    """Let MLflow's server, in this process, open and take in no address that isn't its own, or another workspace's.

    Args:
        addresses: the server's own.
        destination: ARTIFACTS_DESTINATION, which MLflow opens as a whole; repository.py looks at each path in it.
    """
    opening = _within(addresses)

    def check(address: str) -> None:
        if address != destination:
            _checked(opening, address, "PERMISSION_DENIED")

    guard_repositories(check)
    guard_served(lambda address: _checked(addresses.check_proxied, address, "PERMISSION_DENIED"))
    _guard_rows(addresses)


def _within(addresses: Addresses) -> Callable[[str], None]:
    """Return the check of an address for the request at hand: it must be this server's, and its workspace's."""

    def check(address: str) -> None:
        addresses.check(address)
        _check_workspace(addresses, address)

    return check


def _within_source(addresses: Addresses) -> Callable[[str], None]:
    """As :func:`_within`, for the source of a version, which may be a word."""

    def check(source: str) -> None:
        addresses.check_source(source)
        if ":" in source or "/" in source:
            _check_workspace(addresses, source)

    return check


def _check_workspace(addresses: Addresses, address: str) -> None:
    if workspaces.enabled() and not addresses.is_within(address, partial(boundary.owns, workspaces.current())):
        raise Foreign(f"The server doesn't touch {address[:200]!r}: it isn't within the workspace of this request.")


def _no_place(_address: str) -> None:
    raise Foreign(
        "A workspace has no place of its own: its artifacts lie below workspaces/NAME of this server's store."
    )


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
        "experiments": {"artifact_location": _within(addresses)},
        "model_versions": {"source": _within_source(addresses)},
        "workspaces": {"default_artifact_root": _no_place, "trace_archival_location": _no_place},
    }

    def before_flush(session: Any, _context: Any, _instances: Any) -> None:
        for row in (*session.new, *session.dirty):
            for column, check in columns.get(row.__tablename__, {}).items():
                address = getattr(row, column)
                if address and inspect(row).attrs[column].history.has_changes():
                    _checked(check, address, "INVALID_PARAMETER_VALUE")

    event.listen(Session, "before_flush", before_flush)
