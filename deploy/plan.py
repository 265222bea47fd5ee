"""The plan: what is there, compared with what is wanted, as steps with their gcloud commands.

Pure: nothing runs here.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from typing import Any

from deploy.config import CANDIDATE, Config
from deploy.observe import State
from deploy.resources import account, bucket, database, images, project, schema_job, secrets, service, watch
from deploy.resources.base import Argv, Difference, Refusal, Verb, holds, is_open
from deploy.resources.secrets import Input


@dataclass(frozen=True)
class Step:
    """One thing to do: a command, or a smoke test (`argv` is empty, `url` says of what).

    `needs` are the keys of the steps that must have ended before.
    """

    key: str
    verb: Verb
    title: str
    argv: Argv = ()
    input: Input | None = None
    needs: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    url: str = ""

    def shell(self, config: Config) -> str:
        """Return the command as one would type it."""
        if not self.argv:
            return f"python -m deploy smoke {config.given} --url={self.url}"
        text = " ".join(shlex.quote(part) for part in self.argv).replace(
            service.CLIENT_ID, "'\"$OAUTH2_PROXY_CLIENT_ID\"'"
        )
        if not self.input:
            return text
        given = (
            watch.shell(config, self.input.key) if self.input.kind == "document" else secrets.shell(config, self.input)
        )
        return f"{given} | {text}"


#: Keys (or their beginnings) of the steps that release, on resources that live long: with Terraform, `release` does
#: these and nothing else.
_RELEASES = (
    "backup", "candidate", "deploy", "image", "migrate", "prune/", "smoke", "sql/user", "traffic", "untag", "gc/", "watch/",
)  # fmt: skip


def of_a_release(step: Step) -> bool:
    """Return whether a step belongs to a release: no resource comes of it that Terraform makes."""
    of_a_secret = step.key.startswith("secret/") and step.argv[1:3] in {("secrets", "versions"), ("secrets", "update")}
    return step.key.startswith(_RELEASES) or (of_a_secret and not step.key.endswith("/settings"))


@dataclass
class Plan:
    """What would be done, in an order that works, what stays as it is, and what is refused: then nothing is done."""

    config: Config
    number: str
    image: str
    url: str
    steps: list[Step] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    #: The revision that serves now ("" before the first deploy), and what is asked of a person before the steps can
    #: run.
    serving: str = ""
    questions: list[str] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Append a step; what it needs and is not in the plan is there already."""
        known = {s.key for s in self.steps}
        self.steps.append(replace(step, needs=tuple(key for key in step.needs if key in known)))

    def take(self, difference: Difference) -> bool:
        """Note what is refused of a difference, and return whether something is to be changed."""
        self.refused += difference.refusals
        return bool(difference.changes)

    def leave_out_smoke_tests(self) -> None:
        """Take the smoke tests out; what waited for one then waits for what that one waited for."""
        kept, self.steps = self.steps, []
        gone: dict[str, tuple[str, ...]] = {}
        for step in kept:
            needs = tuple(dict.fromkeys(need for key in step.needs for need in gone.get(key, (key,))))
            if step.url:
                gone[step.key] = needs
            else:
                self.add(replace(step, needs=needs))

    @property
    def releases(self) -> bool:
        """Whether a new revision comes of it."""
        return any(step.key in {"deploy", "candidate"} for step in self.steps)


def client_id(config: Config, state: State) -> str:
    """Return the OAuth client's id: from the file, or from the note on its secret; "" while nobody has said."""
    kept = state.secrets.get("oauth-client-secret")
    return config.oauth.client_id or (kept.notes.get("client-id", "") if kept else "")


def versions(config: Config, state: State) -> dict[str, str]:
    """Return the version that the service is to get of each secret:

    the one that it has, the newest, or the one to be made.
    """
    chosen = {}
    for secret in secrets.wanted(config):
        name, kept = config.names.secret(secret.key), state.secrets.get(secret.key)
        newest, enabled = (kept.newest, kept.enabled) if kept else (0, 0)
        if secret.key == "access-policy" and _policy_changed(config, state):
            chosen[secret.key] = str(newest + 1)
        elif kept and state.serving and name in state.pins:
            chosen[secret.key] = state.pins[name]
        else:
            chosen[secret.key] = str(enabled or newest + 1)
    return chosen


