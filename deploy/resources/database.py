"""The database: PostgreSQL on Cloud SQL, with its database, its user and its backups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from deploy.cloud.google import Google
from deploy.config import Config
from deploy.resources.base import (
    LABELS,
    Argv,
    Difference,
    compare,
    flag,
    joined,
    own_labels,
    p,
    same_resource,
    setting,
    switch,
)

USER, DATABASE = "mlflow", "mlflow"
BACKUP_START = "03:00"  # UTC
#: What a backup is described with, so that those of releases can be told from others, and pruned.
BEFORE = "before "

_OTHER_INSTANCE = "make another by another namespace, and move the data (docs/deploy.md, «Moving the database»)"


@dataclass(frozen=True)
class Server:
    """A database server's settings."""

    version: str = setting(
        refuse="a release of PostgreSQL is raised by hand, after a backup: `gcloud sql instances patch NAME "
        "--database-version=…`"
        " (it can't be lowered). Or set sql/version to what is there"
    )
    region: str = setting(refuse=f"a database can't be moved. Keep region as it is, or {_OTHER_INSTANCE}")
    edition: str = setting(refuse="the tool makes and keeps the Enterprise edition: change it by hand, or leave it")
    tier: str = setting(flag("tier"))
    storage_gb: int = setting(flag("storage-size"), name="storage", same=lambda after, before: before >= after)
    storage_grows: bool = setting(switch("--storage-auto-increase", ""))
    availability: str = setting(flag("availability-type"))
    #: The hour at which a daily backup starts; empty: there is none.
    backup_start: str = setting(
        flag("backup-start-time"), name="daily backup", same=lambda after, before: bool(before) == bool(after)
    )
    backups: int = setting(flag("retained-backups-count"))
    backup_location: str = setting(flag("backup-location"))
    point_in_time_recovery: bool = setting(
        switch("--enable-point-in-time-recovery", "--no-enable-point-in-time-recovery")
    )
    deletion_protection: bool = setting(switch("--deletion-protection", "--no-deletion-protection"))
    connector_enforcement: str = setting(flag("connector-enforcement"))
    ssl_mode: str = setting(flag("ssl-mode"))
    network: str = setting(
        lambda after, before: (f"--network={after}",) if after else (), name="private network", same=same_resource
    )
    public_address: bool = setting(switch("--assign-ip", "--no-assign-ip"))
    authorized_networks: tuple[str, ...] = setting(lambda after, before: ("--clear-authorized-networks",))
    flags: dict[str, str] = setting(
        lambda after, before: (f"--database-flags={joined(after)}",) if after else ("--clear-database-flags",),
        name="flag",
    )
    key: str = setting(
        refuse=f"a database's key is chosen when it is made. Keep kms_key as it was, or {_OTHER_INSTANCE}",
        name="encryption key",
        same=same_resource,
    )
    labels: dict[str, str] = setting(LABELS, name="label")


@dataclass
class Database:
    """What is there: the server as the API shows it, and what is in it, once it runs."""

    answer: dict[str, Any]
    operations: list[dict[str, Any]] = field(default_factory=list)
    databases: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)

    @property
    def ready(self) -> bool:
        """Whether it takes changes."""
        return bool(self.answer.get("state") == "RUNNABLE")

    @property
    def protected(self) -> bool:
        """Whether it can't be deleted."""
        return bool(self.answer["settings"].get("deletionProtectionEnabled"))


def wanted(config: Config) -> Server:
    """Return what the server is to be."""
    sql = config.sql
    return Server(
        version=sql.version,
        region=config.region,
        edition="enterprise",
        tier=sql.tier,
        storage_gb=sql.storage_gb,
        storage_grows=True,
        availability=sql.availability,
        backup_start=BACKUP_START,
        backups=sql.backups,
        backup_location=config.region,
        point_in_time_recovery=sql.point_in_time_recovery,
        deletion_protection=sql.deletion_protection,
        connector_enforcement="REQUIRED",
        ssl_mode="ENCRYPTED_ONLY",
        network=config.private_network,
        public_address=not config.private_network,
        authorized_networks=(),
        flags=dict(sql.flags),
        key=config.settings.kms_key or "",
        labels=config.labels,
    )


