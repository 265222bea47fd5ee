"""The tracking server: its origin, whether a token may travel there, and what it says of itself.

A server publishes ``/.well-known/gatehouse`` without a sign-in. What stands
there may *narrow* what the client does (a token that the server wouldn't take isn't sent) and fill in
defaults; it can't make the client ask for a token for somebody else's audience: a hostile server could play
that token elsewhere.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from mlflow_gatehouse.errors import ConfigurationError, Unreachable

#: Of the provider's scopes, those that a server may choose among. Others can stand for somebody else's audience: Dex's
#: ``audience:server:client_id:…``, an optional scope of Keycloak's.
SCOPES = frozenset({"openid", "email", "profile", "groups", "offline_access"})
WELL_KNOWN = "/.well-known/gatehouse"
TIMEOUT = (5, 20)  # seconds to connect, to answer: a container that starts from zero takes a while

#: MLflow's settings that a server may set at its clients, where the user hasn't: name → kind of value.
OFFERED_SETTINGS: Mapping[str, type[bool] | type[int]] = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": bool,
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": bool,
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": int,
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": int,
    "MLFLOW_MULTIPART_DOWNLOAD_MINIMUM_FILE_SIZE": int,
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": int,
}


def origin_of(url: str) -> str | None:
    """Return ``scheme://host[:port]`` of an http(s) URL in its normal form; None for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host:
        return None
    name = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}" if port in {None, default} else f"{parts.scheme}://{name}:{port}"


def is_loopback(url: str) -> bool:
    """True if the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_verified_tls() -> None:
    """Refuse the setting with which MLflow takes any certificate.

    Raises:
        ConfigurationError: it is set.
    """
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").strip().lower() in {"true", "1"}:  # as MLflow reads it
        raise ConfigurationError(
            "MLFLOW_TRACKING_INSECURE_TLS is set: the token would go to whoever answers",
            "unset it; for a private authority export REQUESTS_CA_BUNDLE=/path/to/ca.pem",
        )


def require_private(url: str) -> None:
    """Refuse an address to which a token would travel readable by others.

    Raises:
        ConfigurationError: plain http to another machine, or to this one by way of a proxy; or nobody would look who
        answers.
    """
    require_verified_tls()
    if urlsplit(url).scheme == "https":
        return
    if not is_loopback(url):
        raise ConfigurationError(
            f"{origin_of(url) or url} isn't https: the token would travel where others can read it",
            "use the https address of the tracking server; plain http is for localhost alone",
        )
    proxy = select_proxy(url, get_environ_proxies(url))
    if proxy:
        raise ConfigurationError(
            f"http_proxy is set: the token for {origin_of(url)} would travel by way of another machine",
            "export NO_PROXY=localhost,127.0.0.1,::1",
        )


@dataclass(frozen=True)
class Server:
    """A tracking server, by origin, with its own description of itself (empty if it gives none)."""

    origin: str
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def _text(self, name: str) -> str | None:
        value = self.about.get(name)
        return value if isinstance(value, str) and value else None

    @property
    def issuer(self) -> str | None:
        """The OpenID provider at which people sign in."""
        return self._text("issuer")

    @property
    def client_id(self) -> str | None:
        """The provider's client for signing in from the command line."""
        return self._text("client_id")

    @property
    def scope(self) -> str:
        """What to ask the provider for; ``offline_access`` is what makes it give a refresh token.

        The server may name fewer or more of the harmless ones alone: a scope can stand for an audience.
        """
        named = [scope for scope in (self._text("scope") or "").split() if scope in SCOPES]
        return " ".join(named) if "openid" in named else "openid email profile offline_access"

    @property
    def audiences(self) -> frozenset[str]:
        """The audiences that the server takes; empty if it doesn't say."""
        audiences = self.about.get("audiences")
        return frozenset(map(str, audiences)) if isinstance(audiences, list) else frozenset()

    @property
    def audience(self) -> str:
        """The audience to ask for: ``GATEHOUSE_AUDIENCE``, or the server's origin."""
        return os.environ.get("GATEHOUSE_AUDIENCE", "").strip() or self.origin

    def settings(self) -> dict[str, str]:
        """MLflow's settings that the server offers and that are what they should be."""
        offered = self.about.get("mlflow")
        if not isinstance(offered, dict):
            return {}
        valid = {}
        for name, kind in OFFERED_SETTINGS.items():
            value = offered.get(name)
            if type(value) is kind and (kind is bool or value > 0):
                valid[name] = str(value).lower()
        return valid


def discover(origin: str) -> Server:
    """Ask a server for its description. A server that has none is taken as it is.

    Raises:
        ConfigurationError: the address isn't fit for a token.
        Unreachable: no connection, or no TLS that can be trusted.
    """
    require_private(origin)
    url = origin + WELL_KNOWN
    try:
        with requests.Session() as session:
            session.trust_env = True
            session.auth = lambda request: request  # else requests would send what ~/.netrc has for this host
            answer = session.get(url, timeout=TIMEOUT, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise Unreachable(
            f"the certificate of {origin} can't be trusted: {error}",
            "if your company's proxy opens TLS, trust it: export REQUESTS_CA_BUNDLE=/path/to/ca.pem",
        ) from None
    except requests.RequestException as error:
        raise Unreachable(
            f"no answer from {origin}: {error}", "check MLFLOW_TRACKING_URI, the network and HTTPS_PROXY"
        ) from None
    if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
        return Server(origin)
    try:
        about = answer.json()
    except ValueError:
        return Server(origin)
    return Server(origin, about if isinstance(about, dict) else {})