def _policy_changed(config: Config, state: State) -> bool:
    kept = state.secrets.get("access-policy")
    return kept is None or kept.notes.get("sha256") != config.policy_digest


def make(config: Config, state: State, image: str, given_client_id: str = "", commit: str = "HEAD") -> Plan:
    """Return the plan that takes `state` to what `config` wants. `commit` is what an image is built from."""
    image = image or state.served.image  # promoted: what serves already
    plan = Plan(config, state.number, image, config.public_url(state.number), serving=state.serving)
    if missing := [api for api in project.apis(config) if api not in state.project.apis]:
        plan.add(Step("apis", "create", f"enable {len(missing)} APIs", project.enable(config, missing)))
    else:
        plan.kept.append("the APIs")
    _account(plan, config, state)
    _image(plan, config, state, commit)
    _secrets(plan, config, state, given_client_id)
    _database(plan, config, state)
    _bucket(plan, config, state)
    _rights(plan, config, state)
    _release(plan, config, state, given_client_id or client_id(config, state) or service.CLIENT_ID)
    _watch(plan, config, state)
    return plan


def _account(plan: Plan, config: Config, state: State) -> None:
    _one_account(plan, config, state.account, config.names.service_account, "account", "")


def _one_account(plan: Plan, config: Config, there: dict[str, Any] | None, name: str, key: str, purpose: str) -> None:
    email = config.address(name)
    title = f"service account {email}"
    if there is None:
        plan.add(Step(key, "create", title, account.create(config, name, purpose), needs=("apis",)))
        return
    if there.get("disabled"):
        plan.add(Step(f"{key}/enable", "change", f"{title}: enabled again", account.enable(config, email)))
    changed = account.difference(config, email, there, purpose)
    if plan.take(changed):
        argv = account.update(config, email, changed.flags)
        plan.add(Step(key, "change", title, argv, needs=(f"{key}/enable",), details=changed.lines))
    elif not there.get("disabled"):
        plan.kept.append(title)


def _image(plan: Plan, config: Config, state: State, commit: str) -> None:
    names, how = config.names, config.settings.image
    title = f"image repository {names.repository}"
    if state.repository is None:
        plan.add(Step("repository", "create", title, images.create(config), needs=("apis",)))
    else:
        changed = images.difference(config, state.repository)
        if plan.take(changed):
            plan.add(Step("repository", "change", title, images.update(config, changed.flags), details=changed.lines))
        else:
            plan.kept.append(title)
    if how == "cloudbuild":
        _builder(plan, config, state)
    if how not in images.BUILT or state.digest:
        if plan.image:
            plan.kept.append(f"image {plan.image}")
        return
    source = images.export(plan.image, commit)
    plan.add(Step("image/source", "run", f"the image's sources, of commit {commit[:12]}", source))
    if how == "cloudbuild":
        needs = ("repository", "image/source", "build", "build/bucket/settings", "right/build", "right/push")
        argv = images.build(config, plan.image)
        plan.add(Step("image", "create", f"image {plan.image} (Cloud Build)", argv, needs=needs))
        return
    plan.add(
        Step(
            "image/build",
            "create",
            f"image {plan.image} (docker)",
            images.docker_build(plan.image),
            Input("file", images.archive(plan.image)),
            needs=("image/source",),
        )
    )
    argv = images.docker_push(plan.image)
    plan.add(Step("image", "create", f"push {plan.image}", argv, needs=("repository", "image/build")))


