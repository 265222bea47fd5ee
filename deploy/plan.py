"""The plan: what is there, compared with what is wanted, as steps with their gcloud commands. Pure: nothing runs here."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

from deploy import commands, schema_job, secrets, service
from deploy.config import CANDIDATE, Config
from deploy.observe import State, holds
from deploy.secrets import DATABASE, USER, Input

Verb = Literal["create", "change", "run"]


@dataclass(frozen=True)
class Step:
    """One thing to do: a gcloud command, or a smoke test (`argv` is empty, `url` says of what).

    `needs` are the keys of the steps that must have ended before.
    """

    key: str
    verb: Verb
    title: str
    argv: tuple[str, ...] = ()
    input: Input | None = None
    needs: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    url: str = ""
    cwd: str = ""

    def shell(self, config: Config) -> str:
        """Return the command as one would type it."""
        if not self.argv:
            return f"python -m deploy smoke {config.given} --url={self.url}"
        text = " ".join(shlex.quote(part) for part in self.argv).replace(
            service.CLIENT_ID, "'\"$OAUTH2_PROXY_CLIENT_ID\"'"
        )
        return f"{secrets.shell(config, self.input)} | {text}" if self.input else text


@dataclass
class Plan:
    """What would be done, in an order that works, and what stays as it is."""

    config: Config
    number: str
    image: str
    url: str
    steps: list[Step] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: The revision that serves now ("" before the first deploy), and what is asked of a person before the steps can run.
    serving: str = ""
    questions: list[str] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Append a step; what it needs and is not in the plan is there already."""
        known = {s.key for s in self.steps}
        needs = tuple(key for key in step.needs if key in known)
        self.steps.append(Step(**{**step.__dict__, "needs": needs}))

    def leave_out_smoke_tests(self) -> None:
        """Take the smoke tests out; what waited for one then waits for what that one waited for."""
        kept, self.steps = [step for step in self.steps if not step.url], []
        for step in kept:
            self.add(step)

    @property
    def releases(self) -> bool:
        """Whether a new revision comes of it."""
        return any(step.key in {"deploy", "candidate"} for step in self.steps)


def client_id(config: Config, state: State) -> str:
    """Return the OAuth client's id: from the file, or from the note on its secret; "" while nobody has said."""
    note = state.secrets.get("oauth-client-secret", {}).get("annotations", {}).get("client-id", "")
    return str(config.oauth.get("client_id") or note)


def versions(config: Config, state: State) -> dict[str, str]:
    """Return the version that the service is to get of each secret: the one that it has, the newest, or the one to be made."""
    pins, chosen = service.pinned(state.table), {}
    for secret in secrets.wanted(config):
        name = config.names.secret(secret.key)
        if secret.key == "access-policy" and _policy_changed(config, state):
            chosen[secret.key] = str(state.newest.get(secret.key, 0) + 1)
        elif secret.key in state.secrets and name in pins:
            chosen[secret.key] = pins[name]
        else:
            chosen[secret.key] = str(state.enabled.get(secret.key) or state.newest.get(secret.key, 0) + 1)
    return chosen


def _policy_changed(config: Config, state: State) -> bool:
    notes = state.secrets.get("access-policy", {}).get("annotations", {})
    return bool(notes.get("sha256") != config.policy_digest)


def make(config: Config, state: State, image: str, given_client_id: str = "") -> Plan:
    """Return the plan that takes `state` to what `config` wants."""
    plan = Plan(config, state.number, image, config.public_url(state.number), serving=state.serving)
    _infrastructure(plan, config, state, given_client_id)
    _rights(plan, config, state)
    _release(plan, config, state, given_client_id or client_id(config, state) or service.CLIENT_ID)
    return plan


