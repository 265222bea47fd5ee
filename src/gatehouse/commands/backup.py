"""``gatehouse backup PLACE``: the database as it is at one moment, and by choice all artifacts."""

from __future__ import annotations

import argparse
import os
import sys

from gatehouse.exit_codes import Exit


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    print(f"gatehouse backup: {message}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(prog="gatehouse backup", description=__doc__)
    parser.add_argument("place", metavar="PLACE", help="an empty folder, or gs://…, s3://… and the other stores")
    parser.add_argument("--artifacts", action="store_true", help="back up ARTIFACTS_DESTINATION too")
    arguments = parser.parse_args(argv)
    from gatehouse.artifacts import stores
    from gatehouse.artifacts.stores.base import StoreError
    from gatehouse.commands.migrate import database_uri
    from gatehouse.database import reach, schema
    from gatehouse.moving import archive
    from gatehouse.start.settings import Invalid, parse_artifacts

    try:
        engine = schema.make_engine(database_uri())
        place = stores.open_store(parse_artifacts(arguments.place))
        source = (
            stores.open_store(parse_artifacts(os.environ.get("ARTIFACTS_DESTINATION", "")))
            if arguments.artifacts
            else None
        )
        with reach.told(engine):
            archive.backup(engine, place, source, say)
    except Invalid as error:
        print(f"gatehouse backup: error: the place {error.what}\n    fix: {error.fix}", file=sys.stderr)
        return Exit.USAGE
    except archive.ArchiveError as error:
        print(f"gatehouse backup: error: {error}", file=sys.stderr)
        return Exit.INCOMPLETE
    except reach.SchemaError as error:
        print(f"gatehouse backup: error: {error}", file=sys.stderr)
        return error.code
    except StoreError as error:
        print(f"gatehouse backup: error: {error}", file=sys.stderr)
        return Exit.UNAVAILABLE
    say("done")
    return Exit.OK