def _builder(plan: Plan, config: Config, state: State) -> None:
    """What Cloud Build works with: an account and a bucket of its own."""
    names = config.names
    _one_account(plan, config, state.build_account, names.build_account, "build", "build")
    name, title = names.build_bucket, f"bucket gs://{names.build_bucket}"
    if state.build_bucket is None:
        plan.add(Step("build/bucket", "create", title, bucket.create(config, name)))
        argv = bucket.first_settings(config, name, bucket.BUILD_LIFECYCLE, versioning=False)
        plan.add(Step("build/bucket/settings", "change", f"{title}: its settings", argv, needs=("build/bucket",)))
    else:
        changed = bucket.build_difference(config, state.build_bucket)
        if plan.take(changed):
            argv = bucket.update(config, name, changed.flags, bucket.BUILD_LIFECYCLE)
            plan.add(Step("build/bucket/settings", "change", title, argv, details=changed.lines))
        else:
            plan.kept.append(title)
    email = config.address(names.build_account)
    member = f"serviceAccount:{email}"
    if not holds(state.build_bucket_policy, images.BUILD_BUCKET_ROLE, member):
        argv = bucket.bind(config, name, email, images.BUILD_BUCKET_ROLE)
        needs = ("build", "build/bucket/settings")
        plan.add(Step("right/build", "create", f"right of the build to {title}", argv, needs=needs))
    if not holds(state.repository_policy, images.WRITER, member):
        argv = images.bind(config, email)
        plan.add(Step("right/push", "create", "right of the build to push", argv, needs=("build", "repository")))


def _secrets(plan: Plan, config: Config, state: State, given_client_id: str) -> None:
    for secret in secrets.wanted(config):
        name, key = config.names.secret(secret.key), f"secret/{secret.key}"
        value, kept = Input("value", secret.key), state.secrets.get(secret.key)
        notes: dict[str, str] = {}
        if secret.key == "access-policy":
            notes = {"sha256": config.policy_digest}
        if secret.key == "oauth-client-secret":
            notes = {"client-id": given_client_id or client_id(config, state) or service.CLIENT_ID}
            if kept is None or not kept.newest:
                plan.questions.append(secret.key)
        if kept is None:
            argv = secrets.create(config, name, notes)
            plan.add(Step(key, "create", f"secret {name} ({secret.what})", argv, value, ("apis",)))
            continue
        changed = secrets.difference(config, name, kept.answer)
        if plan.take(changed):
            argv = secrets.update(config, name, changed.flags)
            plan.add(Step(f"{key}/settings", "change", f"secret {name}", argv, details=changed.lines))
        if not kept.enabled and not kept.newest:
            # gcloud makes the secret first and its first version then: this one was interrupted in between.
            # Or Terraform made it, without what goes with its value.
            argv = secrets.add(config, name)
            plan.add(Step(key, "change", f"secret {name}: its first version", argv, value, (f"{key}/settings",)))
            if secret.key == "oauth-client-secret" and not kept.notes.get("client-id"):
                argv = secrets.annotate(config, name, notes)
                plan.add(Step(f"{key}/note", "change", f"secret {name}: note the client's id", argv, needs=(key,)))
        elif not kept.enabled:
            plan.notes.append(
                f"secret {name} has no enabled version: enable one, or delete the secret to have a new one made"
            )
        elif secret.key == "access-policy" and _policy_changed(config, state):
            argv, needs = secrets.add(config, name), (f"{key}/settings",)
            plan.add(Step(key, "change", f"secret {name}: the policy's file changed", argv, value, needs))
        elif not changed.changes:
            plan.kept.append(f"secret {name}")
    for key in state.secrets.keys() - {secret.key for secret in secrets.wanted(config)}:
        name = config.names.secret(key)
        plan.notes.append(
            f"secret {name} is not used any more: gcloud secrets delete {name} --project={config.project}"
        )


def _database(plan: Plan, config: Config, state: State) -> None:
    name, there = config.names.sql, state.database
    if there is None:
        title = f"database server {name} ({config.sql.version}, {config.sql.tier}; takes 5 to 10 minutes)"
        plan.add(Step("sql", "create", title, database.create(config), needs=("apis",)))
    elif there.operations:
        title = f"wait for database server {name} ({there.answer.get('state')})"
        plan.add(Step("sql", "run", title, database.wait(config, there.operations[0]["name"])))
    else:
        changed = database.difference(config, there.answer)
        if plan.take(changed):
            argv = database.update(config, changed.flags)
            plan.add(Step("sql", "change", f"database server {name}", argv, details=changed.lines))
        else:
            plan.kept.append(f"database server {name}")
    databases, users = (there.databases, there.users) if there else (set(), set())
    title = f"database {database.DATABASE}"
    if database.DATABASE not in databases:
        plan.add(Step("sql/database", "create", title, database.create_database(config), needs=("sql",)))
    else:
        plan.kept.append(title)
    title, password = f"database user {database.USER}", Input("password", "database-url")
    needs = ("sql", "sql/database", "secret/database-url")
    if database.USER not in users:
        plan.add(Step("sql/user", "create", title, database.create_user(config), password, needs))
    elif "database-url" not in state.secrets:
        argv = database.set_password(config)
        plan.add(Step("sql/user", "change", f"{title}: the new password", argv, password, needs))
    else:
        plan.kept.append(title)


