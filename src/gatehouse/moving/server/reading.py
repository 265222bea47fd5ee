"""What every part of a reading shares."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gatehouse.moving.server.remote import READERS, Remote, ServerError
from gatehouse.moving.server.staged import Staged, Values

API, API3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
#: What SQL has in place of infinity: MLflow's own stand-in.
LARGEST = 1.7976931348623157e308


@dataclass
class Told:
    """What a reading has to tell besides the rows."""

    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Reading:
    """One reading of a server.

    Args:
        say: is told how far it is.
        dry_run: whether to leave out what takes long: metrics' histories and traces' spans.
    """

    def __init__(self, remote: Remote, staged: Staged, told: Told, say: Callable[[str], None], dry_run: bool) -> None:
        self.remote = remote
        self.staged = staged
        self.told = told
        self.say = say
        self.dry_run = dry_run
        self.pool = ThreadPoolExecutor(READERS, "read")
        #: What the server doesn't have is asked for once.
        self.lacks: set[str] = set()
        self._namespace = uuid.uuid5(uuid.NAMESPACE_URL, remote.name)

    def part(self, what: str, read: Callable[..., None], *arguments: Any) -> None:
        """Read a part that an older server lacks, or an account may not see."""
        kind = what.partition(" of ")[0]
        if kind in self.lacks:
            return
        try:
            read(*arguments)
        except ServerError as error:
            if error.no_route:
                self.lacks.add(kind)
                self.told.notes.append(f"the server has no {kind}: {error}")
            elif error.of_one_thing:
                self.told.failed[what] = str(error)
            else:
                raise

    def id(self, *parts: object) -> str:
        """Return an id that follows from what it belongs to."""
        return uuid.uuid5(self._namespace, "\0".join(map(str, parts))).hex


def parsed(document: Values, message: Any) -> Any:
    """Return an answer as MLflow's message; a ValueError says what in it is none."""
    from google.protobuf.json_format import ParseError
    from mlflow.utils.proto_json_utils import parse_dict

    try:
        parse_dict(document, message)
    except ParseError as error:
        raise ValueError(str(error)) from None
    return message


def run_id(run: Values) -> str:
    """Return a run's id."""
    return str(run["info"].get("run_id") or run["info"]["run_uuid"])


def number(values: Values, name: str) -> int | None:
    """Return a field's number, which may be written as text; None if it isn't told."""
    return int(values[name]) if values.get(name) not in (None, "") else None


def pair(tag: Values) -> Values:
    """Return a tag's or parameter's columns."""
    return {"key": str(tag["key"]), "value": str(tag.get("value", ""))}


def finite(value: Any) -> tuple[float, bool]:
    """Return a metric's value as SQL has it, and whether it is NaN."""
    found = float(value)
    if math.isnan(found):
        return 0.0, True
    return (math.copysign(LARGEST, found) if math.isinf(found) else found), False
