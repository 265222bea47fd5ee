"""`backup`: back the database up now, and say how to get back to one."""

from __future__ import annotations

import argparse

from deploy.resources import database
from deploy.session import Session


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Make a backup, then list the newest ten with the command that restores one."""
    del arguments
    config, gcloud, say = session.config, session.gcloud, session.say
    gcloud.write(database.create_backup(config, "asked for"))
    backups = database.backups(config, session.google)[:10]
    for item in backups:
        say(
            f"{item['id']}  {item.get('endTime', item.get('enqueuedTime', ''))[:19]}  {item['status']}  {item['type']} "
            f" {item.get('description', '')}"
        )
    newest = backups[0]["id"] if backups else "ID"
    say("To restore one (to a new server, verified there, then served; what was logged since is not in it):")
    say(f"  python -m deploy restore {config.given} --backup {newest}")
    return 0