def _infrastructure(plan: Plan, config: Config, state: State, given_client_id: str) -> None:
    names = config.names
    if missing := [api for api in commands.APIS if api not in state.apis]:
        plan.add(Step("apis", "create", f"enable {len(missing)} APIs", commands.services_enable(config, missing)))
    else:
        plan.kept.append("the APIs")

    if state.account is None:
        plan.add(
            Step(
                "account",
                "create",
                f"service account {config.account}",
                commands.account_create(config),
                needs=("apis",),
            )
        )
    else:
        plan.kept.append(f"service account {config.account}")

    if state.repository is None:
        plan.add(
            Step(
                "repository",
                "create",
                f"image repository {names.repository}",
                commands.repository_create(config),
                needs=("apis",),
            )
        )
    else:
        plan.kept.append(f"image repository {names.repository}")
    how = config.data["image"]
    if how == "cloudbuild" and not state.image:
        plan.add(
            Step(
                "image",
                "create",
                f"image {plan.image} (Cloud Build)",
                commands.image_build(config, plan.image),
                needs=("repository",),
            )
        )
    elif how == "docker" and not state.image:
        plan.add(Step("image/build", "create", f"image {plan.image} (docker)", commands.docker_build(plan.image)))
        plan.add(
            Step(
                "image",
                "create",
                f"push {plan.image}",
                commands.docker_push(plan.image),
                needs=("repository", "image/build"),
            )
        )
    else:
        plan.kept.append(f"image {plan.image}")

    _secrets(plan, config, state, given_client_id)
    _database(plan, config, state)
    _bucket(plan, config, state)


def _secrets(plan: Plan, config: Config, state: State, given_client_id: str) -> None:
    for secret in secrets.wanted(config):
        name, key = config.names.secret(secret.key), f"secret/{secret.key}"
        value, meta = Input("value", secret.key), state.secrets.get(secret.key)
        notes: dict[str, str] = {}
        if secret.key == "access-policy":
            notes = {"sha256": config.policy_digest}
        if secret.key == "oauth-client-secret":
            notes = {"client-id": given_client_id or client_id(config, state) or service.CLIENT_ID}
            if meta is None or not state.newest.get(secret.key):
                plan.questions.append(secret.key)
        if meta is None:
            argv = commands.secret_create(config, name, notes)
            plan.add(Step(key, "create", f"secret {name} ({secret.what})", argv, value, ("apis",)))
        elif not state.enabled.get(secret.key) and not state.newest.get(secret.key):
            # gcloud makes the secret first and its first version then: this one was interrupted in between.
            plan.add(
                Step(
                    key,
                    "change",
                    f"secret {name}: its first version",
                    commands.secret_add(config, name),
                    value,
                )
            )
        elif not state.enabled.get(secret.key):
            plan.notes.append(
                f"secret {name} has no enabled version: enable one, or delete the secret to have a new one made"
            )
        elif secret.key == "access-policy" and _policy_changed(config, state):
            plan.add(
                Step(
                    key,
                    "change",
                    f"secret {name}: the policy's file changed",
                    commands.secret_add(config, name),
                    value,
                )
            )
            argv = commands.secret_annotate(config, name, notes)
            plan.add(
                Step(
                    f"{key}/note",
                    "change",
                    f"secret {name}: note the file's digest",
                    argv,
                    needs=("traffic", key),
                )
            )
        else:
            plan.kept.append(f"secret {name}")


def sql_differences(config: Config, sql: dict[str, Any]) -> tuple[str, ...]:
    """Return how the database differs from its configuration, among what can be changed."""
    settings, want = sql["settings"], config.sql
    backup, network = settings.get("backupConfiguration", {}), settings.get("ipConfiguration", {})
    before = {
        "tier": settings.get("tier", ""),
        "availability": settings.get("availabilityType", "ZONAL").lower(),
        "backups": str(backup.get("backupRetentionSettings", {}).get("retainedBackups", "7"))
        if backup.get("enabled")
        else "off",
        "point in time recovery": str(backup.get("pointInTimeRecoveryEnabled", False)).lower(),
        "deletion protection": str(settings.get("deletionProtectionEnabled", False)).lower(),
        "connector enforcement": settings.get("connectorEnforcement", "NOT_REQUIRED"),
        "ssl mode": network.get("sslMode", ""),
        "authorized networks": str(len(network.get("authorizedNetworks", []))),
    }
    after = {
        "tier": want["tier"],
        "availability": want["availability"],
        "backups": str(want["backups"]),
        "point in time recovery": str(want["point_in_time_recovery"]).lower(),
        "deletion protection": str(want["deletion_protection"]).lower(),
        "connector enforcement": "REQUIRED",
        "ssl mode": "ENCRYPTED_ONLY",
        "authorized networks": "0",
    }
    labels = settings.get("userLabels", {})
    before |= {f"label/{key}": labels.get(key, "") for key in config.labels}
    after |= {f"label/{key}": value for key, value in config.labels.items()}
    if (
        int(settings.get("dataDiskSizeGb", want["storage_gb"])) < want["storage_gb"]
    ):  # it grows by itself, and never shrinks
        before["storage"], after["storage"] = f"{settings['dataDiskSizeGb']} GB", f"{want['storage_gb']} GB"
    return service.differences(before, after)


