"""The wall between workspaces once more, where rows are written: what MLflow's stores would let through by an id.

MLflow's stores look for what they change in the request's workspace first. One thing they take as it comes: a trace
that is sent again brings its feedback along, by ids that the client chooses, and a row of that id is overwritten,
whosever it is (``session.merge`` in ``SqlAlchemyStore._start_trace_once``, MLflow 3.17).
"""

from __future__ import annotations

from typing import Any

from gatehouse.upstream import workspaces


def register() -> None:
    """Refuse, in this process, rows that would change hands; MLflow's tables must be there."""
    from sqlalchemy import event, inspect
    from sqlalchemy.orm import Session

    def before_flush(session: Any, _context: Any, _instances: Any) -> None:
        current = workspaces.current()
        for row in (*session.new, *session.dirty):
            owner = getattr(row, "workspace", None)
            # What a relationship fills in later is its parent's.
            if current is not None and owner is not None and owner != current:
                raise _absent(row)
        for row in session.dirty:
            if row.__tablename__ == "assessments" and inspect(row).attrs.trace_id.history.deleted:
                raise _absent(row)

    event.listen(Session, "before_flush", before_flush)


def _absent(row: Any) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    found: Exception = MlflowException(
        f"What the request names in {row.__tablename__} isn't there.", RESOURCE_DOES_NOT_EXIST
    )
    return found
