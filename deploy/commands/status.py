"""`status`: what runs, with which versions, rights, backups and costs."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from typing import Any

from deploy import cost
from deploy.cloud.errors import CloudError
from deploy.cloud.google import side_by_side
from deploy.config import Config
from deploy.observe import State
from deploy.resources import account, bucket, database, project, schema_job, secrets, watch
from deploy.resources.base import holds, is_open
from deploy.session import Session

OLD_BACKUP_DAYS, OLD_SECRET_DAYS = 2, 365

#: Roles on the project that contain the rights of the service's account, and far more.
WIDE = (
    "roles/owner",
    "roles/editor",
    "roles/storage.admin",
    "roles/secretmanager.admin",
    "roles/secretmanager.secretAccessor",
    "roles/cloudsql.admin",
    account.SIGNER,
)


def rights(config: Config, state: State) -> list[str]:
    """Return what is missing from the service account's rights, or too wide, a line each."""
    member, found = f"serviceAccount:{config.account}", []
    if not holds(state.project.policy, project.CLIENT, member, project.database_condition(config)):
        found.append(f"missing: {project.CLIENT} on {config.names.sql}")
    if not holds(state.bucket_policy, bucket.USER, member):
        found.append(f"missing: {bucket.USER} on {config.bucket}")
    if config.service.direct_transfers and not holds(state.account_policy, account.SIGNER, member):
        found.append(f"missing: {account.SIGNER} on the account itself")
    for key, kept in state.secrets.items():
        name = config.names.secret(key)
        if secrets.has(config, key) and not holds(kept.policy, secrets.READER, member):
            found.append(f"missing: {secrets.READER} on {name}")
        found += [f"too wide: {line} on {name}" for line in is_open(kept.policy)]
    for binding in state.project.policy.get("bindings", []):
        if member in binding["members"]:
            if binding["role"] in WIDE:
                found.append(f"too wide: {config.account} has {binding['role']} on the whole project")
            elif binding["role"] == project.CLIENT and "condition" not in binding:
                found.append(f"too wide: {config.account} may connect to every database of the project")
    return found + [f"too wide: {line} on {config.bucket}" for line in is_open(state.bucket_policy)]


def age(timestamp: str) -> int:
    """Return the whole days since a time as Google writes it."""
    then = datetime.fromisoformat(timestamp[:19]).replace(tzinfo=timezone.utc)
    return (datetime.now(timezone.utc) - then).days


def gather(session: Session) -> dict[str, Any]:
    """Return all that `status` shows. Raises CloudError."""
    config, google = session.config, session.google
    wanted = session.image()
    state = session.observe(wanted)
    listed: dict[str, Any] = {}

    def look(key: str) -> None:
        listed[key] = secrets.versions(config, google, config.names.secret(key))

    side_by_side([lambda key=key: look(key) for key in state.secrets])  # type: ignore[misc]
    problems = rights(config, state) if state.account is not None else []
    ages = _secrets(config, state, listed, problems)
    good = [b for b in state.backups if b["status"] == "SUCCESSFUL"]
    there = state.database
    if there and there.ready and (not good or age(good[0].get("endTime", good[0]["enqueuedTime"])) > OLD_BACKUP_DAYS):
        problems.append("no good backup of the last two days: python -m deploy backup")
    if there is not None:
        different = database.difference(config, there.answer)
        problems += [f"database: {line}" for line in different.lines]
        problems += [str(refusal) for refusal in different.refusals]
        used = state.served.sql_instances.rsplit(":", 1)[-1]
        if used not in {"", config.names.sql}:
            problems.append(
                f"the service works with the database server {used}: set `names: {{sql: {used}}}` in the file"
            )
    serving = state.served
    parts = watch.parts(config, state.watch, state.number, serving.image)
    for part in parts:
        if part.wanted is not None and part.found is None:
            problems.append(f"missing: {part.title}")
        problems += [f"{part.title}: {line}" for line in part.lines]
    return {
        "environment": config.environment,
        "url": config.public_url(state.number),
        "revision": state.serving or None,
        "image": serving.image or None,
        "up_to_date": bool(serving.image) and serving.image == (wanted or serving.image),
        "database": f"{there.answer['databaseVersion']} {there.answer['settings']['tier']} {there.answer['state']}"
        if there
        else None,
        "kept_databases": sorted(database.kept(config, google)) if there else [],
        "schema": _schema(session, state) if state.serving else None,
        "watched": [part.title for part in parts if part.found is not None],
        "secrets": ages,
        "backups": [
            {
                "id": b["id"],
                "time": b.get("endTime", ""),
                "status": b["status"],
                "description": b.get("description", ""),
            }
            for b in state.backups
        ],
        "monthly_cost": cost.estimate(config),
        "problems": problems,
    }


