"""What a write asks for, read as strictly as a read is: the rest is MLflow's to judge.

What MLflow validates is validated here by the same functions, and whatever they refuse is handed on.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gatehouse.database.metrics import Row
from gatehouse.database.reads.query import Declined, Query
from gatehouse.database.reads.requests import EXPERIMENT, from_body
from gatehouse.database.writes import statements
from gatehouse.upstream import tracking_stores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Document = dict[str, Any]
_RUN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,31}")
_USER_TAG, _NAME_TAG = "mlflow.user", "mlflow.runName"
_INT64 = 2**63
#: JSON's words for numbers that it has none for (protobuf's json_format).
_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
#: MLflow stores the greatest number for infinity (``SqlAlchemyStore.sanitize_metric_value``).
_GREATEST = 1.7976931348623157e308
_METRIC = frozenset({"key", "value", "timestamp", "step", "run_id"})
_PAIR = frozenset({"key", "value"})
_STATES = frozenset({"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"})
#: What MLflow takes at once, and how long (mlflow/utils/validation.py); tests/database/test_writes.py compares.
MOST_METRICS, MOST_PAIRS, MOST = 1000, 100, 1000
#: Bytes of a body: a batch of 1,000 metrics has a tenth of that.
MOST_BYTES = 1024 * 1024
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG = 250, 6000, 8000


def _only(document: Document, *names: str) -> None:
    if not document.keys() <= set(names):
        raise Declined


def _text(value: object, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise Declined
    return value


def _integer(value: object, low: int = -_INT64) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value < _INT64:
        raise Declined
    return value


def _run(document: Document) -> str:
    """Return the run that is named, by either of the field's names or by both."""
    names = {document[name] for name in ("run_id", "run_uuid") if isinstance(document.get(name), str)}
    run = names.pop() if len(names) == 1 else ""
    if not _RUN.fullmatch(run):
        raise Declined
    return run


@lru_cache(maxsize=4096)
def _is_name(name: str) -> bool:
    """Tell whether MLflow takes this as the name of a metric, a parameter or a tag: the three have one rule."""
    return 0 < len(name) <= LONGEST_NAME and tracking_stores.is_name(name)


def _name(value: object) -> str:
    if not isinstance(value, str) or not _is_name(value):
        raise Declined
    return value


def _value(value: object) -> tuple[float, bool]:
    """Return a metric's value as it is stored, and whether it is NaN."""
    if type(value) is float and -_GREATEST <= value <= _GREATEST:
        # PostgreSQL's numerics, which MLflow's numbers pass through, have no -0.
        return value + 0.0, False
    if isinstance(value, str):
        number = _WORDS.get(value)
        if number is None:
            raise Declined
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT64:
        return float(value), False
    else:
        raise Declined
    if number != number:
        return 0.0, True
    return (_GREATEST if number > 0 else -_GREATEST), False


def _metrics(items: object) -> list[Row]:
    """Return metrics as rows; written out, for a batch has many of them."""
    if not isinstance(items, list) or len(items) > MOST_METRICS:
        raise Declined
    rows: list[Row] = []
    for item in items:
        if type(item) is not dict or not item.keys() <= _METRIC:
            raise Declined
        key, given, timestamp, step = item.get("key"), item.get("value"), item.get("timestamp"), item.get("step", 0)
        if (
            type(key) is not str or not _is_name(key)
            or type(timestamp) is not int or not 0 <= timestamp < _INT64
            or type(step) is not int or not -_INT64 <= step < _INT64
            or type(item.get("run_id", "")) is not str
        ):  # fmt: skip
            raise Declined
        rows.append((key, timestamp, step, *_value(given)))
    return rows


