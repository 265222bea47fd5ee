"""`restore`: what a backup, or a moment, holds goes to a new database server.

It is verified there, and then served. The old server stays.

Nothing is written down of how far it came: each part looks at the cloud for what is done, so the same command goes on
after an interruption at any point. Nothing is restored over data: neither the server that serves nor another's.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from deploy.cloud.errors import CloudError
from deploy.config import CANDIDATE, Config
from deploy.observe import State
from deploy.resources import database, project, schema_job, secrets, service
from deploy.resources.base import Argv, holds
from deploy.resources.secrets import Vault, password_of
from deploy.session import Session, Stop, ask
from deploy.smoke import SmokeError

KEY = "database-url"
#: How the names of servers end that were restored to: a later restore begins at the name before.
_ENDING = re.compile(r"-(from-\d+|at-\d{8}t\d{6})$")


@dataclass(frozen=True)
class Source:
    """What is restored: a backup's id or a moment (RFC 3339, UTC), and how it is told."""

    server: str
    backup: str
    moment: str
    told: str

    @property
    def target(self) -> str:
        """The new server's name: the same for the same source, so that an interrupted run finds it."""
        end = f"from-{self.backup}" if self.backup else f"at-{re.sub(r'[^0-9T]', '', self.moment[:19]).lower()}"
        return f"{_ENDING.sub('', self.server)}-{end}"


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Restore, verify, switch."""
    say, config, state = session.say, session.config, session.observe()
    if state.service is None or not state.serving or state.database is None:
        raise Stop("nothing serves yet: apply first")
    source = _source(config, state, state.database, arguments)
    target = arguments.into or source.target
    to = config.on(target)
    if target == config.names.sql:
        raise Stop(f"{target} is the server that the file names, and nothing is restored over data: leave --into out")
    serving = state.served.sql_instances.rsplit(":", 1)[-1]
    if serving not in {config.names.sql, target}:
        raise Stop(
            f"the service works with {serving}, and the file names {config.names.sql}: set names/sql to {serving}"
        )
    say(f"{config.environment}: {source.told} → new database server {target}; {source.server} stays as it is.")
    say("What was logged since then is not in it. Until the switch, the service goes on with the old one.")
    if serving != target:
        if not arguments.yes and ask("Make and verify it? [y/N] ").lower() not in {"y", "yes"}:
            raise Stop("nothing was changed")
        _server(session, to, state, state.database, source)
        version = _password(replace(session, config=to, vault=Vault(to, session.google)))
        _verify(session, to, state, version, even_if_less=arguments.even_if_less)
        if not arguments.yes and ask(f"Let the service work with {target}? [y/N] ").lower() not in {"y", "yes"}:
            raise Stop(
                f"{config.names.sql} goes on serving; the same command continues from here, or take it back:\n{_undo(to, version)}"
            )
        _switch(session, to, state, version, smoke=not arguments.no_smoke)
    _tidy(session, to)
    say(f"✓ the service works with {target}. Write it into {config.given}, without which plan and apply refuse:")
    say(f"  names:\n    sql: {target}")
    say(f"The old server is kept, and costs on. Once nobody needs it:\n  {_line(database.delete(config))}")
    return 0


def _line(argv: Argv) -> str:
    return " ".join(argv)


def _undo(to: Config, version: str) -> str:
    name = to.names.secret(KEY)
    return f"  {_line(database.delete(to))}\n  {_line(secrets.disable(to, name, version))}"


def _source(config: Config, state: State, there: database.Database, arguments: argparse.Namespace) -> Source:
    """Return what is to be restored. Raises Stop if it isn't there."""
    server = config.names.sql
    if arguments.at:
        try:
            moment = datetime.fromisoformat(arguments.at.replace("Z", "+00:00"))
        except ValueError:
            raise Stop(f"--at {arguments.at}: a time such as 2026-11-25T09:30:00Z") from None
        if moment.tzinfo is None:
            raise Stop(f"--at {arguments.at}: of which zone? End it with Z for UTC, or an offset such as +01:00")
        if moment > datetime.now(timezone.utc):
            raise Stop(f"--at {arguments.at}: is yet to come")
        if not database.found(there.answer).point_in_time_recovery:
            raise Stop(
                f"{server} has no point-in-time recovery (sql/point_in_time_recovery), so only its backups: --backup"
            )
        text = moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Source(server, "", text, f"{server} as it was at {text}")
    good = {b["id"]: b for b in state.backups if b["status"] == "SUCCESSFUL"}
    if not good:
        raise Stop(f"{server} has no good backup")
    identity = next(iter(good)) if arguments.backup == "latest" else arguments.backup
    if identity not in good:
        listed = "\n".join(
            f"  {b['id']}  {b.get('endTime', '')[:19]}  {b.get('description', '')}" for b in good.values()
        )
        raise Stop(f"{server} has no good backup {identity}. It has these:\n{listed}")
    when = good[identity].get("endTime", "")[:19]
    return Source(server, identity, "", f"backup {identity} ({when}) of {server}")


