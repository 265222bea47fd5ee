"""The ASGI application: MLflow behind Gatehouse's layers, composed in one place.

The layers are a list, in the order that a request meets them; each knows only the next.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gatehouse.artifacts import direct, guard, repository, stores
from gatehouse.artifacts.layer import ArtifactLayer
from gatehouse.audit.layer import AuditLayer, IntentLayer
from gatehouse.audit.refusals import Refusals
from gatehouse.bodies.budget import Budget, capacity
from gatehouse.bodies.layer import BodyLayer
from gatehouse.bodies.reader import Bodies
from gatehouse.database import keys as keys_table
from gatehouse.database import shortway, walls, workspaces
from gatehouse.database.layer import ShortWayLayer
from gatehouse.dispatch import limits
from gatehouse.dispatch.dispatcher import Dispatcher
from gatehouse.dispatch.old_paths import OldPathsLayer
from gatehouse.dispatch.share import ShareLayer
from gatehouse.identities.credentials import Credentials
from gatehouse.identities.keys import Keys
from gatehouse.identities.keys_layer import KeysLayer
from gatehouse.identities.tokens import Machines
from gatehouse.monitoring.layer import MonitoringLayer
from gatehouse.operations.router import Router
from gatehouse.pipeline import failures
from gatehouse.pipeline.access import AccessLayer
from gatehouse.pipeline.authentication import AuthenticationLayer
from gatehouse.pipeline.bounds import BoundsLayer
from gatehouse.pipeline.failures import FailureLayer
from gatehouse.pipeline.redirects import NoRedirectLayer
from gatehouse.pipeline.security import SecurityLayer
from gatehouse.pipeline.stack import Layer, Pipeline, stack
from gatehouse.policy.source import PolicySource
from gatehouse.public.cross_origin import CrossOriginLayer
from gatehouse.public.discovery import FOLDER as PUBLISHED
from gatehouse.public.discovery import DiscoveryLayer
from gatehouse.public.readiness import ReadinessLayer
from gatehouse.stamping import rows
from gatehouse.stamping.current import tell_flask
from gatehouse.stamping.layer import StampingLayer
from gatehouse.start import status, teams
from gatehouse.teams.entrance import WorkspaceLayer, Workspaces
from gatehouse.ui import static
from gatehouse.ui.access import AccessPageLayer
from gatehouse.ui.account import AccountLayer
from gatehouse.ui.page import UiLayer
from gatehouse.ui.static import StaticLayer
from gatehouse.ui.status import StatusLayer
from gatehouse.upstream import application as upstream_application
from gatehouse.upstream import security

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gatehouse.audit.log import AuditLog
    from gatehouse.request.context import Handler
    from gatehouse.start.figures import Figures
    from gatehouse.start.plan import ServerPlan

#: Connections of each worker for looking up keys.
KEY_CONNECTIONS = 1


def build(plan: ServerPlan, log: AuditLog, figures: Figures | None = None) -> ASGIApp:
    """Return the whole application; ``mlflow_app.configure`` must have run.

    Args:
        figures: what gathers what there is to measure, or None if nobody wants figures.
    """
    settings = plan.settings
    make_declared = partial(teams.make_declared, settings.backend_store_uri) if plan.workspaces else None
    policy = PolicySource(plan.policy, make_declared)
    known_workspaces = workspaces.Known() if plan.workspaces else None
    refusals = Refusals(plan.run_directory if settings.workers > 1 else None)
    machines = Machines(settings.machine_issuers) if settings.machine_issuers else None
    table = keys_table.KeyTable(settings.backend_store_uri, KEY_CONNECTIONS) if settings.api_keys else None
    keys = Keys(table) if table else None
    mlflow = upstream_application.load()
    flask = upstream_application.load_flask()
    tell_flask(flask)
    rows.register()
    if plan.workspaces:
        walls.register()

    failures.register(mlflow, flask)
    limits.register(flask)
    budget = Budget(capacity(settings.workers))
    bodies = Bodies(budget)
    store = urlsplit(settings.artifacts_destination or "none:").scheme
    gatherer = status.Gatherer(settings, plan.run_directory, policy, plan.monitoring)
    layers: list[Layer] = [
        # With METRICS: counts whatever answer leaves.
        *([partial(MonitoringLayer, notes=figures.notes, store=store)] if figures else []),
        # What fails in a layer of ours, that of the audit included, is an answer too.
        FailureLayer,
        # For strangers, and the same for everybody: how to sign in, and with which client; and whether MLflow answers.
        partial(DiscoveryLayer, folder=plan.run_directory / PUBLISHED),
        partial(ReadinessLayer, log=log),
        # A browser's question whether a page may ask comes without credentials.
        partial(CrossOriginLayer, origins=plan.origins),
        # Writes the line of whatever answer leaves, also of a refusal by a layer behind it.
        partial(AuditLayer, log=log, project=plan.project, reads=settings.audit_reads, refusals=refusals),
        # Here once more, so that a failure has its line in the audit log.
        FailureLayer,
        partial(
            AuthenticationLayer,
            proof=plan.proof,
            cookie_names=plan.cookies,
            trusted_hops=plan.trusted_hops,
            session_lifetime=plan.session_lifetime,
            verify=Credentials(machines, keys).verify if machines or keys else None,
        ),
        BoundsLayer,
        # One identity's requests aren't all at once in what follows.
        ShareLayer,
        partial(
            SecurityLayer,
            middlewares=security.take_off(mlflow),
            public_url=settings.public_url or "",
            origins=[*plan.origins, settings.public_url or ""],
        ),
        NoRedirectLayer,
        OldPathsLayer,
        *([WorkspaceLayer] if plan.workspaces else []),
        partial(StatusLayer, policy=policy, gather=gatherer, rows=status.rows),
        partial(
            AccessPageLayer,
            policy=policy,
            refusals=refusals,
            workspaces=known_workspaces.names if known_workspaces else None,
        ),
        *(
            [
                partial(
                    KeysLayer,
                    store=table,
                    known=keys,
                    policy=policy,
                    bodies=bodies,
                    log=log,
                    new=keys_table.Key,
                    problem=keys_table.KeyProblem,
                )
            ]
            if table and keys
            else []
        ),
        partial(AccountLayer, policy=policy),
        partial(
            AccessLayer,
            router=Router(mlflow, flask),
            policy=policy,
            bodies=bodies,
            log=log,
            workspaces=Workspaces(known_workspaces) if known_workspaces else None,
        ),
        partial(BodyLayer, bodies=bodies),
        StampingLayer,
        # Its name and what it names are known now: from here on a write can happen.
        IntentLayer,
    ]
    guard.register(settings.addresses(), settings.artifacts_destination)
    if destination := settings.artifacts_destination:
        kind = direct.DirectRepository if settings.direct_transfers else repository.StoreRepository
        repository.register(destination, partial(stores.shared, destination), kind)

        def artifacts(app: Handler) -> ArtifactLayer:
            layer = ArtifactLayer(app, destination, settings.artifact_timeout)
            if figures:
                figures.pools({"artifacts": layer.slots})
            return layer

        layers.append(artifacts)
    layers += [
        UiLayer,
        partial(StaticLayer, folder=static.source_folder(), compressed=static.compressed_folder()),
    ]
    ways = shortway.of(
        settings.backend_store_uri,
        settings.read_replica,
        settings.read_connections,
        settings.database_timeout,
        read=settings.fast_reads,
        write=settings.fast_writes,
    )
    if ways:
        layers.append(partial(ShortWayLayer, ways=ways))
        if figures:
            figures.reads(ways[0].connections)
    dispatcher = Dispatcher(mlflow, flask, settings.workers, settings.database_timeout, bodies)
    if figures:
        figures.pools(dispatcher.pools)
        figures.parts(budget, log, policy)
    return Pipeline(stack(layers, dispatcher), mlflow)
