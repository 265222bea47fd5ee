"""A new run's request without its message class, which takes ten times as long: for what any client of MLflow's sends.

What is plain has one reading alone: known fields under their own names, each of its own type, in ASCII without escapes.
The rule that stamps it is the message's (people.py); tests/access/test_people.py holds the two against each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_TYPES = {"experiment_id": str, "user_id": str, "start_time": int, "run_name": str, "tags": list}
_INT64 = 2**63


@dataclass
class Pair:
    """A tag."""

    key: str
    value: str


class Pairs(list[Pair]):
    """Tags, with what is used of a repeated field."""

    def add(self, key: str, value: str) -> None:
        """Append one."""
        self.append(Pair(key, value))


@dataclass
class Run:
    """What a stamp touches, and the other fields as they came."""

    fields: dict[str, Any]
    user_id: str = ""
    tags: Pairs = field(default_factory=Pairs)

    def write(self) -> bytes:
        """Return it as JSON."""
        tags = [{"key": pair.key, "value": pair.value} for pair in self.tags]
        return json.dumps({**self.fields, "user_id": self.user_id, "tags": tags}, separators=(",", ":")).encode()


def run(document: object, body: bytes) -> Run | None:
    """Return a request for a new run, or None if it isn't plain.

    Args:
        document: the body's JSON.
        body: as it came.
    """
    if type(document) is not dict or not body.isascii() or b"\\" in body:
        return None
    for name, value in document.items():
        if type(value) is not _TYPES.get(name):
            return None
    if not -_INT64 <= document.get("start_time", 0) < _INT64:
        return None
    tags = Pairs()
    for tag in document.get("tags", ()):
        if type(tag) is not dict or tag.keys() != {"key", "value"}:
            return None
        if type(tag["key"]) is not str or type(tag["value"]) is not str:
            return None
        tags.add(tag["key"], tag["value"])
    others = {name: value for name, value in document.items() if name not in {"user_id", "tags"}}
    return Run(others, document.get("user_id", ""), tags)
