"""``gatehouse gc``: remove for good what was deleted in MLflow long ago: rows of the database, and artifacts.

MLflow only marks runs, logged models and experiments as deleted. Without ``--delete``, this lists what would go.
Artifacts go first, then the row that names them, so an interrupted run of this command is finished by the next one.
Only a folder that bears the identifier of the deleted run or model is ever touched, for whoever makes an experiment
chooses where its artifacts are. What a registered model version is made of stays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import posixpath
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy

from gatehouse.artifacts.addresses import Foreign, path_in_store
from gatehouse.database import schema
from gatehouse.database.reach import SchemaError, wait_for_database
from gatehouse.database.schema import State
from gatehouse.exit_codes import Exit
from gatehouse.start.settings import Problem, Settings, SettingsError, load, read_secret_files
from gatehouse.upstream.tracking_stores import deleted_logged_models, deleted_runs, store_of_all_workspaces

if TYPE_CHECKING:
    from gatehouse.artifacts.stores.base import Store

#: An upload may still be going on for this long, whatever --older-than says.
UPLOAD_AGE = timedelta(days=1)
#: What MLflow's registry makes of a deleted version (mlflow/entities/model_registry/model_version_stages.py).
STAGE_DELETED = "Deleted_Internal"
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_IDENTIFIER = re.compile(r"(?:m-)?([0-9a-f]{32})")


class Elsewhere(Exception):
    """The artifacts aren't in a folder of this store that is surely the run's or the model's own."""


@dataclass(frozen=True)
class Outcome:
    """What became of one thing: ``kind`` and ``id`` name it, ``bytes`` is the size of its artifacts.

    ``result`` is "would be deleted", "deleted", "left alone" or "failed"; ``why`` explains the latter two.
    """

    kind: str
    id: str
    result: str
    folder: str = ""
    bytes: int = 0
    why: str = ""

    def __str__(self) -> str:
        size = f"({self.bytes:,} bytes)" if self.folder else ""
        what = " ".join(filter(None, [self.kind, self.id, self.folder, size]))
        return f"{what}: {self.result}{f', {self.why}' if self.why else ''}"


def location(uri: str) -> str:
    """Return the path below the store's root that an artifact URI names.

    Raises:
        Elsewhere: if it is none of this server's store, or spelt so that it could be read in two ways.
    """
    try:
        return path_in_store(uri)
    except Foreign as error:
        raise Elsewhere(str(error)) from None


def own_folder(uri: str, identifier: str) -> str:
    """Return the folder that holds the artifacts of one run or logged model, and nothing else's.

    Raises:
        Elsewhere: if the address doesn't end with the identifier and "artifacts", as MLflow makes it.
    """
    path = location(uri)
    if not _IDENTIFIER.fullmatch(identifier) or path.split("/")[-2:] != [identifier, "artifacts"]:
        raise Elsewhere("its artifacts aren't in a folder of its own")
    return posixpath.dirname(path)


