"""MLflow's entry point ``mlflow.request_auth_provider``: ``MLFLOW_TRACKING_AUTH=gatehouse``.

MLflow (2.9 to 3.17) asks the provider of that name for an auth object at each request of its REST client,
which also carries artifacts that pass through the server. Bytes that go to a bucket by signed URL don't come
this way, and need no token.
"""

from __future__ import annotations

import os

from mlflow_gatehouse.auth import GatehouseAuth, trusted_origins
from mlflow_gatehouse.errors import ClientError
from mlflow_gatehouse.keeper import keeper_of


class GatehouseAuthProvider:
    """What MLflow's registry of auth providers holds (its abstract class is not needed to be one)."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def get_name(self) -> str:
        """The value of ``MLFLOW_TRACKING_AUTH`` that picks this provider."""
        return "gatehouse"

    def get_auth(self) -> GatehouseAuth:
        """Return the auth object for one request."""
        for origin in trusted_origins() - self._asked:
            self._asked.add(origin)
            self._take_up_settings(origin)
        return GatehouseAuth()

    def _take_up_settings(self, origin: str) -> None:
        """Set what the server offers and the user hasn't set, such as where multipart uploads begin.

        Cloud Run refuses bodies above 32 MiB, and MLflow's own threshold for splitting one is 500 MB.
        """
        try:
            offered = keeper_of(origin).server().settings()
        except ClientError:
            return  # the request itself will say so
        for name, value in offered.items():
            os.environ.setdefault(name, value)
