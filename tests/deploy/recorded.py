"""Hold the emulator against a record of `make cloud-test`: `python -m tests.deploy.recorded cloud-test.jsonl`.

For each call to Google's REST APIs: whether it is one that the emulator has, and which fields of the answer the tool
reads that the emulator's answers were never seen to have. A record of the emulator's own is the other half.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.deploy.emulator import discovery
from tests.deploy.emulator.core import HANDLERS


def fields(shape: Any, where: str = "") -> set[str]:
    """Return the paths of an answer's fields."""
    if isinstance(shape, dict):
        return {path for key, value in shape.items() for path in {f"{where}{key}", *fields(value, f"{where}{key}/")}}
    return fields(shape[0], where) if isinstance(shape, list) and shape else set()


def differences(record: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[str]:
    """Return what a record has and the emulator has not, a line each."""
    theirs, seen = answered(record), answered(ours)
    found = {f"{name}: the emulator has no such method" for name in theirs if name not in HANDLERS}
    for name in theirs.keys() & seen.keys():
        found |= {f"{name}: {path} is in Google's answer alone" for path in theirs[name] - seen[name]}
        found |= {f"{name}: {path} is in the emulator's answer alone" for path in seen[name] - theirs[name]}
    return sorted(found)


def answered(record: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Return the fields of all good answers of each method that a record has."""
    seen: dict[str, set[str]] = {}
    for entry in record:
        if "url" in entry and entry["status"] < 300:
            seen.setdefault(method(entry), set()).update(fields(entry["answer"]))
    return seen


def method(entry: dict[str, Any]) -> str:
    """Return the id of the method that was called."""
    url = urlsplit(entry["url"])
    host = url.netloc
    host = "run.googleapis.com" if host.endswith("-run.googleapis.com") else host
    found = discovery.find(host, entry["call"], url.path)
    return found[0].id if found else f"{entry['call']} {host}{url.path}"


def read(path: str) -> list[dict[str, Any]]:
    """Return a record's lines."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    print("\n".join(differences(read(sys.argv[1]), read(sys.argv[2]) if len(sys.argv) > 2 else [])))
