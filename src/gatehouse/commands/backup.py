"""``gatehouse backup PLACE``: the database as it is at one moment, and by choice all artifacts."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from gatehouse.commands import archives

if TYPE_CHECKING:
    from collections.abc import Callable


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(prog="gatehouse backup", description=__doc__)
    parser.add_argument("place", metavar="PLACE", help="an empty folder, or gs://…, s3://… and the other stores")
    parser.add_argument("--artifacts", action="store_true", help="back up ARTIFACTS_DESTINATION too")
    arguments = parser.parse_args(argv)
    from gatehouse.artifacts import stores
    from gatehouse.commands.migrate import database_uri
    from gatehouse.database import reach, schema
    from gatehouse.moving import archive
    from gatehouse.start.settings import parse_artifacts

    def work(say: Callable[[str], None]) -> None:
        engine = schema.make_engine(database_uri())
        place = stores.open_store(parse_artifacts(arguments.place))
        source = (
            stores.open_store(parse_artifacts(os.environ.get("ARTIFACTS_DESTINATION", "")))
            if arguments.artifacts
            else None
        )
        with reach.told(engine):
            archive.backup(engine, place, source, say)

    return archives.run("backup", work)
