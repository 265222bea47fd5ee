"""What exists: one look at the cloud, with as few gcloud commands as will do, in parallel."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deploy import commands, secrets
from deploy import service as services
from deploy.config import Config
from deploy.gcloud import Gcloud
from deploy.service import Table

PARALLEL = 6


@dataclass
class State:
    """What the cloud holds of one environment; None and empty mean that it is not there."""

    number: str = ""
    apis: set[str] = field(default_factory=set)
    project_policy: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] | None = None
    account_policy: dict[str, Any] = field(default_factory=dict)
    repository: dict[str, Any] | None = None
    image: bool = False
    sql: dict[str, Any] | None = None
    sql_operations: list[dict[str, Any]] = field(default_factory=list)
    databases: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    bucket: dict[str, Any] | None = None
    bucket_policy: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    secret_policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Secret's key → number of its newest version (0: none), where that was looked up.
    newest: dict[str, int] = field(default_factory=dict)
    #: Secret's key → number of its newest *enabled* version, likewise.
    enabled: dict[str, int] = field(default_factory=dict)
    service: dict[str, Any] | None = None
    #: The revision that has the traffic, and its description when the service's template is another's.
    serving: str = ""
    serving_revision: dict[str, Any] | None = None

    @property
    def table(self) -> Table:
        """The table of what serves; empty when nothing does."""
        if self.service is None or not self.serving:
            return {}
        return services.found(self.service, self.serving_revision)


def parallel(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run the tasks side by side and return their results; the first error is raised once all have ended."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(task) for task in tasks]
    return [future.result() for future in futures]


def holds(policy: dict[str, Any], role: str, member: str, condition: str = "") -> bool:
    """Return whether an IAM policy has this binding, with exactly this condition."""
    return any(
        b["role"] == role and member in b["members"] and b.get("condition", {}).get("expression", "") == condition
        for b in policy.get("bindings", [])
    )


def observe(config: Config, gcloud: Gcloud, image: str) -> State:
    """Look at everything that belongs to the environment. Raises GcloudError."""
    state = State()
    enabled, project = parallel(
        [
            lambda: gcloud.json(commands.services_list(config)),
            lambda: gcloud.json(commands.project_describe(config)),
        ]
    )
    state.number = str(project["projectNumber"])
    state.apis = {item["config"]["name"] for item in enabled}

    def on(api: str) -> bool:
        return f"{api}.googleapis.com" in state.apis

    tasks: list[Callable[[], None]] = []

    def look(argv: commands.Argv, put: Callable[[Any], None]) -> None:
        tasks.append(lambda: put(gcloud.find(argv)))

    def put(name: str) -> Callable[[Any], None]:
        return lambda value: setattr(state, name, value)

    look(commands.project_policy(config), lambda value: setattr(state, "project_policy", value or {}))
    look(commands.bucket_describe(config), put("bucket"))
    if on("iam"):
        look(commands.account_describe(config), put("account"))
    if on("artifactregistry"):
        look(commands.repository_describe(config), put("repository"))
        if image.startswith(f"{config.repository}:"):
            look(
                commands.image_describe(config, image),
                lambda value: setattr(state, "image", value is not None),
            )
    if on("sqladmin"):
        look(commands.sql_describe(config), put("sql"))
    if on("secretmanager"):
        names = {config.names.secret(secret.key): secret.key for secret in secrets.wanted(config)}

        def take_secrets(value: Any) -> None:
            short = {item["name"].rsplit("/", 1)[1]: item for item in value or []}
            state.secrets = {key: short[name] for name, key in names.items() if name in short}

        look(commands.secrets_list(config), take_secrets)
    if on("run"):
        look(commands.service_describe(config), put("service"))
    parallel(tasks)

    tasks.clear()
    if state.account is not None and config.service["direct_transfers"]:
        look(commands.account_policy(config), lambda value: setattr(state, "account_policy", value or {}))
    if state.bucket is not None:
        look(commands.bucket_policy(config), lambda value: setattr(state, "bucket_policy", value or {}))
    if state.sql is not None and state.sql.get("state") == "RUNNABLE":
        look(
            commands.databases_list(config),
            lambda v: setattr(state, "databases", {d["name"] for d in v or []}),
        )
        look(commands.users_list(config), lambda v: setattr(state, "users", {u["name"] for u in v or []}))
    elif state.sql is not None:
        look(commands.sql_operations(config), lambda v: setattr(state, "sql_operations", v or []))
    if state.service is not None:
        status = state.service.get("status", {})
        shares = [(target.get("percent", 0), target["revisionName"]) for target in status.get("traffic", [])]
        state.serving = max((share for share in shares if share[0]), default=(0, ""))[
            1
        ]  # somebody may have split it by hand
        if state.serving and state.serving != status.get("latestCreatedRevisionName"):
            look(commands.revision_describe(config, state.serving), put("serving_revision"))
        if state.serving and status.get("latestReadyRevisionName") is None:
            state.serving = ""
    pins = services.pinned(services.found(state.service)) if state.service is not None else {}
    for key, meta in state.secrets.items():
        name = config.names.secret(key)
        look(commands.secret_policy(config, name), partial(_take_policy, state, key))
        changed = key == "access-policy" and meta.get("annotations", {}).get("sha256") != config.policy_digest
        if name not in pins or changed:
            look(commands.secret_versions(config, name), partial(_take_versions, state, key))
    parallel(tasks)
    for key in state.secrets:
        version = services.pinned(state.table).get(config.names.secret(key)) or pins.get(config.names.secret(key))
        if key not in state.enabled and version and version.isdigit():
            state.newest[key] = state.enabled[key] = int(version)
    return state


def _take_policy(state: State, key: str, policy: dict[str, Any] | None) -> None:
    state.secret_policies[key] = policy or {}


def _take_versions(state: State, key: str, versions: list[dict[str, Any]] | None) -> None:
    states = {int(item["name"].rsplit("/", 1)[1]): item["state"].upper() for item in versions or []}
    state.newest[key] = max(states, default=0)
    state.enabled[key] = max((number for number, found in states.items() if found == "ENABLED"), default=0)
