"""Who is served now: for what MLflow records by itself, deep in its own code.

Each request is a task, and so a context, of its own; threads that serve it inherit it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

_current: ContextVar[str | None] = ContextVar("gatehouse_identity", default=None)


def serve(user: str) -> None:
    """Note whose request this task serves, as the identity's e-mail address."""
    _current.set(user)


def served() -> str | None:
    """Return whose request is served, or None outside of any (the start, a job, ``gatehouse gc``)."""
    return _current.get()


def tell_flask(flask_app: Any) -> None:
    """Let MLflow's Flask application know who is served, where its own login would put the name."""

    def authenticated_user() -> None:
        from flask import g

        g.mlflow_authenticated_user = served()

    flask_app.before_request(authenticated_user)
