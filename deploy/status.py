"""`status`: what runs, with which versions, rights, backups and costs."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from typing import Any

from deploy import commands, cost, image, observe, secrets, service
from deploy.config import Config
from deploy.gcloud import GcloudError
from deploy.plan import sql_differences
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
    commands.SIGNER,
)


def rights(config: Config, state: observe.State) -> list[str]:
    """Return what is missing from the service account's rights, or too wide, a line each."""
    member, found = f"serviceAccount:{config.account}", []
    if not observe.holds(state.project_policy, "roles/cloudsql.client", member, commands.sql_condition(config)):
        found.append(f"missing: roles/cloudsql.client on {config.names.sql}")
    if not observe.holds(state.bucket_policy, "roles/storage.objectUser", member):
        found.append(f"missing: roles/storage.objectUser on {config.bucket}")
    if config.service["direct_transfers"] and not observe.holds(state.account_policy, commands.SIGNER, member):
        found.append(f"missing: {commands.SIGNER} on the account itself")
    for key in state.secrets:
        name = config.names.secret(key)
        policy = state.secret_policies.get(key, {})
        if not observe.holds(policy, "roles/secretmanager.secretAccessor", member):
            found.append(f"missing: roles/secretmanager.secretAccessor on {name}")
        found += [
            f"too wide: {m} has {b['role']} on {name}"
            for b in policy.get("bindings", [])
            for m in b["members"]
            if m.startswith("all")
        ]
    for binding in state.project_policy.get("bindings", []):
        if member in binding["members"]:
            if binding["role"] in WIDE:
                found.append(f"too wide: {config.account} has {binding['role']} on the whole project")
            elif binding["role"] == "roles/cloudsql.client" and "condition" not in binding:
                found.append(f"too wide: {config.account} may connect to every database of the project")
    for binding in state.bucket_policy.get("bindings", []):
        found += [
            f"too wide: {m} has {binding['role']} on {config.bucket}"
            for m in binding["members"]
            if m in {"allUsers", "allAuthenticatedUsers"}
        ]
    return found


def age(timestamp: str) -> int:
    """Return the whole days since a time as Google writes it."""
    then = datetime.fromisoformat(timestamp[:19]).replace(tzinfo=timezone.utc)
    return (datetime.now(timezone.utc) - then).days


def gather(session: Session) -> dict[str, Any]:
    """Return all that `status` shows."""
    config, gcloud = session.config, session.gcloud
    wanted = image.wanted(config)
    state = observe.observe(config, gcloud, wanted)
    listed: dict[str, Any] = {}
    backups: list[Any] = []

    def versions(key: str) -> None:
        listed[key] = gcloud.json(commands.secret_versions(config, config.names.secret(key))) or []

    tasks: list[Any] = [lambda key=key: versions(key) for key in state.secrets]
    if state.sql is not None:
        tasks.append(lambda: backups.extend(gcloud.json(commands.backups_list(config)) or []))
    observe.parallel(tasks)
    pins = service.pinned(state.table)
    problems = rights(config, state) if state.account is not None else []
    ages: dict[str, Any] = {}
    for key, items in listed.items():
        name = config.names.secret(key)
        enabled = {i["name"].rsplit("/", 1)[1]: i for i in items if i["state"].upper() == "ENABLED"}
        serving = pins.get(name, "")
        ages[name] = {
            "serving": serving,
            "enabled": sorted(enabled, key=int),
            "days": age(enabled[serving]["createTime"]) if serving in enabled else None,
        }
        if serving and serving not in enabled:
            problems.append(
                f"secret {name}: version {serving} serves but is not enabled: the next instance can't start"
            )
        if serving and any(int(number) > int(serving) for number in enabled):
            problems.append(
                f"secret {name}: a version newer than the one that serves is enabled; an interrupted rotation? Rotate again"
            )
        if (ages[name]["days"] or 0) > OLD_SECRET_DAYS and key in secrets.ROTATABLE.values():
            problems.append(f"secret {name} is {ages[name]['days']} days old: python -m deploy rotate")
    good = [b for b in backups if b["status"] == "SUCCESSFUL"]
    if state.sql is not None and (not good or age(good[0].get("endTime", good[0]["enqueuedTime"])) > OLD_BACKUP_DAYS):
        problems.append("no good backup of the last two days: python -m deploy backup")
    if state.sql is not None:
        problems += [f"database: {line}" for line in sql_differences(config, state.sql)]
    result: dict[str, Any] = {
        "environment": config.environment,
        "url": config.public_url(state.number),
        "revision": state.serving or None,
        "image": state.table.get("image"),
        "up_to_date": bool(state.table) and state.table.get("image") == wanted,
        "database": f"{state.sql['databaseVersion']} {state.sql['settings']['tier']} {state.sql['state']}"
        if state.sql
        else None,
        "schema": None,
        "secrets": ages,
        "backups": [
            {
                "id": b["id"],
                "time": b.get("endTime", ""),
                "status": b["status"],
                "description": b.get("description", ""),
            }
            for b in backups
        ],
        "monthly_cost": cost.estimate(config),
        "problems": problems,
    }
    if state.table:
        result["schema"] = _schema(session, state)
    return result


def _schema(session: Session, state: observe.State) -> str:
    """Return how the schema and the serving release go together, as the schema job last found it."""
    try:
        runs = session.gcloud.json(commands.job_executions(session.config)) or []
    except GcloudError as error:
        return f"unknown ({error.message})"
    if not runs:
        return "unknown (no migration has run)"
    condition: dict[str, Any] = next(
        (c for c in runs[0]["status"].get("conditions", []) if c["type"] == "Completed"), {}
    )
    container = runs[0]["spec"]["template"]["spec"]["containers"][0]
    tag = container["image"].rsplit(":", 1)[-1]
    outcome = "up to date with" if condition.get("status") == "True" else "the last job failed for"
    same = "the serving release" if container["image"] == state.table["image"] else "another release"
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
    for name, item in result["secrets"].items():
        days = "?" if item["days"] is None else item["days"]
        say(f"  secret    {name}: version {item['serving'] or '(none)'} serves, {days} days old")
    for item in result["backups"][:3]:
        say(f"  backup    {item['id']} {item['time'][:19]} {item['status']} {item['description']}")
    say(f"  cost      {cost.summary(session.config)}")
    for problem in result["problems"]:
        say(f"  ✗ {problem}", "red")
    return 1 if result["problems"] else 0