def _bucket(plan: Plan, config: Config, state: State) -> None:
    name, title = config.names.bucket, f"bucket {config.bucket}"
    if state.bucket is None:
        plan.add(Step("bucket", "create", title, bucket.create(config, name)))
        argv = bucket.first_settings(config, name, config.lifecycle)
        plan.add(Step("bucket/settings", "change", "bucket: versioning, lifecycle, labels", argv, needs=("bucket",)))
        return
    changed = bucket.difference(config, state.bucket)
    if plan.take(changed):
        argv = bucket.update(config, name, changed.flags, config.lifecycle)
        plan.add(Step("bucket/settings", "change", "bucket: its settings", argv, details=changed.lines))
    else:
        plan.kept.append(title)
    plan.notes += [f"too wide: {line} on {config.bucket}" for line in is_open(state.bucket_policy)]


def _rights(plan: Plan, config: Config, state: State) -> None:
    member = f"serviceAccount:{config.account}"
    if not holds(state.project.policy, project.CLIENT, member, project.database_condition(config)):
        title = f"right to connect to {config.names.sql} (only)"
        plan.add(Step("right/sql", "create", title, project.bind(config), needs=("account",)))
    else:
        plan.kept.append("right to connect to the database")
    if not holds(state.bucket_policy, bucket.USER, member):
        argv = bucket.bind(config, config.names.bucket, config.account, bucket.USER)
        title, needs = f"right to use objects in {config.bucket}", ("account", "bucket/settings")
        plan.add(Step("right/bucket", "create", title, argv, needs=needs))
    else:
        plan.kept.append("right to use the bucket")
    signs, title = (
        holds(state.account_policy, account.SIGNER, member),
        "right to sign URLs of the bucket (as itself only)",
    )
    if config.service.direct_transfers and not signs:
        plan.add(Step("right/sign", "create", title, account.bind_signer(config), needs=("account",)))
    elif config.service.direct_transfers:
        plan.kept.append("right to sign URLs")
    elif signs:
        plan.add(Step("right/sign", "change", f"{title}: taken away", account.unbind_signer(config)))
    for secret in secrets.wanted(config):
        name, kept = config.names.secret(secret.key), state.secrets.get(secret.key)
        if kept and holds(kept.policy, secrets.READER, member):
            plan.kept.append(f"right to read {name}")
        else:
            needs = ("account", f"secret/{secret.key}")
            title = f"right to read {name}"
            plan.add(Step(f"right/{secret.key}", "create", title, secrets.bind(config, name), needs=needs))
        plan.notes += [f"too wide: {line} on {name}" for line in is_open(kept.policy if kept else {})]


