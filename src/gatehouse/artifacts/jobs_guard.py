"""The server's own addresses in the processes of MLflow's jobs, which MLflow starts itself, some for each job.

Python runs a module of the name ``sitecustomize`` at its start, from where it finds one first (docs.python.org, site).
The job runner's environment leads it to one that asks for this guard; every process that a job starts inherits it. A
Python without Gatehouse, such as that of a job with an environment of its own, ends there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from gatehouse.artifacts.addresses import Addresses

#: What tells the places to the processes of jobs.
PLACES = "GATEHOUSE_PLACES"

_SITECUSTOMIZE = """\
# Written by gatehouse: MLflow's jobs open no artifacts but the server's own.
import sys

try:
    from gatehouse.artifacts import jobs_guard
except ImportError as error:
    sys.exit(f"gatehouse: error: a job's Python can't be guarded ({error}): jobs use the server's own environment")
jobs_guard.install()
"""


def environment(folder: Path, own: str, allowed: tuple[str, ...], public_url: str | None) -> dict[str, str]:
    """Return what the processes of jobs get, and write what their Python reads into ``folder``; its parent is private.

    Args:
        folder: to be made, unless it is there.
        own: ARTIFACTS_DESTINATION or DEFAULT_ARTIFACT_ROOT.
        allowed: ALLOWED_ARTIFACT_LOCATIONS.
        public_url: the server's.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, PLACES: json.dumps([own, list(allowed), public_url])}


def places(variables: Mapping[str, str]) -> Addresses:
    """Return the places that an environment tells."""
    own, allowed, public_url = json.loads(variables[PLACES])
    return Addresses(own, allowed, public_url)


def install() -> None:
    """Guard MLflow's artifact repositories in this process, as soon as it has any."""
    from gatehouse.upstream.artifacts import when_repositories_are_there

    addresses = places(os.environ)

    def guard() -> None:
        from gatehouse.artifacts.guard import register_jobs

        register_jobs(addresses)

    when_repositories_are_there(guard)
