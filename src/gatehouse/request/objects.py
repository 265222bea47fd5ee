"""The things that a request names, as its audit line calls them:

identifiers out of paths, queries and bodies, cut to size.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Characters of a name, and names in a list, that go into an audit line.
MAX_TEXT = 200
_MAX_LIST = 10

#: Names of things, as MLflow's requests call them, and as the audit line calls them.
_SAME = """
alias assessment_id budget_policy_id dataset_id endpoint_id experiment_id guardrail_id issue_id item_id job_id key
model_definition_id model_id name new_name path queue_id run_id schema_id secret_id stage trace_id version webhook_id
"""
_OBJECTS: Mapping[str, str] = {
    **{name: name for name in _SAME.split()},
    "artifact_path": "path",
    "endpoint_name": "endpoint",
    "experiment_ids": "experiment_id",
    "request_id": "trace_id",
    "request_ids": "trace_id",
    "run_uuid": "run_id",
    "secret_name": "secret",
    "tag_key": "key",
    "trace_ids": "trace_id",
    "workspace_name": "workspace",
}
_CAMEL = re.compile(r"(?<=[a-z])([A-Z])")
#: No field of MLflow's that names a thing is longer.
_MAX_FIELD = 64


def named(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Return those of a request's fields that name a thing: its name in the audit line, and which one."""
    for key, value in pairs:
        if len(key) > _MAX_FIELD:
            continue
        name = _OBJECTS.get(key) or _OBJECTS.get(_CAMEL.sub(lambda found: "_" + found[1].lower(), key))
        if name and (text := _text(value)):
            yield name, text


def _text(value: object) -> str:
    """Return the text of an identifier, or of a list of them, cut to size; empty if it is something else."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, int):
        # A longer one has no text (sys.set_int_max_str_digits), and names nothing.
        return str(value) if -(10**18) < value < 10**18 else ""
    if isinstance(value, list):
        texts = [text for item in value[:_MAX_LIST] if isinstance(item, str | int) and (text := _text(item))]
        more = f" and {len(value) - _MAX_LIST} more" if len(value) > _MAX_LIST else ""
        return (",".join(texts) + more)[: 2 * MAX_TEXT]
    return ""
