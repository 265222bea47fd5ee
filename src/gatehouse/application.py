"""The ASGI application: MLflow behind Gatehouse's layers, composed in one place.

Data flows one way: identity → access → audit → artifacts → MLflow. Each layer knows only the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse import mlflow_app
from gatehouse.assistant import AssistantClosed
from gatehouse.discovery import DiscoveryLayer
from gatehouse.dispatch import Dispatcher
from gatehouse.identity import IdentityLayer

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def build(proof: bytes, cookie_name: str, about: bytes) -> ASGIApp:
    """Return the whole application; ``mlflow_app.configure`` must have run.

    ``proof`` is what the proxy shows with each request; ``cookie_name`` is its session cookie, which MLflow never sees;
    ``about`` is the discovery document, which anybody may read.
    """
    app: ASGIApp = Dispatcher(mlflow_app.load(), mlflow_app.load_flask())
    app = AssistantClosed(app)
    app = IdentityLayer(app, proof, (cookie_name,))
    return DiscoveryLayer(app, about)