def _server(session: Session, to: Config, state: State, old: database.Database, source: Source) -> None:
    """Make the server with what is restored, its right and its settings, as far as they aren't there."""
    config, gcloud, say = session.config, session.gcloud, session.say
    member = f"serviceAccount:{config.account}"
    if not holds(state.project.policy, project.CLIENT, member, project.database_condition(to)):
        say(f"the right of {config.account} to connect to {to.names.sql} …")
        gcloud.write(project.bind(to))
    there = _settled(session, to)
    if there is None and source.moment:
        say("a clone (this takes minutes) …")
        gcloud.write(database.clone(to, source.server, source.moment))
    elif there is None:
        say("a new database server (5 to 10 minutes) …")
        gcloud.write(database.restored_server(to, old.answer))
    there = _settled(session, to)
    if there is None:
        raise Stop(f"{to.names.sql} was made, and is not there")
    if not database.ours(to, there.answer):
        raise Stop(f"{to.names.sql} is another's (by its labels): take another name with --into")
    # A new server has no such database until the backup has been restored to it: so nothing is overwritten, ever.
    if database.DATABASE not in there.databases:
        say("restoring the backup to it …")
        gcloud.write(database.restore(to, source.backup, source.server))
        there = _settled(session, to) or there
    changed = database.difference(to, there.answer)
    if changed.changes:
        say(f"its settings: {'; '.join(changed.lines)} …")
        gcloud.write(database.update(to, changed.flags))


def _settled(session: Session, to: Config) -> database.Database | None:
    """Return the server once nothing is under way in it; None if there is none."""
    there = database.look(to, session.google)
    while there is not None and (running := database.operations(to, session.google)):
        session.say(f"waiting for {running[0].get('operationType', 'what is under way')} …")
        session.gcloud.write(database.wait(to, running[0]["name"]))
        there = database.look(to, session.google)
    return there


def _password(session: Session) -> str:
    """Give the restored user a password, and return the secret's version with the URL that has it.

    A backup has the password of its time, which a rotation may have taken out of the secret since.
    """
    to, google, gcloud = session.config, session.google, session.gcloud
    name, url, version = to.names.secret(KEY), "", ""
    for item in secrets.versions(to, google, name):
        if item["state"] == "ENABLED":
            version = item["name"].rsplit("/", 1)[1]
            url = secrets.read(to, google, name, version)
            break
    if not url.endswith(f"host=/cloudsql/{to.connection}"):
        session.say(f"a new version of {name}, with the new server's address …")
        url = session.vault.value(KEY)
        made = gcloud.write((*secrets.add(to, name), "--format=value(name)"), url)
        version = made.strip().rsplit("/", 1)[-1]
    session.say("the database user's password there …")
    users = database.look(to, google)
    known = users is not None and database.USER in users.users
    argv = database.set_password(to) if known else database.create_user(to)
    gcloud.write(argv, f"--password: {google.redactor.know(password_of(url))}\n")
    return version


