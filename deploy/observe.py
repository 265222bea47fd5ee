"""What exists: one look at everything that belongs to an environment, by REST, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deploy.cloud.google import Google, side_by_side
from deploy.config import Config
from deploy.resources import account, bucket, database, images, project, secrets, service, watch
from deploy.resources.service import NOTHING, Service


@dataclass
class State:
    """What the cloud holds of one environment; None and empty mean that it is not there."""

    project: project.Project = field(default_factory=project.Project)
    account: dict[str, Any] | None = None
    account_policy: dict[str, Any] = field(default_factory=dict)
    build_account: dict[str, Any] | None = None
    build_bucket: dict[str, Any] | None = None
    build_bucket_policy: dict[str, Any] = field(default_factory=dict)
    repository: dict[str, Any] | None = None
    repository_policy: dict[str, Any] = field(default_factory=dict)
    #: The digest of the wanted image in this environment's repository; empty if it is not there.
    digest: str = ""
    database: database.Database | None = None
    backups: list[dict[str, Any]] = field(default_factory=list)
    bucket: dict[str, Any] | None = None
    bucket_policy: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, secrets.Kept] = field(default_factory=dict)
    service: service.Observed | None = None
    watch: watch.Found = field(default_factory=watch.Found)

    @property
    def number(self) -> str:
        """The project's number."""
        return self.project.number

    @property
    def serving(self) -> str:
        """The revision that has the traffic; empty if none does."""
        return self.service.serving if self.service else ""

    @property
    def served(self) -> Service:
        """The settings of what serves."""
        return self.service.state if self.service else NOTHING

    @property
    def pins(self) -> dict[str, str]:
        """Secret's full name → version that serves, or that was tried last."""
        return self.service.pins if self.service else {}


def observe(config: Config, google: Google, image: str) -> State:
    """Look at everything that belongs to the environment, and at the image that is wanted. Raises CloudError."""
    state = State()

    def put(target: Any, name: str, act: Callable[[], Any]) -> Callable[[], None]:
        return lambda: setattr(target, name, act())

    # What is on says what can be asked; the rest of the first round needs no API but those that are always on.
    side_by_side(
        [
            put(state.project, "apis", lambda: project.look_at_apis(config, google)),
            put(state.project, "number", lambda: project.number(config, google)),
            put(state.project, "policy", lambda: project.look_at_policy(config, google)),
            put(state, "bucket", lambda: bucket.look(config, google, config.names.bucket)),
        ]
    )
    on, builds = state.project.on, config.settings.image == "cloudbuild"
    looks: list[Callable[[], None]] = []
    if state.bucket is not None:
        looks.append(put(state, "bucket_policy", lambda: bucket.look_at_policy(config, google, config.names.bucket)))
    if on("iam"):
        looks.append(lambda: _accounts(config, google, state, builds))
    if on("artifactregistry"):
        looks.append(lambda: _images(config, google, state, image, builds))
    if on("sqladmin"):
        looks.append(lambda: _database(config, google, state))
    if on("secretmanager"):
        looks.append(lambda: _secrets(config, google, state))
    if on("run"):
        looks.append(put(state, "service", lambda: service.look(config, google)))
    looks.append(put(state, "watch", lambda: watch.look(config, google, on)))
    side_by_side(looks)
    _versions(config, google, state)
    return state


def _accounts(config: Config, google: Google, state: State, builds: bool) -> None:
    state.account = account.look(config, google, config.account)
    if state.account is not None:
        state.account_policy = account.look_at_policy(config, google, config.account)
    if builds:
        state.build_account = account.look(config, google, config.address(config.names.build_account))
        state.build_bucket = bucket.look(config, google, config.names.build_bucket)
        if state.build_bucket is not None:
            state.build_bucket_policy = bucket.look_at_policy(config, google, config.names.build_bucket)


def _images(config: Config, google: Google, state: State, image: str, builds: bool) -> None:
    state.repository = images.look(config, google)
    if state.repository is not None:
        if builds:
            state.repository_policy = images.look_at_policy(config, google)
        if image.startswith(f"{config.repository}:"):
            state.digest = images.digest(google, image)


def _database(config: Config, google: Google, state: State) -> None:
    state.database = database.look(config, google)
    if state.database is not None and state.database.ready:
        state.backups = database.backups(config, google)


def _secrets(config: Config, google: Google, state: State) -> None:
    state.secrets = secrets.look(config, google)
    for key, kept in state.secrets.items():
        kept.policy = secrets.look_at_policy(config, google, config.names.secret(key))


def _versions(config: Config, google: Google, state: State) -> None:
    """Look at the versions of those secrets whose serving version doesn't say enough."""
    looks: list[Callable[[], None]] = []
    for key, kept in state.secrets.items():
        name = config.names.secret(key)
        pin = state.pins.get(name, "")
        changed = key == "access-policy" and kept.notes.get("sha256") != config.policy_digest
        if pin.isdigit() and not changed:
            kept.newest = kept.enabled = int(pin)
        else:
            looks.append(
                lambda kept=kept, name=name: secrets.take_versions(kept, secrets.versions(config, google, name))  # type: ignore[misc]
            )
    side_by_side(looks)
