"""The Cloud SQL Admin API: instances, databases, users, backups, and operations that take a few looks to finish."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.deploy.emulator.core import ApiError, Call, missing, name_must_match, now, region_must_exist, rest

TIERS = re.compile(r"db-f1-micro|db-g1-small|db-custom-(1|\d*[02468])-\d+|db-perf-optimized-N-\d+")


class Engine(Protocol):
    """A real PostgreSQL behind an instance, when there is one."""

    def dump(self) -> bytes:
        """Return a backup: every user with its password, and the databases."""
        ...

    def load(self, backup: bytes) -> None:
        """Become what a backup holds."""
        ...

    def create_database(self, name: str) -> None: ...

    def set_user(self, name: str, password: str) -> None: ...


@dataclass
class Instance:
    """An instance with what is in it."""

    meta: dict[str, Any]
    databases: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    backups: list[dict[str, Any]] = field(default_factory=list)
    #: A backup's id → what it holds: (databases, users, the engine's own backup).
    held: dict[str, tuple[dict[str, Any], dict[str, str], bytes]] = field(default_factory=dict)


@dataclass
class Sql:
    """Every instance and operation."""

    instances: dict[str, Instance] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: How often an operation is looked at before it is done.
    polls: int = 0
    engine: Engine | None = None
    #: Instance → its engine, where several have one; `make_engine` makes one for each new instance.
    engines: dict[str, Engine] = field(default_factory=dict)
    make_engine: Callable[[str], Engine] | None = None
    #: Instances that were deleted: their names can't be used again for a week.
    gone: set[str] = field(default_factory=set)
    quota_of_instances: int = 10

    def engine_of(self, instance: str) -> Engine | None:
        """Return the engine behind an instance."""
        return self.engines.get(instance, self.engine)

    def must_be_free(self, name: str) -> None:
        """Raise the 409 of a name that is taken, or was until a while ago."""
        if name in self.instances:
            raise ApiError(409, "ALREADY_EXISTS", "The Cloud SQL instance already exists.")
        if name in self.gone:
            raise ApiError(
                409,
                "ALREADY_EXISTS",
                "The Cloud SQL instance already exists. When you delete an instance, you cannot reuse the name of the deleted instance"
                " until one week from the deletion date.",
            )
        if len(self.instances) >= self.quota_of_instances:
            raise ApiError(403, "PERMISSION_DENIED", "The quota of instances of this project is used up.")

    def add(self, name: str, instance: Instance) -> None:
        """Put a new instance, with an engine of its own where there are such."""
        self.instances[name] = instance
        if self.make_engine is not None:
            self.engines[name] = self.make_engine(name)

    def operation(self, project: str, instance: str, kind: str) -> dict[str, Any]:
        """Begin an operation and return it."""
        name = f"operation-{len(self.operations):04}"
        self.operations[name] = {
            "kind": "sql#operation",
            "name": name,
            "operationType": kind,
            "status": "PENDING",
            "targetId": instance,
            "targetProject": project,
            "insertTime": now(),
            "user": "owner@example.com",
            "selfLink": f"https://sqladmin.googleapis.com/sql/v1beta4/projects/{project}/operations/{name}",
            "_left": self.polls,
        }
        return self.shown(self.operations[name])

    def look(self, operation: dict[str, Any]) -> None:
        """Let one look pass: the last one finishes the operation."""
        if operation["status"] == "DONE":
            return
        operation["_left"] -= 1
        operation["status"] = "RUNNING"
        if operation["_left"] < 0:
            operation |= {"status": "DONE", "endTime": now()}
            if operation["operationType"] in {"CREATE", "CLONE"} and operation["targetId"] in self.instances:
                self.instances[operation["targetId"]].meta["state"] = "RUNNABLE"
            if operation["operationType"] == "DELETE":
                self.instances.pop(operation["targetId"], None)
                self.gone.add(operation["targetId"])

    @staticmethod
    def shown(operation: dict[str, Any]) -> dict[str, Any]:
        """Return an operation as the API gives it."""
        return {key: value for key, value in operation.items() if not key.startswith("_")}


def _instance(call: Call, *, ready: bool = False) -> Instance:
    call.emulator.project.must_be(call.parameters["project"])
    name, sql = call.parameters["instance"], call.emulator.sql
    if name not in sql.instances:
        # Cloud SQL says 403 for reads without rights and 404 here; gcloud shows both as they are.
        raise missing("The Cloud SQL instance does not exist.")
    busy = [o for o in sql.operations.values() if o["targetId"] == name and o["status"] != "DONE"]
    if ready and busy:
        raise ApiError(
            409,
            "ABORTED",
            "Operation failed because another operation was already in progress. Try your request after the current "
            "operation is complete.",
        )
    return sql.instances[name]


@rest("sql.instances.insert", permission="cloudsql.instances.create", writes=True)
def insert(call: Call) -> Any:
    project, sql, body = call.emulator.project, call.emulator.sql, call.body
    project.must_be(call.parameters["project"])
    name, settings = body["name"], body["settings"]
    name_must_match(r"[a-z][a-z0-9-]*", name, "instance")
    if len(f"{project.id}:{name}") > 98:
        raise ApiError(
            400,
            "INVALID_ARGUMENT",
            "The instance name is too long: project and name have at most 98 characters.",
        )
    sql.must_be_free(name)
    region_must_exist(body.get("region", "us-central"), "Cloud SQL")
    project.must_be_allowed_here(body["region"])
    if not TIERS.fullmatch(settings.get("tier", "")):
        raise ApiError(
            400,
            "INVALID_ARGUMENT",
            f"Invalid request: Invalid Tier ({settings.get('tier')}) for (ENTERPRISE) Edition.",
        )
    if not body.get("databaseVersion", "").startswith("POSTGRES_"):
        raise ApiError(400, "INVALID_ARGUMENT", f"Invalid value: databaseVersion {body.get('databaseVersion')}")
    if settings.get("edition") != "ENTERPRISE" and settings["tier"].startswith(("db-f1", "db-g1", "db-custom")):
        raise ApiError(400, "INVALID_ARGUMENT", f"Invalid Tier ({settings['tier']}) for (ENTERPRISE_PLUS) Edition.")
    network = settings.get("ipConfiguration", {})
    if not network.get("ipv4Enabled", True) and not network.get("privateNetwork"):
        raise ApiError(
            400,
            "INVALID_ARGUMENT",
            "Invalid request: At least one of Public IP or Private IP must be enabled.",
        )
    restricted = project.constraints.get(
        "constraints/sql.restrictPublicIp", project.constraints.get("sql.restrictPublicIp", {})
    )
    if restricted.get("enforce") and network.get("ipv4Enabled", True):
        raise ApiError(
            400,
            "INVALID_ARGUMENT",
            "Invalid request: Organization Policy check failure: the external IP of this "
            "instance violates the constraints/sql.restrictPublicIp enforced.",
        )
    if settings["tier"] in {"db-f1-micro", "db-g1-small"} and settings.get("backupConfiguration", {}).get(
        "transactionLogRetentionDays", 1
    ) not in range(1, 8):
        raise ApiError(400, "INVALID_ARGUMENT", "transactionLogRetentionDays must be 1 to 7")
    made = Instance(
        {
            **body,
            "kind": "sql#instance",
            "project": project.id,
            "region": body["region"],
            "state": "PENDING_CREATE",
            "connectionName": f"{project.id}:{body['region']}:{name}",
            "backendType": "SECOND_GEN",
            "instanceType": "CLOUD_SQL_INSTANCE",
            "createTime": now(),
            "settings": settings | {"settingsVersion": "1", "kind": "sql#settings"},
        },
        databases={"postgres": {"name": "postgres"}},
        users={"postgres": ""},
    )
    sql.add(name, made)
    return sql.operation(project.id, name, "CREATE")


@rest("sql.instances.clone", permission="cloudsql.instances.clone", writes=True)
def clone(call: Call) -> Any:
    source, sql, context = _instance(call, ready=True), call.emulator.sql, call.body["cloneContext"]
    name = context["destinationInstanceName"]
    name_must_match(r"[a-z][a-z0-9-]*", name, "instance")
    sql.must_be_free(name)
    backup = source.meta["settings"].get("backupConfiguration", {})
    if "pointInTime" in context and not backup.get("pointInTimeRecoveryEnabled"):
        raise ApiError(
            400, "INVALID_ARGUMENT", "Invalid request: point-in-time recovery is not enabled for the source instance."
        )
    meta = copy.deepcopy(source.meta)
    meta |= {
        "name": name,
        "state": "PENDING_CREATE",
        "createTime": now(),
        "connectionName": f"{meta['project']}:{meta['region']}:{name}",
    }
    meta["settings"]["settingsVersion"] = "1"
    engine = sql.engine_of(call.parameters["instance"])
    backup_of_it = engine.dump() if engine else b""
    sql.add(name, Instance(meta, copy.deepcopy(source.databases), dict(source.users)))
    if engine := sql.engines.get(name):
        engine.load(backup_of_it)
    return sql.operation(call.parameters["project"], name, "CLONE")


@rest("sql.instances.restoreBackup", permission="cloudsql.instances.restoreBackup", writes=True)
def restore_backup(call: Call) -> Any:
    """The target becomes what the backup holds, its users with their passwords of then included."""
    target, sql, context = _instance(call, ready=True), call.emulator.sql, call.body["restoreBackupContext"]
    source = sql.instances.get(context.get("instanceId") or call.parameters["instance"])
    if source is None or context["backupRunId"] not in source.held:
        raise missing("The backup does not exist.")
    if source.meta["databaseVersion"] != target.meta["databaseVersion"]:
        raise ApiError(400, "INVALID_ARGUMENT", "Invalid request: the instances have different database versions.")
    sizes = [int(i.meta["settings"].get("dataDiskSizeGb", 10)) for i in (source, target)]
    if sizes[1] < sizes[0]:
        raise ApiError(400, "INVALID_ARGUMENT", "Invalid request: the target instance's disk is smaller.")
    databases, users, held = source.held[context["backupRunId"]]
    target.databases, target.users = copy.deepcopy(databases), dict(users)
    if engine := sql.engine_of(call.parameters["instance"]):
        engine.load(held)
    return sql.operation(call.parameters["project"], call.parameters["instance"], "RESTORE_VOLUME")


@rest("sql.instances.get", permission="cloudsql.instances.get")
def get(call: Call) -> Any:
    return _instance(call).meta


@rest("sql.instances.list", permission="cloudsql.instances.list")
def list_instances(call: Call) -> Any:
    call.emulator.project.must_be(call.parameters["project"])
    wanted = dict(re.findall(r"settings\.userLabels\.([\w-]+):([\w-]+)", call.option("filter")))
    items = [i.meta for i in call.emulator.sql.instances.values()]
    found = [meta for meta in items if wanted.items() <= meta["settings"].get("userLabels", {}).items()]
    return {"kind": "sql#instancesList", "items": found}


@rest("sql.instances.patch", "sql.instances.update", permission="cloudsql.instances.update", writes=True)
def patch(call: Call) -> Any:
    instance = _instance(call, ready=True)
    settings = instance.meta["settings"]

    def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
        for key, value in new.items():
            if value is None:
                old.pop(key, None)
            elif isinstance(value, dict) and isinstance(old.get(key), dict):
                merge(old[key], value)
            else:
                old[key] = value

    merge(settings, call.body.get("settings", {}))
    settings["settingsVersion"] = str(int(settings["settingsVersion"]) + 1)
    return call.emulator.sql.operation(call.parameters["project"], call.parameters["instance"], "UPDATE")


@rest("sql.instances.delete", permission="cloudsql.instances.delete", writes=True)
def delete(call: Call) -> Any:
    instance = _instance(call, ready=True)
    if instance.meta["settings"].get("deletionProtectionEnabled"):
        raise ApiError(
            400,
            "FAILED_PRECONDITION",
            "The instance is protected. Please disable the deletion protection and try again. To disable deletion "
            "protection, update the instance settings with deletionProtectionEnabled set to false.",
        )
    return call.emulator.sql.operation(call.parameters["project"], call.parameters["instance"], "DELETE")


@rest("sql.databases.list", permission="cloudsql.databases.list")
def list_databases(call: Call) -> Any:
    instance = _instance(call)
    items = [
        {"kind": "sql#database", "instance": call.parameters["instance"], **d} for d in instance.databases.values()
    ]
    return {"kind": "sql#databasesList", "items": items}


@rest("sql.databases.insert", permission="cloudsql.databases.create", writes=True)
def insert_database(call: Call) -> Any:
    instance, name = _instance(call, ready=True), call.body["name"]
    if name in instance.databases:
        raise ApiError(
            400,
            "INVALID_ARGUMENT",
            f'Invalid request: failed to create database {name}. Detail: pq: database "{name}" already exists.',
        )
    if engine := call.emulator.sql.engine_of(call.parameters["instance"]):
        engine.create_database(name)
    instance.databases[name] = {"name": name, "charset": call.body.get("charset", "UTF8")}
    return call.emulator.sql.operation(call.parameters["project"], call.parameters["instance"], "CREATE_DATABASE")


@rest("sql.users.list", permission="cloudsql.users.list")
def list_users(call: Call) -> Any:
    instance = _instance(call)
    return {
        "kind": "sql#usersList",
        "items": [
            {"kind": "sql#user", "name": n, "instance": call.parameters["instance"], "host": ""} for n in instance.users
        ],
    }


@rest("sql.users.insert", permission="cloudsql.users.create", writes=True)
def insert_user(call: Call) -> Any:
    instance, name = _instance(call, ready=True), call.body["name"]
    if name in instance.users:
        raise ApiError(400, "INVALID_ARGUMENT", f"Invalid request: user {name} already exists.")
    return _set_user(call, instance, name)


@rest("sql.users.update", permission="cloudsql.users.update", writes=True)
def update_user(call: Call) -> Any:
    instance, name = _instance(call, ready=True), call.option("name")
    if name not in instance.users:
        raise missing(f"User {name} does not exist.")
    return _set_user(call, instance, name)


def _set_user(call: Call, instance: Instance, name: str) -> dict[str, Any]:
    password = call.body.get("password", "")
    if not password:
        raise ApiError(400, "INVALID_ARGUMENT", "Invalid request: password is required.")
    if engine := call.emulator.sql.engine_of(call.parameters["instance"]):
        engine.set_user(name, password)
    instance.users[name] = password
    return call.emulator.sql.operation(call.parameters["project"], call.parameters["instance"], "CREATE_USER")


@rest("sql.backupRuns.insert", permission="cloudsql.backupRuns.create", writes=True)
def insert_backup(call: Call) -> Any:
    instance = _instance(call, ready=True)
    identity, engine = (
        str(1700000000000 + len(call.emulator.sql.operations)),
        call.emulator.sql.engine_of(call.parameters["instance"]),
    )
    instance.held[identity] = (
        copy.deepcopy(instance.databases),
        dict(instance.users),
        engine.dump() if engine else b"",
    )
    instance.backups.insert(
        0,
        {
            "kind": "sql#backupRun",
            "id": identity,
            "status": "SUCCESSFUL",
            "type": "ON_DEMAND",
            "instance": call.parameters["instance"],
            "description": (call.body or {}).get("description", ""),
            "location": (call.body or {}).get("location", "eu"),
            "windowStartTime": now(),
            "enqueuedTime": now(),
            "startTime": now(),
            "endTime": now(),
        },
    )
    return call.emulator.sql.operation(call.parameters["project"], call.parameters["instance"], "BACKUP_VOLUME")


@rest("sql.backupRuns.delete", permission="cloudsql.backupRuns.delete", writes=True)
def delete_backup(call: Call) -> Any:
    instance = _instance(call, ready=True)
    kept = [backup for backup in instance.backups if backup["id"] != call.parameters["id"]]
    if len(kept) == len(instance.backups):
        raise missing("The backup does not exist.")
    instance.backups = kept
    return call.emulator.sql.operation(call.parameters["project"], call.parameters["instance"], "DELETE_BACKUP")


@rest("sql.backupRuns.list", permission="cloudsql.backupRuns.list")
def list_backups(call: Call) -> Any:
    return {"kind": "sql#backupRunsList", "items": _instance(call).backups}


@rest("sql.operations.get", permission="cloudsql.instances.get")
def get_operation(call: Call) -> Any:
    sql = call.emulator.sql
    if call.parameters["operation"] not in sql.operations:
        raise missing("The Cloud SQL operation does not exist.")
    operation = sql.operations[call.parameters["operation"]]
    sql.look(operation)
    return sql.shown(operation)


@rest("sql.operations.list", permission="cloudsql.instances.get")
def list_operations(call: Call) -> Any:
    sql = call.emulator.sql
    items = [sql.shown(o) for o in reversed(sql.operations.values()) if o["targetId"] == call.option("instance")]
    return {"kind": "sql#operationsList", "items": items}