def _verify(session: Session, to: Config, state: State, version: str, *, even_if_less: bool) -> None:
    """Check the restored schema, upgrade it if it is older, and compare the tables' rows with today's. Raises Stop, JobError."""
    config, say = session.config, session.say
    image, serving = state.served.image, state.pins[config.names.secret(KEY)]
    say("counting, in both …")
    before = _count(session, config, image, serving)
    after = _count(session, to, image, version)
    if after["code"] == schema_job.NEWER:
        raise Stop(
            f"the restored schema is newer than the serving release knows. Release what made it, then restore. {config.names.sql} goes on"
            f" serving. To take the new server back:\n{_undo(to, version)}"
        )
    if after["code"] == schema_job.NEEDS_UPGRADE and after["rows"]:
        say(f"the restored schema ({after['schema']}) is older than the serving release's: upgrading it there …")
        argv = schema_job.argv(to, image, version, schema_job.MIGRATE, to.names.verify_job)
        schema_job.run(to, session.gcloud, session.google, argv, to.names.verify_job)
        after = _count(session, to, image, version)
    worse = []
    for table in sorted({*before["rows"], *after["rows"]}):
        was, now = before["rows"].get(table), after["rows"].get(table)
        if was != now:
            say(f"  {table}: {_rows(was)} now, {_rows(now)} restored")
        if (now is None and was is not None) or (not now and was):
            worse.append(table)
    same = sum(before["rows"].get(table) == rows for table, rows in after["rows"].items())
    say(f"  {same} of {len(after['rows'])} tables have as many rows as now; schema {after['schema']}")
    if after["code"] != schema_job.UP_TO_DATE:
        raise Stop(
            f"the restored database does not fit the serving release ({schema_job.MEANING.get(after['code'], after['code'])}). Nothing was"
            f" switched. To take it back:\n{_undo(to, version)}"
        )
    if worse and not even_if_less:
        raise Stop(
            f"nothing was switched: these tables have rows now and none in what was restored: {', '.join(worse)}. Another backup? If they"
            f" are to go, the same command with --even-if-less. To take it back:\n{_undo(to, version)}"
        )


def _rows(number: int | None) -> str:
    return "no table" if number is None else f"{number:,} rows"


def _count(session: Session, config: Config, image: str, version: str) -> dict[str, Any]:
    """Return what `gatehouse migrate --check --count` says of a server's database: `schema`, `rows`, and its exit `code`."""
    name, code = config.names.verify_job, schema_job.UP_TO_DATE
    argv = schema_job.argv(config, image, version, schema_job.COUNT, name)
    try:
        schema_job.run(config, session.gcloud, session.google, argv, name)
    except schema_job.JobError as error:
        if error.code not in {schema_job.NEEDS_UPGRADE, schema_job.NEWER}:
            raise
        code = error.code
    return schema_job.counts(config, session.google, name, session.gcloud.patience) | {"code": code}


def _switch(session: Session, to: Config, state: State, version: str, *, smoke: bool) -> None:
    """Let a new revision work with the new server; it gets the traffic once it has been tested. Raises Stop."""
    gcloud, say = session.gcloud, session.say
    try:
        say("a new revision on it, without traffic …")
        gcloud.write(service.to_database(to, f"{to.names.secret(KEY)}:{version}", CANDIDATE))
        if smoke and to.service.ingress == "all":
            session.smoke(to.url(state.number, CANDIDATE), to.public_url(state.number))
        gcloud.write(service.to_tag(to, CANDIDATE))
    except (CloudError, SmokeError) as error:
        raise session.stopped(
            error, f"{state.serving} keeps all the traffic, with {session.config.names.sql}. The same command goes on."
        ) from None


def _tidy(session: Session, to: Config) -> None:
    """Take away what was for the way alone."""
    there = service.look(to, session.google)
    if there is not None and there.leftover:
        session.gcloud.write(service.untag(to, CANDIDATE))
    if schema_job.look(to, session.google, to.names.verify_job) is not None:
        session.gcloud.write(schema_job.delete(to, to.names.verify_job))
