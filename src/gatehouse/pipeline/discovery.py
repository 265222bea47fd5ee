"""``GET /.well-known/gatehouse``: what a client must know before it can sign in. Nothing in it is secret.

The one path that answers without an identity: the proxy lets it through (``skip_auth_routes``), and
:class:`DiscoveryLayer`, outside all other layers, answers it from bytes made at start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Send

    from gatehouse.pipeline.context import Context, Handler

PATH = "/.well-known/gatehouse"
#: Where ``gatehouse prepare`` leaves the document, in the run directory.
FILE_NAME = "discovery.json"
#: Of the document; clients ignore names that they don't know.
VERSION = 1
GOOGLE = "https://accounts.google.com"

#: Artifacts of this many bytes go straight to the bucket, where DIRECT_TRANSFERS is on: below, a signature costs more than it saves.
DIRECT_FROM_BYTES = 16 * 1024 * 1024
#: What is offered then. A part is held in the client's memory; MLflow's default of 10 MiB would take three times the signatures.
DIRECT_TRANSFERS: Mapping[str, bool | int] = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": True,
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": True,
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": DIRECT_FROM_BYTES,
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": 32 * 1024 * 1024,
}


def document(
    *,
    issuer: str | None,
    client_id: str | None,
    audiences: list[str],
    mlflow: Mapping[str, bool | int] | None = None,
) -> dict[str, Any]:
    """Build the document.

    Args:
        issuer: the OpenID provider at which people sign in.
        client_id: its public client for ``mlflow-gatehouse login``; None if nobody signs in from the command line.
        audiences: every audience of a token that the proxy takes.
        mlflow: settings of MLflow's client that this server offers, for example
            ``{"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": True}``. The plug-in takes up those that it knows
            (``OFFERED_SETTINGS`` in the client's ``server.py``), where its user has set nothing.
    """
    named = {
        "issuer": issuer,
        "client_id": client_id,
        "audiences": sorted(set(audiences)),
        "mlflow": dict(mlflow or {}),
    }
    return {"version": VERSION} | {name: value for name, value in named.items() if value}


def from_proxy(
    file: Mapping[str, Any],
    environment: Mapping[str, str],
    login_client_id: str | None,
    mlflow: Mapping[str, bool | int] | None = None,
) -> dict[str, Any]:
    """Build the document from the proxy's file and environment, of which the latter wins, as for the proxy itself."""

    def option(name: str) -> str:
        return environment.get(f"OAUTH2_PROXY_{name.upper()}") or str(file.get(name) or "")

    def options(name: str) -> list[str]:
        given = environment.get(f"OAUTH2_PROXY_{name.upper()}")
        listed = given.split(",") if given else file.get(name) or []
        return [str(item).strip() for item in listed]

    google = option("provider") in {"", "google"}
    # oauth2-proxy's own Google provider takes no token for its client id; the others do.
    audiences = [] if google else [option("client_id"), *options("oidc_extra_audiences")]
    audiences += [item.rpartition("=")[2] for item in options("extra_jwt_issuers")]
    return document(
        issuer=GOOGLE if google else option("oidc_issuer_url") or None,
        client_id=login_client_id,
        audiences=[audience for audience in audiences if audience],
        mlflow=mlflow,
    )


class DiscoveryLayer:
    """Layer: answers the one path from memory, and passes everything else on untouched."""

    def __init__(self, app: Handler, body: bytes) -> None:
        """Args: body: the document, as JSON."""
        self._app = app
        self._body = body

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.path != PATH or context.method != "GET":
            await self._app(context, send)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._body)).encode()),
            (b"cache-control", b"public, max-age=60"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