def found(answer: dict[str, Any]) -> Server:
    """Return what the API says it is."""
    settings = answer["settings"]
    backup, network = settings.get("backupConfiguration", {}), settings.get("ipConfiguration", {})
    on = backup.get("enabled", False)
    return Server(
        version=answer.get("databaseVersion", ""),
        region=answer.get("region", ""),
        edition=settings.get("edition", "ENTERPRISE").lower(),
        tier=settings.get("tier", ""),
        storage_gb=int(settings.get("dataDiskSizeGb", 10)),
        storage_grows=settings.get("storageAutoResize", True),
        availability=settings.get("availabilityType", "ZONAL").lower(),
        backup_start=backup.get("startTime", BACKUP_START) if on else "",
        backups=int(backup.get("backupRetentionSettings", {}).get("retainedBackups", 7)),
        backup_location=backup.get("location", ""),
        point_in_time_recovery=bool(on and backup.get("pointInTimeRecoveryEnabled", False)),
        deletion_protection=settings.get("deletionProtectionEnabled", False),
        connector_enforcement=settings.get("connectorEnforcement", "NOT_REQUIRED"),
        ssl_mode=network.get("sslMode", ""),
        network=network.get("privateNetwork", ""),
        public_address=network.get("ipv4Enabled", True),
        authorized_networks=tuple(item.get("value", "") for item in network.get("authorizedNetworks", [])),
        flags={item["name"]: item.get("value", "") for item in settings.get("databaseFlags", [])},
        key=answer.get("diskEncryptionConfiguration", {}).get("kmsKeyName", ""),
        labels=own_labels(settings.get("userLabels")),
    )


def difference(config: Config, answer: dict[str, Any]) -> Difference:
    """Return what is to be changed of the server, and what isn't."""
    to_be, is_ = wanted(config), found(answer)
    if is_.network and not same_resource(to_be.network, is_.network):
        # Cloud SQL neither takes a private network away nor exchanges it, so the field's own rule does not hold here.
        return compare(
            _title(config), to_be, is_, {"network": f"a private network stays. Keep sql/network, or {_OTHER_INSTANCE}"}
        )
    return compare(_title(config), to_be, is_)


def _title(config: Config) -> str:
    return f"database server {config.names.sql}"


def base(config: Config) -> str:
    """Return the Admin API's URL of the server."""
    return f"https://sqladmin.googleapis.com/v1/projects/{config.project}/instances/{config.names.sql}"


def look(config: Config, google: Google) -> Database | None:
    """Return the server and what is in it; None if there is none. Raises CloudError."""
    answer = google.find(base(config))
    if answer is None:
        return None
    database = Database(answer)
    if database.ready:
        database.databases = {item["name"] for item in google.get(f"{base(config)}/databases").get("items", [])}
        database.users = {item["name"] for item in google.get(f"{base(config)}/users").get("items", [])}
    else:
        database.operations = operations(config, google)
    return database


def kept(config: Config, google: Google) -> dict[str, Database]:
    """Return the environment's other servers: of before a restore, or restored to and not (yet) used. Raises CloudError."""
    url = f"https://sqladmin.googleapis.com/v1/projects/{config.project}/instances"
    mine = f"settings.userLabels.app:gatehouse AND settings.userLabels.environment:{config.environment}"
    found = google.pages(url, "items", filter=mine)
    return {item["name"]: Database(item) for item in found if ours(config, item) and item["name"] != config.names.sql}


def ours(config: Config, answer: dict[str, Any]) -> bool:
    """Return whether a server belongs to this environment, by its labels."""
    labels = answer["settings"].get("userLabels", {})
    return bool(labels.get("app") == "gatehouse" and labels.get("environment") == config.environment)


def operations(config: Config, google: Google) -> list[dict[str, Any]]:
    """Return the server's operations that are under way, the newest first. Raises CloudError."""
    url = f"https://sqladmin.googleapis.com/v1/projects/{config.project}/operations"
    listed = google.get(url, instance=config.names.sql).get("items", [])
    return [item for item in listed if item["status"] != "DONE"]


def backups(config: Config, google: Google) -> list[dict[str, Any]]:
    """Return the server's backups, the newest first. Raises CloudError."""
    return list(google.pages(f"{base(config)}/backupRuns", "items", maxResults="100"))


def surplus_backups(config: Config, listed: list[dict[str, Any]]) -> list[str]:
    """Return the ids of the releases' backups that are more than are to be kept, the oldest first."""
    own = [b for b in listed if b.get("type") == "ON_DEMAND" and b.get("description", "").startswith(BEFORE)]
    good = [b for b in own if b.get("status") == "SUCCESSFUL"]
    kept = {b["id"] for b in good[: config.sql.release_backups]}
    return [b["id"] for b in reversed(own) if b["id"] not in kept and b.get("status") in {"SUCCESSFUL", "FAILED"}]


