"""Signs each request to the tracking server with a living token, and makes sense of what comes back.

A response hook sees every answer before requests follows a redirect, in every version of MLflow: the place to
stop a login page from being taken for a success.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import requests
from requests.auth import AuthBase
from requests.utils import rewind_body

from mlflow_gatehouse.errors import Refused
from mlflow_gatehouse.identity_token import IdentityToken
from mlflow_gatehouse.keeper import keeper_of
from mlflow_gatehouse.refusals import problem_of
from mlflow_gatehouse.server import Server, origin_of, require_private


def trusted_origins() -> frozenset[str]:
    """The servers that may have a token: the tracking server, the registry, and ``GATEHOUSE_SERVERS``.

    Runs can carry artifact addresses on other hosts, which whoever wrote the run has chosen.
    """
    uris = [os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get("MLFLOW_REGISTRY_URI", "")]
    uris += os.environ.get("GATEHOUSE_SERVERS", "").replace(",", " ").split()
    # Not get_registry_uri, which looks for Spark at each call; set_registry_uri sets the variable too (MLflow 3).
    if get_tracking_uri := getattr(sys.modules.get("mlflow"), "get_tracking_uri", None):
        uris.append(str(get_tracking_uri()))
    return frozenset(origin for uri in uris if (origin := origin_of(uri.strip())))


class GatehouseAuth(AuthBase):
    """A requests auth: a token for a trusted server's request, none for any other's."""

    def __init__(self, origins: frozenset[str] | None = None) -> None:
        """Args: origins: who may have a token; as MLflow is set at the time of the request, if None."""
        self._origins = origins

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign one request.

        Raises:
            ClientError: no token is to be had, or it must not travel to this address.
        """
        url = str(request.url)
        origin = origin_of(url) or ""
        if origin not in (trusted_origins() if self._origins is None else self._origins):
            # MLflow has put MLFLOW_TRACKING_TOKEN or a password there, whatever the host.
            request.headers.pop("Authorization", None)
            _hook(request, functools.partial(_outside, server=Server(origin)))
            return request
        require_private(url)
        token = keeper_of(origin).current()
        request.headers["Authorization"] = f"Bearer {token.value}"
        _hook(request, functools.partial(_inside, origin=origin, token=token))
        return request


def _hook(request: requests.PreparedRequest, check: Callable[..., requests.Response]) -> None:
    request.register_hook("response", check)  # type: ignore[no-untyped-call]


def _outside(response: requests.Response, *, server: Server, **_options: Any) -> requests.Response:
    problem = problem_of(response, None, server)
    if problem:
        raise problem
    return response


def _inside(response: requests.Response, *, origin: str, token: IdentityToken, **options: Any) -> requests.Response:
    """Retry a refused request once with a new token; raise what the answer amounts to."""
    keeper = keeper_of(origin)
    if response.status_code == 401:
        newer = keeper.after(token)
        if newer.value != token.value:
            response, token = _again(response, newer, options), newer
    problem = problem_of(response, token, keeper.server())
    if problem:
        response.close()
        raise problem
    return response


def _again(response: requests.Response, token: IdentityToken, options: dict[str, Any]) -> requests.Response:
    """Send a refused request once more. A stream is wound back, or the request isn't repeated."""
    request = response.request.copy()
    if request.body is not None and not isinstance(request.body, str | bytes):
        try:  # it has begun, or has ended: requests knows where a file began, and of an iterator nothing
            rewind_body(request)
        except requests.exceptions.UnrewindableBodyError:
            raise Refused(
                "the token ended while a stream was being sent, and a stream can't be sent twice",
                "send it again: a new token is ready",
            ) from None
    response.content  # noqa: B018 - reads the rest, so that the connection can be used again
    response.close()
    request.headers["Authorization"] = f"Bearer {token.value}"
    again: requests.Response = response.connection.send(request, **options)
    again.history.append(response)
    again.request = request
    return again
