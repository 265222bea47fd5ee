"""``/.well-known/gatehouse``: what a client must know before it can sign in, and the client itself.

Nothing of it is secret.

These paths alone answer without an identity: the proxy lets them through (``skip_auth_routes``), and
:class:`DiscoveryLayer`, outside all other layers, answers them from bytes read at start, by their exact names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehouse import __version__
from gatehouse.public import readiness
from gatehouse.request.responses import CSP

if TYPE_CHECKING:
    from starlette.types import Send

    from gatehouse.request.context import Context, Handler

PATH = "/.well-known/gatehouse"
#: Where somebody lands who has signed out at a provider that shows no page of its own (proxy/gatehouse.go).
SIGNED_OUT = "/gatehouse/signed-out"
#: The folder of the run directory in which a start leaves what is published.
FOLDER = "published"
DOCUMENT = "gatehouse.json"
REQUIREMENTS = "requirements.txt"
#: Of the document; clients ignore names that they don't know.
VERSION = 1
GOOGLE = "https://accounts.google.com"

#: Artifacts of this many bytes go straight to the bucket, where DIRECT_TRANSFERS is on: below, a signature costs more
#: than it saves.
DIRECT_FROM_BYTES = 16 * 1024 * 1024
#: What is offered then. A part is held in the client's memory; MLflow's default of 10 MiB would take three times the
#: signatures.
DIRECT_TRANSFERS: Mapping[str, bool | int] = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": True,
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": True,
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": DIRECT_FROM_BYTES,
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": 32 * 1024 * 1024,
}


@dataclass(frozen=True)
class Client:
    """The client's wheel, which each server hands out: what people install is ours, and fits (docs/decisions/0014).

    A registry would have to be asked by a name, and whoever has that name there decides what is installed.
    """

    file_name: str
    content: bytes

    @classmethod
    def find(cls, folder: Path) -> Client | None:
        """Return the wheel of this server's own version from a folder of built distributions.

        None if it isn't there.
        """
        path = folder / f"mlflow_gatehouse-{__version__}-py3-none-any.whl"
        return cls(path.name, path.read_bytes()) if path.is_file() else None

    def about(self, public_url: str) -> dict[str, str]:
        """Return what the document says of it."""
        return {
            "name": "mlflow-gatehouse",
            "version": __version__,
            "url": f"{public_url}{PATH}/{self.file_name}",
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "install": f"pip install -r {public_url}{PATH}/{REQUIREMENTS}",
        }

    def requirements(self, public_url: str) -> str:
        """Return the requirements file by which pip and uv install it; both refuse a wheel of another hash."""
        about = self.about(public_url)
        return f"# {about['install']}\n{about['name']} @ {about['url']}#sha256={about['sha256']}\n"


def open_paths(client: Client | None) -> str:
    """Return the regular expression (Go's RE2) of the paths that the proxy lets through without a sign-in."""
    files = f"(/{re.escape(REQUIREMENTS)}|/{re.escape(client.file_name)})?" if client else ""
    return f"^({re.escape(PATH)}{files}|{re.escape(readiness.PATH)}|{re.escape(SIGNED_OUT)})$"


def publish(folder: Path, about: Mapping[str, Any], client: Client | None, public_url: str) -> None:
    """Write all that strangers may read into a folder, for :class:`DiscoveryLayer`."""
    folder.mkdir(mode=0o700)
    named = {"client": client.about(public_url)} if client else {}
    (folder / DOCUMENT).write_text(json.dumps({**about, **named}))
    if client:
        (folder / REQUIREMENTS).write_text(client.requirements(public_url))
        (folder / client.file_name).write_bytes(client.content)


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


#: Suffix → headers. A file's hash and its bytes must come from the same release, so no cache may mix two of them; and a
#: browser never shows a file as a page of this origin.
HEADERS: Mapping[str, list[tuple[bytes, bytes]]] = {
    ".json": [(b"content-type", b"application/json"), (b"cache-control", b"public, max-age=60")],
    ".txt": [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-cache")],
    ".whl": [
        (b"content-type", b"application/octet-stream"),
        (b"content-disposition", b"attachment"),
        (b"cache-control", b"no-cache"),
    ],
}


_SIGNED_OUT_PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Signed out</title><style>body{font:16px/1.5 system-ui,sans-serif;margin:10vh auto;max-width:36rem;padding:0 1rem}
</style></head><body><h1>You are signed out of MLflow</h1><p>Your identity provider may keep its own session: whoever
has this browser can then sign in again without a password. Sign out there too, or close the browser.</p>
<p><a href="/">Sign in again</a></p></body></html>
"""


class DiscoveryLayer:
    """Layer: answers what is published from memory, and passes everything else on untouched."""

    def __init__(self, app: Handler, folder: Path) -> None:
        """Args: folder: what :func:`publish` wrote."""
        self._app = app
        page = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", str(len(_SIGNED_OUT_PAGE)).encode()),
            (b"cache-control", b"no-store"),
            (b"content-security-policy", CSP),
            (b"x-content-type-options", b"nosniff"),
        ]
        self._answers: dict[str, tuple[list[tuple[bytes, bytes]], bytes]] = {SIGNED_OUT: (page, _SIGNED_OUT_PAGE)}
        for file in folder.iterdir():
            body = file.read_bytes()
            headers = [
                *HEADERS[file.suffix],
                (b"content-length", str(len(body)).encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
            self._answers[PATH if file.name == DOCUMENT else f"{PATH}/{file.name}"] = headers, body

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.method not in {"GET", "HEAD"} or context.path not in self._answers:
            await self._app(context, send)
            return
        headers, body = self._answers[context.path]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if context.method == "HEAD" else body})