def _pairs(items: object, longest: int, reserved: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return parameters or tags; of a name that is there twice, the last value in the place of the first."""
    if not isinstance(items, list) or len(items) > MOST_PAIRS:
        raise Declined
    found: dict[str, str] = {}
    for item in items:
        if not isinstance(item, dict) or item.keys() != _PAIR:
            raise Declined
        found[_name(item["key"])] = _text(item["value"], longest)
    if reserved & found.keys():
        raise Declined
    return found


#: Their writes are more than that of a tag.
_SPECIAL = frozenset({_USER_TAG, _NAME_TAG})


def _log_batch(document: Document) -> Query:
    _only(document, "run_id", "metrics", "params", "tags")
    if not isinstance(document.get("run_id"), str):
        raise Declined
    metrics = _metrics(document.get("metrics", []))
    given = document.get("params", [])
    params = _pairs(given, LONGEST_PARAM)
    wanted = document.get("tags", [])
    tags = _pairs(wanted, LONGEST_TAG, _SPECIAL)
    # A parameter that is there twice is refused.
    if len(params) != len(given) or len(metrics) + len(given) + len(wanted) > MOST:
        raise Declined
    return statements.batch(_run(document), metrics, params, tags)


def _log_metric(document: Document) -> Query:
    _only(document, "run_id", "run_uuid", "key", "value", "timestamp", "step")
    metric = {name: document[name] for name in ("key", "value", "timestamp", "step") if name in document}
    return statements.batch(_run(document), _metrics([metric]), {}, {})


def _log_param(document: Document) -> Query:
    _only(document, "run_id", "run_uuid", "key", "value")
    pair = {name: document.get(name) for name in _PAIR}
    return statements.batch(_run(document), [], _pairs([pair], LONGEST_PARAM), {})


def _set_tag(document: Document) -> Query:
    _only(document, "run_id", "run_uuid", "key", "value")
    pair = {name: document.get(name) for name in _PAIR}
    return statements.batch(_run(document), [], {}, _pairs([pair], LONGEST_TAG, _SPECIAL))


def _create_run(document: Document) -> Query:
    _only(document, "experiment_id", "user_id", "start_time", "run_name", "tags")
    experiment, items = document.get("experiment_id"), document.get("tags")
    if not isinstance(experiment, str) or not EXPERIMENT.fullmatch(experiment) or not isinstance(items, list):
        raise Declined
    if str(int(experiment)) != experiment:
        raise Declined
    tags: dict[str, str] = {}
    for item in items:
        if not isinstance(item, dict) or item.keys() != _PAIR:
            raise Declined
        # MLflow looks at no tag here but at the table's columns.
        tags[_text(item["key"], 250)] = _text(item["value"], 8000)
    name = _text(document.get("run_name", ""), 250)
    tagged = tags.get(_NAME_TAG, "")
    user = _text(document.get("user_id"), 256)
    # A tag that is there twice, two names, and a run that nobody stamped.
    if len(tags) != len(items) or (name and tagged and name != tagged) or not user or tags.get(_USER_TAG) != user:
        raise Declined
    if _NAME_TAG in tags and not tagged:
        raise Declined
    name = name or tagged or tracking_stores.random_run_name()
    tags.setdefault(_NAME_TAG, name)
    return statements.new_run(experiment, user, _integer(document.get("start_time")), name, tags)


def _update_run(document: Document) -> Query:
    _only(document, "run_id", "run_uuid", "status", "end_time")
    status, ends = document.get("status"), document.get("end_time")
    if (status is None and ends is None) or not (status is None or status in _STATES):
        raise Declined
    return statements.change(_run(document), status, None if ends is None else _integer(ends))


#: Operation (gatehouse.operations) and method → what makes a statement of the request's fields.
OPERATIONS: Mapping[tuple[str, str], Callable[[Document], Query]] = {
    ("create_run", "POST"): _create_run,
    ("log_batch", "POST"): _log_batch,
    ("log_metric", "POST"): _log_metric,
    ("log_param", "POST"): _log_param,
    ("set_tag", "POST"): _set_tag,
    ("update_run", "POST"): _update_run,
}
#: What isn't the same if it is done a second time, by MLflow's handler.
ONCE = frozenset({"create_run"})


def statement(operation: str, method: str, _query_string: bytes, content_type: str, body: bytes) -> Query:
    """Return the statement for a request.

    Raises:
        Declined: if MLflow shall answer it.
    """
    return OPERATIONS[operation, method](from_body(body, content_type, MOST_BYTES))