def _release(plan: Plan, config: Config, state: State, client: str) -> None:
    chosen = versions(config, state)
    before, after = state.served, service.wanted(config, state.number, client, plan.image, chosen)
    changed = service.difference(config, after, before)
    there = state.service is not None and bool(state.serving)
    if not plan.image:
        plan.notes.append("nothing serves yet, and image is `promoted`: python -m deploy promote FROM " + config.given)
        return
    if there and not changed.changes:
        plan.refused += changed.refusals
        plan.kept.append(f"service {config.names.service} (revision {state.serving})")
        if state.service and state.service.split:
            plan.notes.append("the traffic is split over several revisions, by hand: left as it is")
        if state.service and state.service.leftover:
            argv = service.untag(config, CANDIDATE)
            plan.add(Step("untag", "change", "the tag of a release that was tried before", argv))
        return
    if there:
        plan.refused += changed.refusals
    ready = tuple(step.key for step in plan.steps)
    flags = service.flags(after, before)
    if before.image != plan.image:
        if there:
            argv = database.create_backup(config, f"{database.BEFORE}{plan.image.rsplit(':', 1)[1][:40]}")
            plan.add(Step("backup", "run", "backup of the database", argv, needs=ready))
        argv = schema_job.argv(config, plan.image, chosen.get("database-url", ""), schema_job.MIGRATE)
        plan.add(Step("migrate", "run", "schema migration (a Cloud Run job)", argv, needs=(*ready, "backup")))
    needs = (*ready, "migrate")
    if there:
        argv = service.deploy(config, flags, traffic=False, tag=CANDIDATE)
        title = "new revision, without traffic"
        plan.add(Step("candidate", "change", title, argv, needs=needs, details=changed.lines))
        tagged = config.url(state.number, CANDIDATE)
        if config.service.ingress == "all":
            plan.add(Step("smoke/candidate", "run", f"smoke test of {tagged}", url=tagged, needs=("candidate",)))
        argv, needs = service.to_tag(config, CANDIDATE), ("candidate", "smoke/candidate")
        plan.add(Step("traffic", "change", "all traffic to the new revision", argv, needs=needs))
        argv = service.untag(config, CANDIDATE)
        plan.add(Step("untag", "change", "the candidate's tag goes", argv, needs=("traffic",)))
    else:
        argv = service.deploy(config, flags, traffic=True, tag="")
        details = changed.lines if state.service else ()
        plan.add(Step("deploy", "create", f"service {config.names.service}", argv, needs=needs, details=details))
    plan.add(Step("smoke", "run", f"smoke test of {plan.url}", url=plan.url, needs=("deploy", "traffic", "untag")))
    if config.policy is not None and _policy_changed(config, state) and "access-policy" in state.secrets:
        name = config.names.secret("access-policy")
        argv = secrets.annotate(config, name, {"sha256": config.policy_digest})
        title = f"secret {name}: note the file's digest"
        plan.add(Step("secret/access-policy/note", "change", title, argv, needs=("traffic", "deploy")))
    if before.image != plan.image and there:
        # The backup that this release makes is one of those that are kept.
        for identity in database.surplus_backups(config, [_made_soon(), *state.backups]):
            title, argv = f"an old release's backup {identity} goes", database.delete_backup(config, identity)
            plan.add(Step(f"prune/{identity}", "run", title, argv, needs=("smoke", "traffic", "untag")))
    plan.notes.append(
        "Cloud Run's own invoker check is off on purpose: oauth2-proxy in the container is the gate, and that check "
        "would strip the"
        " signature of the tokens it has to verify."
    )


def _watch(plan: Plan, config: Config, state: State) -> None:
    """What runs and watches by itself: made and changed in order; then what is wanted no more goes, the last made first."""
    parts = watch.parts(config, state.watch, state.number, plan.image)
    for part in parts:
        given = Input("document", part.text) if part.text else None
        if part.wanted is None:
            continue
        if part.found is None:
            plan.add(Step(part.key, "create", part.title, part.create, given, part.needs))
        elif not part.lines:
            plan.kept.append(part.title)
        elif part.update == part.delete:  # what can't be changed is made anew
            plan.add(
                Step(f"{part.key}/old", "change", f"{part.title}: the old one goes", part.delete, details=part.lines)
            )
            plan.add(Step(part.key, "create", part.title, part.create, given, (*part.needs, f"{part.key}/old")))
        else:
            plan.add(Step(part.key, "change", part.title, part.update, given, part.needs, part.lines))
    for part in reversed(parts):
        if part.wanted is None and part.data:
            plan.notes.append(f"{part.title} is not used any more, and kept: {shlex.join(part.delete)}")
        elif part.wanted is None:
            before = tuple(step.key for step in plan.steps)
            plan.add(Step(part.key, "change", f"{part.title}: goes", part.delete, needs=before))


def _made_soon() -> dict[str, Any]:
    return {"id": "", "type": "ON_DEMAND", "status": "SUCCESSFUL", "description": database.BEFORE}
