"""``gatehouse keys``: make, list and revoke keys, for whoever has the database; people do it at /gatehouse/keys."""

from __future__ import annotations

import argparse
import datetime
import secrets
import sys
import time

from gatehouse.commands.migrate import database_uri
from gatehouse.database import keys as table
from gatehouse.database import reach, schema
from gatehouse.database.reach import SchemaError
from gatehouse.exit_codes import Exit
from gatehouse.identities import keys
from gatehouse.policy.roles import Role

_ROLES = {str(role): role for role in Role if role is not Role.NONE}


def say(message: str) -> None:
    """Print a line on stderr."""
    print(f"gatehouse keys: {message}", file=sys.stderr, flush=True)


def _day(seconds: int | None) -> str:
    if seconds is None:
        return "never"
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="minutes")


def create(store: table.KeyTable, arguments: argparse.Namespace) -> None:
    """Make a key, and print it: on stdout the key alone."""
    if not keys.NAME.fullmatch(arguments.name):
        raise table.KeyProblem("a name has small letters, digits, dots, hyphens and underscores, at most 64")
    owner = arguments.owner.encode().lower().decode()
    if not 1 <= arguments.days <= keys.MOST_DAYS:
        raise table.KeyProblem(f"a key ends after 1 to {keys.MOST_DAYS} days")
    if owner.count("@") != 1 or len(owner) > 254 or not owner.isprintable() or " " in owner:
        raise table.KeyProblem(f"{arguments.owner!r} isn't an e-mail address")
    secret, now = keys.make(), int(time.time())
    key = table.Key(
        id=secrets.token_hex(6), name=arguments.name, owner=owner, subject=owner, groups=(),
        role=int(_ROLES[arguments.role]), created=now, expires=now + arguments.days * 86400, used=None, revoked=None,
    )  # fmt: skip
    store.add(key, keys.digest(secret))
    say(f"the key {key.id} ({key.name}) of {owner}: at most {arguments.role}, until {_day(key.expires)}; shown once")
    print(secret)


def show(store: table.KeyTable, arguments: argparse.Namespace) -> None:
    """Print the keys, one a line."""
    print(f"{'id':12}  {'state':7}  {'role':6}  {'expires':22}  {'last used':22}  owner, name")
    for key in store.listed(arguments.owner):
        role, state = str(Role(key.role)), key.state(time.time())
        print(f"{key.id:12}  {state:7}  {role:6}  {_day(key.expires):22}  {_day(key.used):22}  {key.owner}, {key.name}")


def revoke(store: table.KeyTable, arguments: argparse.Namespace) -> None:
    """End a key."""
    key = store.revoke(arguments.id)
    say(f"the key {key.id} ({key.name}) of {key.owner} is revoked; within {keys.Keys.FRESH:.0f} s no instance takes it")


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(prog="gatehouse keys", description=__doc__)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("create", help="make a key, and print it once")
    making.add_argument("--name", required=True, help="what it is for: otel-prod")
    making.add_argument("--role", required=True, choices=list(_ROLES), help="at most; its owner's is asked each time")
    making.add_argument("--days", required=True, type=int, help=f"until it ends: 1 to {keys.MOST_DAYS}")
    making.add_argument("--for", required=True, dest="owner", metavar="ADDRESS", help="whose key it is")
    making.set_defaults(run=create)
    listing = commands.add_parser("list", help="list keys, without their secrets")
    listing.add_argument("--for", dest="owner", metavar="ADDRESS", help="of one person")
    listing.set_defaults(run=show)
    ending = commands.add_parser("revoke", help="end a key")
    ending.add_argument("id", help="as `gatehouse keys list` shows it")
    ending.set_defaults(run=revoke)
    arguments = parser.parse_args(argv)
    try:
        uri = database_uri()
        engine = schema.make_engine(uri)
        reach.wait_for_database(engine, 30, say)
        with reach.told(engine):
            with engine.connect() as connection:
                schema.refuse(schema.inspect(connection))
            table.ensure(uri, say)
            arguments.run(table.KeyTable(uri), arguments)
    except SchemaError as error:
        say(f"error: {error}")
        return error.code
    except table.KeyProblem as error:
        say(f"error: {error}")
        return Exit.USAGE
    return Exit.OK
