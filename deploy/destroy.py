"""`destroy`: shows all that goes and all that stays, asks for the environment's name, then takes it down."""

from __future__ import annotations

import argparse

from deploy import commands, image, observe, secrets
from deploy.observe import holds
from deploy.session import Session, Stop, ask


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Delete the environment; the data stays unless `--data`."""
    config, gcloud, say = session.config, session.gcloud, session.say
    state = observe.observe(config, gcloud, image.wanted(config))
    goes: list[tuple[str, tuple[str, ...]]] = []
    stays: list[str] = []
    if state.service is not None:
        goes.append((f"service {config.names.service} and its revisions", commands.service_delete(config)))
    if "run.googleapis.com" in state.apis and gcloud.find(commands.job_describe(config)) is not None:
        goes.append((f"job {config.names.job}", commands.job_delete(config)))
    protected = bool(state.sql and state.sql["settings"].get("deletionProtectionEnabled"))
    if arguments.data and protected:
        raise Stop(
            f"the database server {config.names.sql} is protected against deletion. If its data really is to go:\n"
            f"  gcloud sql instances patch {config.names.sql} --no-deletion-protection --project={config.project}\n"
            "and set sql/deletion_protection to false in the environment's file. Nothing was deleted."
        )
    member = f"serviceAccount:{config.account}"
    if holds(state.project_policy, "roles/cloudsql.client", member, commands.sql_condition(config)):
        goes.append((f"right of {config.account} to the database", commands.project_bind(config, "remove")))
    for key, _ in state.secrets.items():
        name = config.names.secret(key)
        if key in secrets.OF_THE_DATA and not arguments.data:
            stays.append(f"secret {name}: without it the kept data could not be read again")
        else:
            goes.append((f"secret {name}", commands.secret_delete(config, name)))
    if state.account is not None:
        goes.append((f"service account {config.account}", commands.account_delete(config)))
    if state.repository is not None:
        goes.append(
            (
                f"image repository {config.names.repository} with every image",
                commands.repository_delete(config),
            )
        )
    for there, title, argv in (
        (
            state.sql,
            f"database server {config.names.sql} with every run, and its backups",
            commands.sql_delete(config),
        ),
        (state.bucket, f"bucket {config.bucket} with every artifact", commands.bucket_delete(config)),
    ):
        if there is not None and arguments.data:
            goes.append((title, argv))
        elif there is not None:
            stays.append(title)
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
    name = (
        arguments.confirm
        if arguments.confirm is not None
        else ask(f"Type the environment's name ({config.environment}) to go on: ")
    )
    if name != config.environment:
        raise Stop("that is not the name; nothing was deleted")
    for title, argv in goes:
        say(f"- {title}")
        gcloud.write(argv)
    say("Gone." + (f" What stays costs on: {len(stays)} things; `--data` takes them too." if stays else ""))
    return 0
