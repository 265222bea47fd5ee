"""The ASGI application: MLflow behind Gatehouse's layers, composed in one place.

Data flows one way: identity → access → audit → artifacts → MLflow. Each layer knows only the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse import mlflow_app
from gatehouse.assistant import AssistantClosed

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def build() -> ASGIApp:
    """Return the whole application; ``mlflow_app.configure`` must have run."""
    app = mlflow_app.load()
    return AssistantClosed(app)
