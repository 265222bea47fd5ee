"""``gatehouse import SOURCE``: bring another MLflow's experiments, runs, models and traces along, with their artifacts.

SOURCE is an mlruns folder, a file of SQLite (sqlite:////… too), postgresql://… of an MLflow of any age, or the address
of a server, whose credential stands in MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and …_PASSWORD. The targets
are BACKEND_STORE_URI and ARTIFACTS_DESTINATION, as for the gate, which may run meanwhile. A second call goes on where
the first one ended, and brings nothing twice.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gatehouse.exit_codes import Exit

if TYPE_CHECKING:
    from rich.progress import TaskID

    from gatehouse.moving.move import Report


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    print(f"gatehouse import: {message}", file=sys.stderr, flush=True)


class Bars:
    """Progress on a terminal; a line for each step elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        """Show another bar."""
        if total:
            self._task = self._progress.add_task(what, total=total)

    def advance(self, count: int) -> None:
        """Move it."""
        if self._task is not None:
            self._progress.advance(self._task, count)


def tell(report: Report) -> None:
    """Print the report in words."""
    document = report.document()
    if report.dry_run:
        for name, count in report.counts.items():
            if count:
                print(f"{name}: {count}")
        print(
            f"artifacts: {report.artifacts.files} files, {report.artifacts.bytes} bytes, "
            f"{report.artifacts.there} here already"
        )
    else:
        for name, outcome in report.groups.items():
            if outcome.copied or outcome.there or outcome.failed:
                print(
                    f"{name}: {outcome.copied} copied and verified, {outcome.there} here already, "
                    f"{len(outcome.failed)} couldn't come"
                )
        print(
            f"artifacts: {report.artifacts.files} files, {report.artifacts.bytes} bytes copied and verified, "
            f"{report.artifacts.there} here already"
        )
    for note in report.notes:
        print(f"note: {note}")
    for name, why in report.left_behind.items():
        print(f"left behind: {name}: {why}")
    failures = document["could_not_come_along"]
    for name, why in list(failures.items())[:20]:
        # A source names things as it likes: a terminal only prints them.
        text = "".join(each if each.isprintable() else " " for each in f"{name}: {why}")
        print(f"ERROR {text}", file=sys.stderr)
    if len(failures) > 20:
        print(f"ERROR and {len(failures) - 20} more: --report FILE has all of them", file=sys.stderr)


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong: 74 if something couldn't come along."""
    parser = argparse.ArgumentParser(
        prog="gatehouse import", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, a file, sqlite:////…, postgresql://… or https://…")
    parser.add_argument("--dry-run", action="store_true", help="count what there is, and change nothing")
    parser.add_argument(
        "--served-artifacts", metavar="PLACE",
        help="where the old server kept artifacts that it calls mlflow-artifacts:/ (its --artifacts-destination)",
    )  # fmt: skip
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PLACE",
        help="a folder or bucket that artifacts may be read from besides; as often as needed",
    )
    parser.add_argument(
        "--artifacts", choices=("copy", "keep"), default="copy",
        help="copy them into ARTIFACTS_DESTINATION (default), or keep every location as it is and copy none",
    )  # fmt: skip
    parser.add_argument(
        "--staging", type=Path, metavar="FOLDER", help="where a copy of the source's rows is kept between calls"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="let a server's credential go over http:// to another machine"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all that came of it to a file, as JSON")
    parser.add_argument("--jobs", type=int, metavar="N", help="batches at once")
    arguments = parser.parse_args(argv)
    from gatehouse.commands.migrate import database_uri
    from gatehouse.database.reach import SchemaError
    from gatehouse.moving.files import SERVED, Files
    from gatehouse.moving.move import move, shared_store, target_engine, threads_for
    from gatehouse.moving.sources import SourceError, open_source
    from gatehouse.start.settings import Invalid, parse_artifacts

    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        uri = database_uri()
        destination = (
            parse_artifacts(os.environ.get("ARTIFACTS_DESTINATION", "")) if arguments.artifacts == "copy" else None
        )
    except SchemaError as error:
        print(f"gatehouse import: error: {error}", file=sys.stderr)
        return error.code
    except Invalid as error:
        print(
            f"gatehouse import: error: ARTIFACTS_DESTINATION {error.what}\n    fix: {error.fix}; or --artifacts keep",
            file=sys.stderr,
        )
        return Exit.SETTINGS
    threads = arguments.jobs or threads_for(uri)
    with tempfile.TemporaryDirectory(prefix="gatehouse-import.") as scratch:
        staging = arguments.staging or Path(scratch)
        staging.mkdir(parents=True, exist_ok=True)
        try:
            source = open_source(arguments.source, staging, say, arguments.dry_run, arguments.insecure)
            target = None if arguments.dry_run else target_engine(uri, say, threads)
            files = (
                Files(
                    shared_store(destination), arguments.served_artifacts, source.folder, arguments.allow, source.server
                )
                if destination
                else None
            )
            with Bars() as bars:
                report = move(source, target, SERVED if destination else None, files, threads, bars, arguments.dry_run)
        except SourceError as error:
            print(f"gatehouse import: error: {error}", file=sys.stderr)
            return Exit.USAGE
        except SchemaError as error:
            print(f"gatehouse import: error: {error}", file=sys.stderr)
            return error.code
    if arguments.report:
        report.write(arguments.report)
    tell(report)
    return Exit.INCOMPLETE if report.failures else Exit.OK
