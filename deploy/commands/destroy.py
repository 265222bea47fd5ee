"""`destroy`: shows all that goes and all that stays, asks for the environment's name, then takes it down."""

from __future__ import annotations

import argparse
from dataclasses import replace

from deploy.observe import State
from deploy.resources import account, bucket, database, images, project, schema_job, secrets, service, watch
from deploy.resources.base import Argv, holds
from deploy.session import Session, Stop, ask

Going = list[tuple[str, Argv]]


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Delete the environment; the data stays unless `--data`."""
    config, say = session.config, session.say
    state = session.observe()
    if arguments.data and state.database is not None and state.database.protected:
        raise Stop(
            f"the database server {config.names.sql} is protected against deletion. If its data really is to go:\n"
            f"  gcloud sql instances patch {config.names.sql} --no-deletion-protection --project={config.project}\n"
            "and set sql/deletion_protection to false in the environment's file. Nothing was deleted."
        )
    goes, stays = _what(session, state, data=arguments.data)
    if not goes:
        say("Nothing to take down.")
        for title in stays:
            say(f"  = stays: {title}")
        return 0
    say(f"{config.environment}: this goes, for good:")
    for title, _ in goes:
        say(f"  - {title}", "red")
    for title in stays:
        say(f"  = stays: {title}")
    question = f"Type the environment's name ({config.environment}) to go on: "
    name = arguments.confirm if arguments.confirm is not None else ask(question)
    if name != config.environment:
        raise Stop("that is not the name; nothing was deleted")
    for title, argv in goes:
        say(f"- {title}")
        session.gcloud.write(argv)
    say("Gone." + (f" What stays costs on: {len(stays)} things; `--data` takes them too." if stays else ""))
    return 0


def _what(session: Session, state: State, *, data: bool) -> tuple[Going, list[str]]:
    """Return (what goes, in this order, with its command; what stays).

    The data goes before the keys that open it: an interruption in between must not leave data that nobody can read.
    """
    config, google = session.config, session.google
    goes: Going = []
    stays: list[str] = []
    unwatched = replace(config, settings=config.settings.model_copy(update={"housekeeping": None, "monitoring": None}))
    for part in reversed(watch.parts(unwatched, state.watch, state.number, "")):
        if part.data and not data:
            stays.append(part.title)
        else:
            goes.append((part.title, part.delete))
    if state.service is not None:
        goes.append((f"service {config.names.service} and its revisions", service.delete(config)))
    if state.project.on("run") and schema_job.look(config, google) is not None:
        goes.append((f"job {config.names.job}", schema_job.delete(config)))
    if state.project.on("run") and schema_job.look(config, google, config.names.verify_job) is not None:
        goes.append((f"job {config.names.verify_job}", schema_job.delete(config, config.names.verify_job)))
    server = f"database server {config.names.sql} with every run, and its backups"
    artifacts = f"bucket {config.bucket} with every artifact"
    for there, title, argv in (
        (state.database, server, database.delete(config)),
        (state.bucket, artifacts, bucket.delete(config, config.names.bucket)),
    ):
        if there is not None and data:
            goes.append((title, argv))
        elif there is not None:
            stays.append(title)
    others = database.kept(config, google) if state.project.on("sqladmin") else {}
    for name, other in others.items():
        title = f"database server {name}, kept from before a restore"
        if other.protected:
            stays.append(f"{title}: it is protected against deletion")
        elif data:
            goes.append((title, database.delete(config.on(name))))
        else:
            stays.append(title)
    for key in state.secrets:
        name = config.names.secret(key)
        if key in secrets.OF_THE_DATA and not data:
            stays.append(f"secret {name}: without it the kept data could not be read again")
        else:
            goes.append((f"secret {name}", secrets.delete(config, name)))
    member, condition = f"serviceAccount:{config.account}", project.database_condition(config)
    if holds(state.project.policy, project.CLIENT, member, condition):
        goes.append((f"right of {config.account} to the database", project.bind(config, "remove")))
    for name in others:
        if holds(state.project.policy, project.CLIENT, member, project.database_condition(config.on(name))):
            goes.append((f"right of {config.account} to {name}", project.bind(config.on(name), "remove")))
    if state.account is not None:
        goes.append((f"service account {config.account}", account.delete(config, config.account)))
    if state.repository is not None:
        title = f"image repository {config.names.repository} with every image"
        users = images.users(config, google) if state.project.on("run") else []
        if users:
            stays.append(f"{title}: used by {', '.join(users)} (what was promoted lives here). Take these down first")
        else:
            goes.append((title, images.delete(config)))
    builder = config.address(config.names.build_account)
    if state.build_account is not None:
        goes.append((f"service account {builder}", account.delete(config, builder)))
    if state.build_bucket is not None:
        title = f"bucket gs://{config.names.build_bucket} with the builds' sources and logs"
        goes.append((title, bucket.delete(config, config.names.build_bucket)))
    return goes, stays
