"""The ASGI application: MLflow behind Gatehouse's layers, composed in one place.

Data flows one way: identity → access → audit → artifacts → MLflow. Each layer knows only the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse import mlflow_app
from gatehouse.assistant import AssistantClosed
from gatehouse.dispatch import Dispatcher
from gatehouse.identity import IdentityLayer

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def build(proof: bytes, cookie_name: str) -> ASGIApp:
    """Return the whole application; ``mlflow_app.configure`` must have run.

    ``proof`` is what the proxy shows with each request; ``cookie_name`` is its session cookie, which MLflow never sees.
    """
    app: ASGIApp = Dispatcher(mlflow_app.load(), mlflow_app.load_flask())
    app = AssistantClosed(app)
    return IdentityLayer(app, proof, (cookie_name,))
