"""``gatehouse restore PLACE``: put a backup into an empty database, and its artifacts into their store."""

from __future__ import annotations

import argparse
import os
import sys

from gatehouse.exit_codes import Exit


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    print(f"gatehouse restore: {message}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(prog="gatehouse restore", description=__doc__)
    parser.add_argument("place", metavar="PLACE", help="the folder or bucket of the backup")
    parser.add_argument("--no-artifacts", action="store_true", help="leave the backup's artifacts where they are")
    arguments = parser.parse_args(argv)
    from gatehouse.artifacts import stores
    from gatehouse.artifacts.stores.base import StoreError
    from gatehouse.commands.migrate import database_uri
    from gatehouse.database import reach
    from gatehouse.moving import archive
    from gatehouse.start.settings import Invalid, parse_artifacts

    try:
        uri = database_uri()
        place = stores.open_store(parse_artifacts(arguments.place))
        destination = os.environ.get("ARTIFACTS_DESTINATION", "")
        target = stores.open_store(parse_artifacts(destination)) if destination and not arguments.no_artifacts else None
        archive.restore(uri, place, target, say)
    except Invalid as error:
        print(f"gatehouse restore: error: the place {error.what}\n    fix: {error.fix}", file=sys.stderr)
        return Exit.USAGE
    except archive.ArchiveError as error:
        print(f"gatehouse restore: error: {error}", file=sys.stderr)
        return Exit.INCOMPLETE
    except reach.SchemaError as error:
        print(f"gatehouse restore: error: {error}", file=sys.stderr)
        return error.code
    except StoreError as error:
        print(f"gatehouse restore: error: {error}", file=sys.stderr)
        return Exit.UNAVAILABLE
    say("done")
    return Exit.OK