class Collector:
    """Goes through what was deleted before a time.

    Args:
        uri: the database.
        store: where artifacts are.
        age: how long ago it must have been deleted.
        delete: whether it goes, or is only listed.
    """

    def __init__(self, uri: str, store: Store, age: timedelta, delete: bool) -> None:
        self._backend: Any = store_of_all_workspaces(uri)
        self._engine = schema.make_engine(uri)
        self._store = store
        self._age = age
        self._delete = delete
        self._result = "deleted" if delete else "would be deleted"
        #: Folder → bytes, and identifiers, of what went or would go.
        self._folders: dict[str, int] = {}
        self._gone: set[str] = set()
        self._homes = dict(self._homes_of_experiments())
        self._versions = dict(self._parts_of_versions())

    def run(self) -> Iterator[Outcome]:
        """Yield what became of each thing; one that fails doesn't stop the others."""
        age_ms = int(self._age.total_seconds() * 1000)
        for identifier in deleted_logged_models(self._backend, age_ms):
            yield self._model(identifier)
        for identifier in deleted_runs(self._backend, age_ms):
            yield self._run(identifier)
        before_ms = int(datetime.now(timezone.utc).timestamp() * 1000) - age_ms
        old = "SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'deleted' AND last_update_time <= :before"
        for number in [str(row[0]) for row in self._rows(old, before=before_ms)]:
            # Deleting an experiment marks its runs, but not its logged models.
            models = self._rows("SELECT model_id FROM logged_models WHERE experiment_id = :id", id=int(number))
            for (identifier,) in models:
                if identifier not in self._gone:
                    yield self._model(identifier)
            yield self._experiment(number)
        yield from self._uploads()

    def _run(self, identifier: str) -> Outcome:
        def address() -> str:
            info = self._backend.get_run(identifier).info
            if info.lifecycle_stage != "deleted":
                raise Elsewhere("it was restored meanwhile")
            return str(info.artifact_uri)

        return self._collect("run", identifier, address, self._backend._hard_delete_run)

    def _model(self, identifier: str) -> Outcome:
        def address() -> str:
            return str(self._backend.get_logged_model(identifier, allow_deleted=True).artifact_location)

        return self._collect("logged model", identifier, address, self._backend._hard_delete_logged_model)

    def _collect(
        self, kind: str, identifier: str, address: Callable[[], str], remove_row: Callable[[str], None]
    ) -> Outcome:
        """Remove one run's or logged model's artifacts, and then its row."""
        try:
            folder = own_folder(address(), identifier)
            if version := self._versions.get(identifier.removeprefix("m-")):
                raise Elsewhere(f"{version} is made of it")
            self._must_be_free(folder)
            size = self._remove(folder)
            if self._delete:
                remove_row(identifier)
        except Elsewhere as reason:
            return Outcome(kind, identifier, "left alone", why=str(reason))
        except Exception as error:  # whatever MLflow, the database or the store raises, the others have their turn
            return Outcome(kind, identifier, "failed", why=_first_line(error))
        self._gone.add(identifier)
        return Outcome(kind, identifier, self._result, folder, size)

    def _experiment(self, number: str) -> Outcome:
        """Remove an experiment that nothing is left of, and its folder if that is the one that MLflow made for it."""
        try:
            runs = self._rows("SELECT run_uuid FROM runs WHERE experiment_id = :id", id=int(number))
            models = self._rows("SELECT model_id FROM logged_models WHERE experiment_id = :id", id=int(number))
            if left := {row[0] for row in [*runs, *models]} - self._gone:
                raise Elsewhere(f"{len(left)} of its runs and logged models are still there")
            home = self._homes.get(number, "")
            # As MLflow makes it, with and without workspaces.
            own = home == number or (home.startswith("workspaces/") and home.split("/")[2:] == [number])
            if own:
                self._must_be_free(home, but=number)
            size = self._remove(home) if own else 0
            if self._delete:
                self._backend._hard_delete_experiment(number)
        except Elsewhere as reason:
            return Outcome("experiment", number, "left alone", why=str(reason))
        except Exception as error:  # as in _collect
            return Outcome("experiment", number, "failed", why=_first_line(error))
        del self._homes[number]
        if own:
            return Outcome("experiment", number, self._result, home, size)
        return Outcome("experiment", number, self._result, why="but not its traces' files: it chose its own address")

    def _uploads(self) -> Iterator[Outcome]:
        """Remove what interrupted uploads left behind."""
        before = datetime.now(timezone.utc) - max(self._age, UPLOAD_AGE)
        try:
            for path, size in self._store.sweep(before, dry_run=not self._delete):
                yield Outcome("interrupted upload", "", self._result, path, size)
        except Exception as error:  # as in _collect
            yield Outcome("interrupted uploads", "", "failed", why=_first_line(error))

    def _remove(self, folder: str) -> int:
        """Delete a folder, or only look; return the bytes in it that nobody counted before."""
        size = sum(self._sizes(folder))
        if self._delete:
            self._store.delete(folder)
        else:
            size -= sum(other for path, other in self._folders.items() if path.startswith(f"{folder}/"))
        self._folders[folder] = size
        return size

    def _sizes(self, folder: str) -> Iterator[int]:
        for entry in self._store.list(folder):
            if entry.is_folder:
                yield from self._sizes(posixpath.join(folder, entry.name))
            else:
                yield entry.size or 0

    def _must_be_free(self, folder: str, but: str = "") -> None:
        """Raise Elsewhere if an experiment, whichever, has its runs in this folder."""
        for number, home in self._homes.items():
            if number != but and (home == folder or home.startswith(f"{folder}/")):
                raise Elsewhere(f"experiment {number} keeps its artifacts in there")

    def _homes_of_experiments(self) -> Iterator[tuple[str, str]]:
        """Yield (experiment's number, its folder) of all that are in this store."""
        for number, address in self._rows("SELECT experiment_id, artifact_location FROM experiments"):
            with contextlib.suppress(Elsewhere):
                yield str(number), location(address or "")

    def _parts_of_versions(self) -> Iterator[tuple[str, str]]:
        """Yield (identifier of a run or a logged model, registered version that is made of it)."""
        query = "SELECT name, version, source, storage_location FROM model_versions WHERE current_stage <> :deleted"
        for name, version, *addresses in self._rows(query, deleted=STAGE_DELETED):
            for identifier in _IDENTIFIER.findall(" ".join(filter(None, addresses))):
                yield identifier, f"version {version} of the registered model {name}"

    def _rows(self, query: str, **values: object) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), values))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]


