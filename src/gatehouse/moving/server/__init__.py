"""Another MLflow server as a source: what its REST API tells becomes a database with the installed MLflow's schema.

Reading takes long, so each history, run and trace that is whole is noted; a second reading into the same folder goes on
there. Ids that the API doesn't tell (datasets', inputs') are derived from what they belong to: another reading finds
the same.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from gatehouse.database import schema
from gatehouse.moving import sources
from gatehouse.moving.server.evaluation import Evaluation
from gatehouse.moving.server.models import Models
from gatehouse.moving.server.reading import API, Reading, Told, number, pair
from gatehouse.moving.server.remote import Remote, ServerError, plain
from gatehouse.moving.server.runs import Runs
from gatehouse.moving.server.staged import Staged, Values
from gatehouse.moving.server.traces import Traces

NOT_READABLE = (
    "from a server these don't come along: deleted logged models, issues, label schemas, review queues, webhooks, the "
    "gateway, workspaces but the default one, scorers of deleted experiments, and which traces were linked to a run or "
    "a prompt; the time of a deleted run's deletion is that of this reading"
)
#: What comes of values that aren't those of MLflow's API.
ODD = (
    KeyError, TypeError, ValueError, AttributeError, OverflowError,
    sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip


def open_server(remote: Remote, staging: Path, say: Callable[[str], None], dry_run: bool) -> sources.Source:
    """Read a server into a file in ``staging``, or go on doing so.

    Args:
        dry_run: whether to leave out what takes long: metrics' histories and traces' spans.

    Raises:
        SourceError: if the server can't be read at all, or ``staging`` has another one's rows.
    """
    told = Told()
    with contextlib.closing(Staged(staging / ("counted.db" if dry_run else "server.db"), remote.name)) as staged:
        if not staged.marked("all", remote.name):
            try:
                _read(Reading(remote, staged, told, say, dry_run))
            except ServerError as error:
                raise sources.SourceError(f"{error}\n    fix: {_fix(error)}") from None
            except ODD as error:
                raise sources.SourceError(
                    f"{remote.name} answers what no MLflow server answers: {type(error).__name__}: {error}"
                ) from error
            if dry_run:
                told.notes.append("metrics' histories and traces' spans aren't counted: they are read when all is")
            if not told.failed:
                staged.mark("all", [remote.name])
        engine = schema.make_engine(f"sqlite:///{staged.path}")
    return sources.Source(remote.name, engine, server=remote, notes=[*told.notes, NOT_READABLE], failed=told.failed)


def _fix(error: ServerError) -> str:
    if error.status in {401, 403} or 300 <= error.status < 400:
        return (
            "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, to what may read all "
            "of that server"
        )
    return "call again when it answers; with --staging FOLDER it goes on where it ended"


def _read(of: Reading) -> None:
    """Read all of it."""
    experiments = _experiments(of)
    models, runs, traces, evaluation = Models(of), Runs(of), Traces(of), Evaluation(of)
    with of.pool:
        try:
            models.read()
            for place, (experiment, name, stage) in enumerate(experiments, 1):
                of.say(f"reading experiment {place} of {len(experiments)}: {plain(name)}")
                of.part(f"logged models of {name!r}", models.logged, experiment)
                of.part(f"runs of {name!r}", runs.read, experiment)
                of.part(f"traces of {name!r}", traces.read, experiment)
                if stage == "active":
                    of.part(f"scorers of {name!r}", evaluation.scorers, experiment)
            of.part("evaluation datasets", evaluation.datasets)
        except BaseException:
            of.pool.shutdown(cancel_futures=True)
            raise
    of.staged.run("DELETE FROM metrics WHERE run_uuid NOT IN (SELECT run_uuid FROM runs)")


def _experiments(of: Reading) -> list[tuple[int, str, str]]:
    found: dict[int, Values] = {}
    query = {"max_results": 1000, "view_type": "ALL", "order_by": ["experiment_id ASC"]}
    for page in of.remote.pages(f"{API}/experiments/search", "experiments", query, post=True):
        found.update((int(each["experiment_id"]), each) for each in page)
    rows = [
        {
            "experiment_id": key, "name": each["name"], "workspace": "default",
            "artifact_location": each.get("artifact_location"), "lifecycle_stage": each["lifecycle_stage"],
            "creation_time": number(each, "creation_time"), "last_update_time": number(each, "last_update_time"),
        }
        for key, each in found.items()
    ]  # fmt: skip
    tags = [{"experiment_id": key, **pair(tag)} for key, each in found.items() for tag in each.get("tags") or ()]
    of.staged.put((("experiments", rows), ("experiment_tags", tags)), ("source", [of.remote.name]))
    return [(key, str(each["name"]), str(each["lifecycle_stage"])) for key, each in found.items()]
