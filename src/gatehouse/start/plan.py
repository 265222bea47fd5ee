"""The plan of a start: settings, access policy and proxy's configuration, read and checked once, and frozen.

:func:`gatehouse.start.prepare.prepare` makes it; the supervisor starts the programs from it. MLflow's part goes to its
process by a pipe.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gatehouse.policy.file import PolicyFile
from gatehouse.start.settings import Settings

#: MLflow's socket, in the run directory.
SOCKET_NAME = "mlflow.sock"
PROXY_CONFIG_NAME = "proxy.cfg"


@dataclass(frozen=True)
class Program:
    """A command line, with its whole environment: what isn't in there, it doesn't have."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class ServerPlan:
    """What MLflow's side is told. It holds no secret of the proxy but the proof."""

    settings: Settings
    #: The access policy that the settings name.
    policy: PolicyFile
    run_directory: Path
    #: By it MLflow's side knows the proxy: a random value of this start.
    proof: bytes
    #: The cookies that are the proxy's own.
    cookies: tuple[str, ...]
    #: Seconds that a session is good for, or None if that can't be told.
    session_lifetime: float | None
    #: Proxies in front of oauth2-proxy whose word on the client's address counts.
    trusted_hops: int
    #: The Google Cloud project, which makes a trace's id in the audit log a link.
    project: str | None
    #: Pages of these other origins may ask.
    origins: tuple[str, ...]
    #: Whether MLflow's job runner is wanted.
    jobs: bool
    #: Whether anybody wants figures: METRICS, or a push by OTLP.
    monitoring: bool = False
    #: Whether workspaces are on.
    workspaces: bool = False

    @staticmethod
    def alone(settings: Settings, run_directory: Path, proof: bytes) -> ServerPlan:
        """Return the plan of MLflow's side alone, without a proxy that it could be read from; for measurements."""
        policy = PolicyFile.read(settings.access_policy, settings.app_env, settings.machine_issuers)
        alone = ServerPlan(settings, policy, run_directory, proof, ("_gatehouse",), None, 0, None, (), jobs=False)
        return replace(alone, workspaces=policy.policy.has_workspaces)

    def dump(self) -> bytes:
        """Return it as bytes, for the pipe to MLflow's process."""
        return pickle.dumps(self)

    @staticmethod
    def load(data: bytes) -> ServerPlan:
        """Return what :meth:`dump` was called on; the bytes come from the supervisor alone."""
        plan = pickle.loads(data)  # noqa: S301 - by a pipe from the process that started this one
        assert isinstance(plan, ServerPlan)  # noqa: S101 - for mypy
        return plan


@dataclass(frozen=True, repr=False)
class Plan:
    """All that a start does."""

    server: ServerPlan
    server_environment: Mapping[str, str]
    proxy: Program
    listener: Program | None
    #: The environment of what shows figures, or None if nobody wants any.
    monitor_environment: Mapping[str, str] | None = None
    #: What is said on stderr, and stops no start.
    notes: tuple[str, ...] = ()
