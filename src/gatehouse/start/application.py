"""The ASGI application: MLflow behind Gatehouse's layers, composed in one place.

The layers are a list, in the order that a request meets them; each knows only the next.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import tomllib

from gatehouse.artifacts import direct as transfers
from gatehouse.artifacts import guard, repository, stores
from gatehouse.artifacts.layer import ArtifactLayer
from gatehouse.database.reads import service
from gatehouse.database.reads.layer import ReadsLayer
from gatehouse.operations.router import Router
from gatehouse.pipeline import failures, limits
from gatehouse.pipeline.access import AccessLayer
from gatehouse.pipeline.audit import AuditLayer, AuditLog
from gatehouse.pipeline.body import BodyLayer
from gatehouse.pipeline.cross_origin import CrossOriginLayer
from gatehouse.pipeline.discovery import FOLDER as PUBLISHED
from gatehouse.pipeline.discovery import DiscoveryLayer
from gatehouse.pipeline.dispatch import Dispatcher
from gatehouse.pipeline.failures import FailureLayer
from gatehouse.pipeline.identity import IdentityLayer
from gatehouse.pipeline.security import SecurityLayer
from gatehouse.pipeline.stack import Layer, Pipeline, stack
from gatehouse.policy.source import PolicySource
from gatehouse.stamping import rows
from gatehouse.stamping.current import tell_flask
from gatehouse.stamping.layer import StampingLayer
from gatehouse.start.prepare import PROOF_NAME
from gatehouse.start.verdicts import other_origins
from gatehouse.ui import static
from gatehouse.ui.account import AccountLayer
from gatehouse.ui.page import UiLayer
from gatehouse.ui.static import StaticLayer
from gatehouse.upstream import application as upstream_application
from gatehouse.upstream import security

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starlette.types import ASGIApp

    from gatehouse.start.settings import Settings


def build(settings: Settings, run_directory: Path, environment: Mapping[str, str]) -> ASGIApp:
    """Return the whole application; ``mlflow_app.configure`` must have run.

    Raises:
        PolicyError: if the access policy can't be used.
    """
    policy = PolicySource(settings.access_policy, settings.app_env)
    log = AuditLog()
    mlflow = upstream_application.load()
    flask = upstream_application.load_flask()
    tell_flask(flask)
    rows.register()

    failures.register(mlflow, flask)
    limits.register(flask)
    layers: list[Layer] = [
        # How to sign in, and with which client, is for strangers, and the same for everybody.
        partial(DiscoveryLayer, folder=run_directory / PUBLISHED),
        # A browser's question whether a page may ask comes without credentials.
        partial(CrossOriginLayer, origins=other_origins(environment, settings.public_url or "")),
        # Writes the line of whatever answer leaves, also of a refusal by a layer behind it.
        partial(AuditLayer, log=log, project=environment.get("GOOGLE_CLOUD_PROJECT"), reads=settings.audit_reads),
        partial(
            IdentityLayer,
            proof=(run_directory / PROOF_NAME).read_bytes(),
            cookie_names=[environment.get("OAUTH2_PROXY_COOKIE_NAME", ""), "_oauth2_proxy"],
            # Cloud Run's front end appends the client's address, oauth2-proxy that of the front end.
            trusted_hops=1 if environment.get("K_SERVICE") else 0,
            session_lifetime=session_lifetime(environment, run_directory / "proxy.cfg"),
        ),
        partial(SecurityLayer, middlewares=security.take_off(mlflow)),
        partial(AccountLayer, policy=policy),
        partial(AccessLayer, router=Router(mlflow, flask), policy=policy, log=log),
        BodyLayer,
        StampingLayer,
    ]
    guard.register(settings.addresses())
    if destination := settings.artifacts_destination:
        kind = transfers.DirectRepository if settings.direct_transfers else repository.StoreRepository
        repository.register(destination, partial(stores.shared, destination), kind)
        layers.append(partial(ArtifactLayer, destination=destination, limit=settings.artifact_timeout))
    scripts = partial(StaticLayer, folder=static.source_folder(), compressed=static.compressed_folder())
    layers += [UiLayer, scripts, FailureLayer]
    database = settings.read_replica or settings.backend_store_uri
    if settings.fast_reads and (reads := service.of(database, settings.read_connections, settings.database_timeout)):
        layers.append(partial(ReadsLayer, reads=reads))
    return Pipeline(stack(layers, Dispatcher(mlflow, flask, settings.workers, settings.database_timeout)), mlflow)


def session_lifetime(environment: Mapping[str, str], proxy_file: Path) -> float | None:
    """Return the seconds that the proxy's session cookie is good for, or None if they can't be told."""
    text = environment.get("OAUTH2_PROXY_COOKIE_EXPIRE")
    if not text:
        try:
            text = tomllib.loads(proxy_file.read_text()).get("cookie_expire", "168h")  # oauth2-proxy's default
        except (OSError, ValueError):
            return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    # A duration of Go (time.ParseDuration), as far as anybody writes one for a session.
    if not isinstance(text, str) or not re.fullmatch(r"(?:\d+[hms])+", text):
        return None
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))
