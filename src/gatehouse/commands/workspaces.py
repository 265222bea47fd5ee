"""``gatehouse workspaces``: which there are and what they hold; ``apply`` makes those that the policy declares."""

from __future__ import annotations

import argparse
import os
import sys

from gatehouse.database import schema
from gatehouse.database.reach import SchemaError, wait_for_database
from gatehouse.exit_codes import Exit
from gatehouse.policy.file import PolicyFile
from gatehouse.policy.reader import PolicyError
from gatehouse.policy.roles import DEFAULT_WORKSPACE
from gatehouse.start import teams
from gatehouse.start.settings import SettingsError, load, read_secret_files


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    print(f"gatehouse workspaces: {message}", file=sys.stderr, flush=True)


def run(apply: bool, limit_s: float) -> None:
    """Print a line for each workspace; with ``apply`` make what is declared and missing.

    Raises:
        SettingsError: if a setting is wrong.
        PolicyError: if the access policy can't be used.
        SchemaError: if the database can't be used.
    """
    environment, problems = read_secret_files(os.environ)
    if problems:
        raise SettingsError(problems)
    settings = load(environment)
    policy = PolicyFile.read(settings.access_policy, settings.app_env).policy
    on, problems = teams.switched_on(policy, environment)
    if problems:
        raise SettingsError(problems)
    engine = schema.make_engine(settings.backend_store_uri)
    wait_for_database(engine, limit_s, say)
    with engine.connect() as connection:
        schema.refuse(schema.inspect(connection))
    from gatehouse.database import workspaces

    made = workspaces.make(settings.backend_store_uri, policy.workspaces) if apply else []
    with engine.connect() as connection:
        present, held = workspaces.names(connection), workspaces.holdings(connection)
    for name in sorted({*present, *policy.workspaces}):
        state = (
            "made"
            if name in made
            else "there"
            if name in present
            else "declared, and not there: gatehouse workspaces apply"
        )
        rules = "" if name in policy.workspaces or name == DEFAULT_WORKSPACE else "; not in the access policy"
        contents = workspaces.told({name: held[name]}).partition(": ")[2] if name in held else ""
        print(f"{name}: {state}{rules}{f'; holds {contents}' if contents else ''}")
    if not on:
        say("workspaces are off: the access policy declares none (docs/teams.md)")


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(
        prog="gatehouse workspaces",
        description="Show the workspaces of the database and of the access policy; `apply` makes the missing ones.",
    )
    parser.add_argument("action", nargs="?", choices=["list", "apply"], default="list")
    parser.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="how long to wait for the database (60)"
    )
    arguments = parser.parse_args(argv)
    try:
        run(arguments.action == "apply", arguments.wait)
    except (SettingsError, PolicyError) as error:
        say(f"error: {error}")
        return Exit.SETTINGS
    except SchemaError as error:
        say(f"error: {error}")
        return error.code
    return Exit.OK
