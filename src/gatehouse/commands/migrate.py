"""``gatehouse migrate``: upgrade the database's schema, on purpose and in one transaction."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

import sqlalchemy

from gatehouse.database import reach, schema
from gatehouse.database.reach import SchemaError
from gatehouse.database.schema import State
from gatehouse.exit_codes import Exit
from gatehouse.start.settings import Invalid, parse_database, read_secret_files
from gatehouse.upstream import migrations


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    print(f"gatehouse migrate: {message}", file=sys.stderr, flush=True)


def database_uri() -> str:
    """Return BACKEND_STORE_URI (or the content of BACKEND_STORE_URI_FILE).

    Raises:
        SchemaError: with the code SETTINGS if it is missing or malformed.
    """
    environment, problems = read_secret_files(
        {k: v for k, v in os.environ.items() if k.startswith("BACKEND_STORE_URI")}
    )
    value = environment.get("BACKEND_STORE_URI", "")
    if problems or not value:
        what = str(problems[0]) if problems else "BACKEND_STORE_URI is not set\n    fix: give the database's URL"
        raise SchemaError(what, Exit.SETTINGS)
    try:
        return parse_database(value)
    except Invalid as error:
        raise SchemaError(f"BACKEND_STORE_URI {error.what}\n    fix: {error.fix}", Exit.SETTINGS) from None


def counted(connection: sqlalchemy.Connection) -> str:
    """Return one line of JSON: the schema's revision, and every table with its number of rows.

    The numbers are exact: after a restore, PostgreSQL's estimates are those of whenever the backup was taken.
    """
    names = sorted(sqlalchemy.inspect(connection).get_table_names())
    rows = {
        name: connection.execute(
            sqlalchemy.select(sqlalchemy.func.count()).select_from(sqlalchemy.table(name))
        ).scalar()
        for name in names
    }
    return json.dumps({"message": "counted", "schema": schema.inspect(connection).revision, "rows": rows})


def migrate(uri: str, check_only: bool, limit_s: float, count: bool = False) -> None:
    """Bring the schema up to date, or with ``check_only`` raise SchemaError unless it is.

    Args:
        count: print how many rows each table has first.
    """
    engine = schema.make_engine(uri)
    reach.wait_for_database(engine, limit_s, say)
    with reach.told(engine):
        with engine.connect() as connection:
            if count:
                print(counted(connection), flush=True)
            found = schema.inspect(connection)
            if found.state is State.CURRENT:
                say(f"the schema is up to date ({found.wanted})")
                return
            if found.state in {State.UNKNOWN, State.FOREIGN} or check_only:
                if found.state is State.EMPTY:
                    raise SchemaError(
                        "the database is empty\n    fix: start the server, or run gatehouse migrate",
                        Exit.SCHEMA_OLDER,
                    )
                schema.refuse(found)
            reach.check_rights(connection, to_create=True)
        say(f"from {found.revision or 'nothing'} to {found.wanted}; this can take minutes on a large database")
        with schema.locked(engine) as connection:
            if schema.inspect(connection).state is State.EMPTY:
                schema.create(connection)
            else:
                migrations.upgrade(connection)
            schema.refuse(schema.inspect(connection))
    say("done")


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(
        prog="gatehouse migrate",
        description="Upgrade the database's schema to the installed MLflow's. Take a backup first.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit with 65 (older) or 76 (newer) unless up to date",
    )
    parser.add_argument(
        "--count",
        action="store_true",
        help="first print the schema's revision and each table's number of rows, as a line of JSON",
    )
    parser.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="how long to wait for the database (60)"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="gatehouse migrate: %(message)s", level=logging.WARNING)
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    try:
        migrate(database_uri(), arguments.check, arguments.wait, arguments.count)
    except SchemaError as error:
        print(f"gatehouse migrate: error: {error}", file=sys.stderr)
        return error.code
    return Exit.OK
