"""Writing down what was said to Google Cloud, without a value of any answer.

`make cloud-test` does, for the tests' emulator to be held against.

`GATEHOUSE_DEPLOY_RECORD` names the file; a line of JSON for each call.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.cloud.errors import Redactor

VARIABLE = "GATEHOUSE_DEPLOY_RECORD"
_lock = threading.Lock()


def shape(value: Any) -> Any:
    """Return an answer's fields with their types in the place of their values: no secret is in it, and nobody's name."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def write(environ: Mapping[str, str], redactor: Redactor, entry: dict[str, Any]) -> None:
    """Append a call to the record, if one is kept."""
    if path := environ.get(VARIABLE, ""):
        line = redactor.clean(json.dumps(entry, ensure_ascii=False))
        with _lock, Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def answered(content: bytes) -> Any:
    """Return the shape of an answer's JSON; of anything else, how long it is."""
    try:
        return shape(json.loads(content or b"{}"))
    except ValueError:
        return f"{len(content)} bytes"