def parse_age(text: str) -> timedelta:
    """Return the span that 30d, 12h or 90m stands for."""
    match = re.fullmatch(r"([0-9]{1,5})([dhm])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 30d, 12h or 90m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def collect(settings: Settings, age: timedelta, delete: bool, wait_s: float) -> Iterator[Outcome]:
    """Open the database and the store, and go through them.

    Raises:
        SchemaError: if the database can't be reached, or has another schema.
        StoreError: if there is no such store.
    """
    engine = schema.make_engine(settings.backend_store_uri)
    wait_for_database(engine, wait_s, lambda _: None)
    with engine.connect() as connection:
        found = schema.inspect(connection)
    schema.refuse(found)
    if found.state is State.EMPTY:
        return
    from gatehouse.artifacts import guard
    from gatehouse.artifacts.stores import open_store

    # MLflow itself deletes the archived payload of traces, wherever their tags say that it is.
    unguard = guard.register_stores(settings.addresses())
    try:
        store = open_store(str(settings.artifacts_destination))
        yield from Collector(settings.backend_store_uri, store, age, delete).run()
    finally:
        unguard()


def report(outcomes: Iterable[Outcome], as_json: bool, delete: bool) -> int:
    """Print what became of each thing, and the sum; return the exit code."""
    results: Counter[str] = Counter()
    freed = 0
    for outcome in outcomes:
        results[outcome.result] += 1
        freed += outcome.bytes
        print(json.dumps(asdict(outcome)) if as_json else outcome, flush=True)
    if not as_json:
        sums = ", ".join(f"{number} {result}" for result, number in sorted(results.items())) or "nothing to do"
        print(f"{sums}; {freed:,} bytes" + ("" if delete else ". Nothing was changed: add --delete to do it"))
    return Exit.INCOMPLETE if results["failed"] else Exit.OK


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of what is wrong."""
    parser = argparse.ArgumentParser(
        prog="gatehouse gc",
        description="Remove runs, logged models and experiments that were deleted long ago, and their artifacts.",
    )
    parser.add_argument(
        "--older-than",
        type=parse_age,
        default="30d",
        metavar="AGE",
        help="deleted that long ago: 30d (the default), 12h",
    )
    parser.add_argument("--delete", action="store_true", help="do it; otherwise it is only listed")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each thing")
    parser.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="how long to wait for the database (60)"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="gatehouse gc: %(message)s", level=logging.WARNING)
    environment, problems = read_secret_files(os.environ)
    from gatehouse.artifacts.stores.base import StoreError
    from gatehouse.start.serve import google_credentials

    try:
        if problems:
            raise SettingsError(problems)
        settings = load(environment)
        if not settings.artifacts_destination:
            what, fix = "is not set: clients keep their artifacts themselves", "use `mlflow gc` with their credentials"
            raise SettingsError([Problem("ARTIFACTS_DESTINATION", what, fix)])
        with tempfile.TemporaryDirectory(prefix="gatehouse-gc.") as folder:
            google_credentials(settings, Path(folder))
            outcomes = collect(settings, arguments.older_than, arguments.delete, arguments.wait)
            return report(outcomes, arguments.json, arguments.delete)
    except SettingsError as error:
        print(f"gatehouse gc: error: {error}", file=sys.stderr)
        return Exit.SETTINGS
    except SchemaError as error:
        print(f"gatehouse gc: error: {error}", file=sys.stderr)
        return error.code
    except StoreError as error:
        print(f"gatehouse gc: error: {error}", file=sys.stderr)
        return Exit.UNAVAILABLE