def _database(plan: Plan, config: Config, state: State) -> None:
    name = config.names.sql
    if state.sql is None:
        title = f"database server {name} ({config.sql['version']}, {config.sql['tier']}; takes 5 to 10 minutes)"
        plan.add(Step("sql", "create", title, commands.sql_create(config), needs=("apis",)))
    elif state.sql_operations:
        operation = state.sql_operations[0]["name"]
        plan.add(
            Step(
                "sql",
                "run",
                f"wait for database server {name} ({state.sql.get('state')})",
                commands.sql_wait(config, operation),
            )
        )
    elif changed := sql_differences(config, state.sql):
        argv = commands.sql_patch(config, any(line.startswith("storage:") for line in changed))
        plan.add(Step("sql", "change", f"database server {name}", argv, details=changed))
    else:
        plan.kept.append(f"database server {name}")
    if DATABASE not in state.databases:
        plan.add(
            Step(
                "sql/database",
                "create",
                f"database {DATABASE}",
                commands.database_create(config, DATABASE),
                needs=("sql",),
            )
        )
    else:
        plan.kept.append(f"database {DATABASE}")
    password, needs = Input("password", "database-url"), ("sql", "sql/database", "secret/database-url")
    if USER not in state.users:
        plan.add(
            Step(
                "sql/user",
                "create",
                f"database user {USER}",
                commands.user_create(config, USER),
                password,
                needs,
            )
        )
    elif "database-url" not in state.secrets:
        plan.add(
            Step(
                "sql/user",
                "change",
                f"database user {USER}: the new password",
                commands.user_password(config, USER),
                password,
                needs,
            )
        )
    else:
        plan.kept.append(f"database user {USER}")


def bucket_differences(config: Config, bucket: dict[str, Any]) -> tuple[str, ...]:
    """Return how the bucket's settings differ from what they must be."""
    access = bucket.get("iamConfiguration", {})
    rules = json.loads(config.lifecycle.read_text(encoding="utf-8"))["rule"]
    before = {
        "uniform access": str(access.get("uniformBucketLevelAccess", {}).get("enabled", False)).lower(),
        "public access prevention": access.get("publicAccessPrevention", "inherited"),
        "versioning": str(bucket.get("versioning", {}).get("enabled", False)).lower(),
        "lifecycle": _canonical(bucket.get("lifecycle", {}).get("rule", [])),
    }
    after = {
        "uniform access": "true",
        "public access prevention": "enforced",
        "versioning": "true",
        "lifecycle": _canonical(rules),
    }
    before |= {f"label/{key}": bucket.get("labels", {}).get(key, "") for key in config.labels}
    after |= {f"label/{key}": value for key, value in config.labels.items()}
    return service.differences(before, after)


def _canonical(rules: list[dict[str, Any]]) -> str:
    return " ".join(sorted(json.dumps(rule, sort_keys=True) for rule in rules))


def _bucket(plan: Plan, config: Config, state: State) -> None:
    update = commands.bucket_update(config)
    if state.bucket is None:
        plan.add(Step("bucket", "create", f"bucket {config.bucket}", commands.bucket_create(config)))
        plan.add(
            Step(
                "bucket/settings",
                "change",
                "bucket: versioning, lifecycle, labels",
                update,
                needs=("bucket",),
            )
        )
    elif changed := bucket_differences(config, state.bucket):
        plan.add(Step("bucket/settings", "change", "bucket: its settings", update, details=changed))
    else:
        plan.kept.append(f"bucket {config.bucket}")


