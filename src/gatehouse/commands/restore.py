"""``gatehouse restore PLACE``: put a backup into an empty database, and its artifacts into their store."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from gatehouse.commands import archives

if TYPE_CHECKING:
    from collections.abc import Callable


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(prog="gatehouse restore", description=__doc__)
    parser.add_argument("place", metavar="PLACE", help="the folder or bucket of the backup")
    parser.add_argument("--no-artifacts", action="store_true", help="leave the backup's artifacts where they are")
    arguments = parser.parse_args(argv)
    from gatehouse.artifacts import stores
    from gatehouse.commands.migrate import database_uri
    from gatehouse.moving import archive
    from gatehouse.start.settings import parse_artifacts

    def work(say: Callable[[str], None]) -> None:
        uri = database_uri()
        place = stores.open_store(parse_artifacts(arguments.place))
        destination = os.environ.get("ARTIFACTS_DESTINATION", "")
        target = stores.open_store(parse_artifacts(destination)) if destination and not arguments.no_artifacts else None
        archive.restore(uri, place, target, say)

    return archives.run("restore", work)
