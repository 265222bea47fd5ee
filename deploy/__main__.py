"""`python -m deploy COMMAND ENVIRONMENT`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from deploy import denied, execute, session
from deploy.cloud.errors import CloudError
from deploy.commands import backup, bootstrap, destroy, doctor, logs, promote, release, restore, rotate, status
from deploy.config import ConfigError
from deploy.exit_codes import CONFIG, DENIED, FAILED, INTERRUPTED, USAGE
from deploy.resources.schema_job import JobError
from deploy.session import Session, Stop
from deploy.smoke import SmokeError

Command = Callable[[Session, argparse.Namespace], int]

COMMANDS: dict[str, tuple[Command, str]] = {
    "plan": (release.plan, "show what would be created or changed, with the exact commands; changes nothing"),
    "apply": (release.apply, "do it: create, change, release, test. Safe to run again at any point"),
    "release": (
        release.release,
        "release on what Terraform made (deploy/terraform): secrets' values, the user, a revision; refuses anything else",
    ),
    "bootstrap": (
        bootstrap.main,
        "once, by an administrator: accounts, their rights over the project, a workflow's way in",
    ),
    "smoke": (release.smoke_test, "test the live service: strangers stay out, browser, curl and SDK get in"),
    "status": (status.main, "what runs, since when, with which versions, rights, backups and costs"),
    "promote": (
        promote.main,
        "release in another environment what serves in this one, by its digest: nothing is built twice",
    ),
    "rollback": (release.rollback, "give the traffic back to the revision before, if the schema allows it"),
    "rotate": (rotate.main, "renew a secret (cookie, database or oauth) without losing a request"),
    "backup": (backup.main, "back up the database now, and list the backups"),
    "restore": (
        restore.main,
        "what a backup (or a moment) holds, to a new database server: verified, then served; the old one stays",
    ),
    "migrate": (release.migrate, "back up, then upgrade the database's schema with the configured image"),
    "logs": (logs.main, "the newest log entries of the service and its job"),
    "destroy": (destroy.main, "take it down; keeps the data unless told --data"),
    "doctor": (
        doctor.main,
        "find what is wrong around the deployment: policies, billing, APIs, OAuth client, budget",
    ),
}


class Parser(argparse.ArgumentParser):
    """Ends with EX_USAGE, as every command of Gatehouse does."""

    def error(self, message: str) -> NoReturn:
        """Print how it is used, what is wrong, and end."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = Parser(prog="python -m deploy", description="Gatehouse on Cloud Run: one small file per environment.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {}
    for name, (_, text) in COMMANDS.items():
        made[name] = sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("environment", help="a name in deploy/environments (dev, staging, prod), or a YAML file")
    for name in ("plan", "status", "doctor"):
        made[name].add_argument("--json", action="store_true", help="print JSON")
    for name in ("plan", "apply", "release"):
        made[name].add_argument(
            "--oauth-client",
            metavar="FILE",
            help="the OAuth client's JSON file, as the Google console gives it for download",
        )
    made["promote"].add_argument(
        "to", metavar="TO", help="the environment that gets it; its file says `image: promoted`"
    )
    for name in ("apply", "release", "bootstrap", "promote", "restore"):
        made[name].add_argument("--yes", action="store_true", help="ask no confirmation")
    for name in ("apply", "release", "promote"):
        made[name].add_argument(
            "--parallel",
            type=int,
            default=execute.PARALLEL,
            metavar="N",
            help="steps at a time (default: %(default)s)",
        )
    for name in ("apply", "release", "promote", "rotate", "rollback", "restore"):
        made[name].add_argument(
            "--no-smoke",
            action="store_true",
            help="leave the smoke tests out (nothing then proves that it works)",
        )
    made["smoke"].add_argument("--url", help="another URL of the service, such as a tagged revision's")
    made["rotate"].add_argument("secret", choices=("cookie", "database", "oauth"))
    made["rotate"].add_argument("--oauth-client", metavar="FILE", help="the new OAuth client's JSON file (for oauth)")
    which = made["restore"].add_mutually_exclusive_group(required=True)
    which.add_argument("--backup", metavar="ID", help="a backup, or `latest`")
    which.add_argument("--at", metavar="TIME", help="a moment, such as 2026-11-25T09:30:00Z (point-in-time recovery)")
    made["restore"].add_argument("--into", metavar="NAME", help="the new server's name, instead of one that follows")
    made["restore"].add_argument(
        "--even-if-less", action="store_true", help="switch though tables have no rows that have some now"
    )
    made["rollback"].add_argument("--to", metavar="REVISION", help="a certain revision, instead of the newest before")
    made["logs"].add_argument("--severity", default="DEFAULT", help="the least severity (WARNING, ERROR)")
    made["logs"].add_argument("--since", default="1h", help="how far back (default: 1h)")
    made["logs"].add_argument("--limit", type=int, default=100)
    made["destroy"].add_argument(
        "--data", action="store_true", help="the database with its backups and the bucket go too"
    )
    made["destroy"].add_argument(
        "--confirm", metavar="NAME", help="the environment's name, instead of being asked for it"
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = parser().parse_args(argv)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    opened: Session | None = None
    try:
        act, _ = COMMANDS[arguments.command]
        opened = session.open_session(arguments.environment)
        return act(opened, arguments)
    except ConfigError as error:
        for problem in str(error).splitlines():
            errors.print(f"deploy: error: {problem}")
        return CONFIG
    except CloudError as error:
        told = denied.explain(opened.config, opened.google, error) if opened else str(error)
        errors.print(f"deploy: error: {error.what}: {told}")
        return DENIED if error.kind == "denied" else FAILED
    except Stop as error:
        errors.print(f"deploy: error: {error}")
        return error.code
    except (SmokeError, JobError) as error:
        errors.print(f"deploy: error: {error}")
        return FAILED
    except KeyboardInterrupt:
        errors.print("deploy: interrupted; the same command continues from here")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