def _rights(plan: Plan, config: Config, state: State) -> None:
    member = f"serviceAccount:{config.account}"
    if not holds(state.project_policy, "roles/cloudsql.client", member, commands.sql_condition(config)):
        argv = commands.project_bind(config)
        plan.add(
            Step(
                "right/sql",
                "create",
                f"right to connect to {config.names.sql} (only)",
                argv,
                needs=("account",),
            )
        )
    else:
        plan.kept.append("right to connect to the database")
    if not holds(state.bucket_policy, "roles/storage.objectUser", member):
        argv = commands.bucket_bind(config)
        plan.add(
            Step(
                "right/bucket",
                "create",
                f"right to use objects in {config.bucket}",
                argv,
                needs=("account", "bucket/settings"),
            )
        )
    else:
        plan.kept.append("right to use the bucket")
    if config.service["direct_transfers"]:
        if not holds(state.account_policy, commands.SIGNER, member):
            title = "right to sign URLs of the bucket (as itself only)"
            plan.add(Step("right/sign", "create", title, commands.account_bind(config), needs=("account",)))
        else:
            plan.kept.append("right to sign URLs")
    for secret in secrets.wanted(config):
        name = config.names.secret(secret.key)
        if holds(state.secret_policies.get(secret.key, {}), "roles/secretmanager.secretAccessor", member):
            plan.kept.append(f"right to read {name}")
        else:
            needs = ("account", f"secret/{secret.key}")
            plan.add(
                Step(
                    f"right/{secret.key}",
                    "create",
                    f"right to read {name}",
                    commands.secret_bind(config, name),
                    needs=needs,
                )
            )


def _release(plan: Plan, config: Config, state: State, client: str) -> None:
    chosen = versions(config, state)
    before, after = state.table, service.wanted(config, state.number, client, plan.image, chosen)
    changed = service.differences(before, after)
    if before and not changed:
        plan.kept.append(f"service {config.names.service} (revision {state.serving})")
        status = (state.service or {}).get("status", {})
        good = status.get("latestCreatedRevisionName") == status.get("latestReadyRevisionName")
        # A candidate that never came up has no address to take away, and gcloud can't change traffic without complaining of it.
        leftover = good and any(target.get("tag") == CANDIDATE for target in status.get("traffic", []))
        if leftover:
            argv = commands.service_untag(config, CANDIDATE)
            plan.add(Step("untag", "change", "the tag of a release that was tried before", argv))
        return
    ready = tuple(step.key for step in plan.steps)
    flags = service.flags(config, state.number, client, plan.image, chosen)
    if before.get("image") != plan.image:
        if before:
            argv = commands.backup_create(config, f"before {plan.image.rsplit(':', 1)[1]}")
            plan.add(Step("backup", "run", "backup of the database", argv, needs=ready))
        argv = schema_job.argv(config, plan.image, chosen["database-url"], schema_job.MIGRATE)
        plan.add(Step("migrate", "run", "schema migration (a Cloud Run job)", argv, needs=(*ready, "backup")))
    needs = (*ready, "migrate")
    if before:
        argv = commands.service_deploy(config, flags, traffic=False, tag=CANDIDATE)
        plan.add(Step("candidate", "change", "new revision, without traffic", argv, needs=needs, details=changed))
        tagged = config.url(state.number, CANDIDATE)
        plan.add(Step("smoke/candidate", "run", f"smoke test of {tagged}", url=tagged, needs=("candidate",)))
        # The candidate's name is known only once it exists: `--to-tags` follows the tag.
        argv = commands.service_promote(config, CANDIDATE)
        plan.add(
            Step(
                "traffic",
                "change",
                "all traffic to the new revision",
                argv,
                needs=("candidate", "smoke/candidate"),
            )
        )
        plan.add(
            Step(
                "untag",
                "change",
                "the candidate's tag goes",
                commands.service_untag(config, CANDIDATE),
                needs=("traffic",),
            )
        )
    else:
        argv = commands.service_deploy(config, flags, traffic=True, tag="")
        plan.add(
            Step(
                "deploy",
                "create",
                f"service {config.names.service}",
                argv,
                needs=needs,
                details=changed if state.service else (),
            )
        )
    plan.add(Step("smoke", "run", f"smoke test of {plan.url}", url=plan.url, needs=("deploy", "traffic", "untag")))
    plan.notes.append(
        "Cloud Run's own invoker check is off on purpose: oauth2-proxy in the container is the gate, and that check would strip the"
        " signature of the tokens it has to verify."
    )