def _secrets(config: Config, state: State, listed: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return each secret's serving and enabled versions and age; add what is wrong with them to `problems`."""
    ages: dict[str, Any] = {}
    for key, items in listed.items():
        name = config.names.secret(key)
        enabled = {i["name"].rsplit("/", 1)[1]: i for i in items if i["state"] == "ENABLED"}
        serving = state.pins.get(name, "")
        days = age(enabled[serving]["createTime"]) if serving in enabled else None
        ages[name] = {"serving": serving, "enabled": sorted(enabled, key=int), "days": days}
        if serving and serving not in enabled:
            problems.append(
                f"secret {name}: version {serving} serves but is not enabled: the next instance can't start"
            )
        if serving and any(int(number) > int(serving) for number in enabled):
            problems.append(
                f"secret {name}: a version newer than the one that serves is enabled; an interrupted rotation? Rotate "
                "again"
            )
        if (days or 0) > OLD_SECRET_DAYS and key in secrets.ROTATABLE.values():
            problems.append(f"secret {name} is {days} days old: python -m deploy rotate")
    return ages


def _schema(session: Session, state: State) -> str:
    """Return how the schema and the serving release go together, as the schema job last found it."""
    try:
        runs = schema_job.executions(session.config, session.google)
    except CloudError as error:
        return f"unknown ({error.message})"
    if not runs:
        return "unknown (no migration has run)"
    condition: dict[str, Any] = next(
        (c for c in runs[0]["status"].get("conditions", []) if c["type"] == "Completed"), {}
    )
    container = runs[0]["spec"]["template"]["spec"]["containers"][0]
    tag = container["image"].rsplit(":", 1)[-1]
    outcome = "up to date with" if condition.get("status") == "True" else "the last job failed for"
    same = "the serving release" if container["image"] == state.served.image else "another release"
    return f"{outcome} {tag} ({same}), {runs[0]['status'].get('completionTime', '')[:19]}"


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Print it. Exit code 1 when there is a problem."""
    result, say = gather(session), session.say
    if arguments.json:
        say(json.dumps(result, indent=2, ensure_ascii=False))
        return 1 if result["problems"] else 0
    say(f"{result['environment']}: {result['url']}")
    if result["revision"] is None:
        say("  nothing serves: python -m deploy apply")
    else:
        fresh = "the sources here" if result["up_to_date"] else "not the sources here: apply releases them"
        say(
            f"  revision  {result['revision']}\n  image     {result['image']} ({fresh})\n  schema    {result['schema']}"
        )
    say(f"  database  {result['database'] or 'none'}")
    for name in result["kept_databases"]:
        say(f"  kept      database server {name}, of before a restore: it costs on")
    for name, item in result["secrets"].items():
        days = "?" if item["days"] is None else item["days"]
        say(f"  secret    {name}: version {item['serving'] or '(none)'} serves, {days} days old")
    for item in result["backups"][:3]:
        say(f"  backup    {item['id']} {item['time'][:19]} {item['status']} {item['description']}")
    for title in result["watched"]:
        say(f"  watch     {title}")
    say(f"  cost      {cost.summary(session.config)}")
    for problem in result["problems"]:
        say(f"  ✗ {problem}", "red")
    return 1 if result["problems"] else 0