# Commands
# -------------------------------------------------------------------------------------------------------------------------


def create(config: Config) -> Argv:
    """Beta, for `--labels` alone.

    No authorised network, and connectors are enforced: the only way in is the Cloud SQL socket.
    """
    to_be = wanted(config)
    key = (f"--disk-encryption-key={to_be.key}",) if to_be.key else ()
    network = (f"--network={to_be.network}", "--no-assign-ip") if to_be.network else ("--assign-ip",)
    flags = (f"--database-flags={joined(to_be.flags)}",) if to_be.flags else ()
    recovery = ("--enable-point-in-time-recovery",) if to_be.point_in_time_recovery else ()
    return (
        "gcloud", "beta", "sql", "instances", "create", config.names.sql, f"--database-version={to_be.version}",
        "--edition=enterprise", f"--region={config.region}", f"--storage-size={to_be.storage_gb}", "--storage-type=SSD",
        "--storage-auto-increase", f"--tier={to_be.tier}", f"--availability-type={to_be.availability}",
        f"--backup-start-time={BACKUP_START}", f"--retained-backups-count={to_be.backups}", f"--backup-location={to_be.backup_location}",
        "--connector-enforcement=REQUIRED", "--ssl-mode=ENCRYPTED_ONLY",
        "--deletion-protection" if to_be.deletion_protection else "--no-deletion-protection", *recovery,
        *network, *flags, *key, f"--labels={joined(config.labels)}", "--timeout=3600", p(config),
    )  # fmt: skip


def update(config: Config, flags: Argv) -> Argv:
    """Change the server's settings."""
    return ("gcloud", "beta", "sql", "instances", "patch", config.names.sql, *flags, "--quiet", p(config))


def delete(config: Config) -> Argv:
    """Delete the server with all that is in it."""
    return ("gcloud", "sql", "instances", "delete", config.names.sql, "--quiet", p(config))


def wait(config: Config, operation: str) -> Argv:
    """Wait for what is under way."""
    return ("gcloud", "sql", "operations", "wait", operation, "--timeout=3600", p(config))


def _i(config: Config) -> str:
    return f"--instance={config.names.sql}"


def create_database(config: Config) -> Argv:
    """Make MLflow's database."""
    return ("gcloud", "sql", "databases", "create", DATABASE, _i(config), p(config))


def create_user(config: Config) -> Argv:
    """Make the user. The password comes in on standard input, as a file of flags."""
    return ("gcloud", "sql", "users", "create", USER, _i(config), "--flags-file=-", p(config))


def set_password(config: Config) -> Argv:
    """Give the user another password, which comes in on standard input, as a file of flags."""
    return ("gcloud", "sql", "users", "set-password", USER, _i(config), "--flags-file=-", p(config))


def create_backup(config: Config, description: str) -> Argv:
    """Back up now."""
    return (
        "gcloud", "sql", "backups", "create", _i(config), f"--description={description}",
        f"--location={config.region}", p(config),
    )  # fmt: skip


def restored_server(config: Config, source: dict[str, Any]) -> Argv:
    """Make the server that a backup is restored to: as the file says, with the release and at least the disk of the backup's server."""
    sql = config.sql.model_copy(
        update={
            "version": source["databaseVersion"],
            "storage_gb": max(config.sql.storage_gb, int(source["settings"].get("dataDiskSizeGb", 10))),
        }
    )
    return create(replace(config, settings=config.settings.model_copy(update={"sql": sql})))


def restore(config: Config, identity: str, source: str) -> Argv:
    """Restore a backup of the server `source` to this one, which it replaces."""
    return (
        "gcloud", "sql", "backups", "restore", identity, f"--restore-instance={config.names.sql}", f"--backup-instance={source}",
        "--quiet", p(config),
    )  # fmt: skip


def clone(config: Config, source: str, moment: str) -> Argv:
    """Make a server with what was in `source` at a moment (RFC 3339, UTC)."""
    return ("gcloud", "sql", "instances", "clone", source, config.names.sql, f"--point-in-time={moment}", p(config))


def delete_backup(config: Config, identity: str) -> Argv:
    """Delete one backup."""
    return ("gcloud", "sql", "backups", "delete", identity, _i(config), "--quiet", p(config))
