"""What a request asks for, read strictly: anything but what MLflow's clients and its UI send is MLflow's own to judge.

MLflow reads requests through protobuf, which takes a number as text, a name in two spellings and much else. None of
that is copied here: a field that isn't known, isn't of its plain type, or is there twice is :class:`Declined`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from gatehouse.database.reads import experiments, histories, runs
from gatehouse.database.reads.query import Declined, Query
from gatehouse.dispatch import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Characters of a text. A filter of so many takes some milliseconds to parse, and this is the event loop: longer ones
#: are parsed in a thread of MLflow's handlers.
MOST_CHARACTERS = 1024
#: Bytes of a body.
MOST_BYTES = 16 * 1024
#: More fields than any of these requests has, but for lists of runs.
_MOST_FIELDS = 256
_NUMBER = re.compile(r"-?[0-9]{1,9}")
EXPERIMENT = re.compile(r"[0-9]{1,9}")
Document = dict[str, Any]


class _Fields:
    """The fields of a request, taken one by one; what is left at the end wasn't known."""

    def __init__(self, document: Document) -> None:
        self._left = document

    def text(self, name: str) -> str | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > MOST_CHARACTERS or "\0" in value:
            raise Declined
        return value

    def texts(self, name: str) -> list[str]:
        value = self._left.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and "\0" not in one for one in value):
            raise Declined
        if limits.problem([(name, value)]):
            raise Declined
        return value

    def order(self) -> list[str]:
        """Return what the answer is sorted by, each a text to parse."""
        items = self.texts("order_by")
        if sum(map(len, items)) > MOST_CHARACTERS:
            raise Declined
        return items

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        value = self._left.pop(name, default)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
            raise Declined
        return value

    def offset(self) -> int:
        """Return where the page begins."""
        from mlflow.utils.search_utils import SearchUtils

        token = self.text("page_token")
        try:
            offset = SearchUtils.parse_start_offset_from_page_token(token)
        except Exception as error:
            raise Declined from error
        if not isinstance(offset, int) or not 0 <= offset < 2**62:
            raise Declined
        return offset

    def view(self, name: str) -> list[str]:
        """Return the lifecycle stages that are asked for."""
        stages = runs.STAGES.get(self.text(name) or "ACTIVE_ONLY")
        if stages is None:
            raise Declined
        return stages

    def done(self) -> None:
        if self._left:
            raise Declined


def from_body(body: bytes, content_type: str, most: int = MOST_BYTES) -> Document:
    """Return the fields of a POST of so many bytes at most."""
    if len(body) > most or content_type.split(";")[0] != "application/json":
        raise Declined
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Declined from None
    if not isinstance(document, dict):
        raise Declined
    return document


def _from_query(query: bytes, lists: frozenset[str], numbers: frozenset[str]) -> Document:
    """Return the fields of a GET: those of ``lists`` may be there several times, those of ``numbers`` are numbers."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Declined from None
    document: Document = {}
    for name, value in pairs:
        if "\ufffd" in value:
            raise Declined
        if name in lists:
            document.setdefault(name, []).append(value)
        elif name in document:
            raise Declined
        elif name not in numbers:
            document[name] = value
        elif _NUMBER.fullmatch(value):
            document[name] = int(value)
        else:
            raise Declined
    if not document:
        raise Declined
    return document


def _get_run(fields: _Fields) -> Query:
    run, other = fields.text("run_id"), fields.text("run_uuid")
    if not run or (other is not None and other != run):
        raise Declined
    return runs.get(run)


def _search_runs(fields: _Fields) -> Query:
    ids = fields.texts("experiment_ids")
    if not all(EXPERIMENT.fullmatch(one) for one in ids):
        raise Declined
    limit = fields.number("max_results", 1, runs.MOST_RESULTS, 1000)
    stages, order = fields.view("run_view_type"), fields.order()
    return runs.search(
        [int(one) for one in ids], fields.text("filter") or "", stages, order, limit or 0, fields.offset()
    )


def _get_metric_history(fields: _Fields) -> Query:
    run, other, key = fields.text("run_id"), fields.text("run_uuid"), fields.text("metric_key")
    if not run or not key or (other is not None and other != run):
        raise Declined
    return histories.history(run, key, fields.number("max_results", 1, 2**31 - 1), fields.offset())


def _sampled_histories(fields: _Fields) -> Query:
    from mlflow.server.handlers import MAX_RESULTS_PER_RUN, MAX_RUNS_GET_METRIC_HISTORY_BULK

    ids, key = fields.texts("run_ids"), fields.text("metric_key")
    first, last = (fields.number(name, -(2**31), 2**31 - 1) for name in ("start_step", "end_step"))
    points = fields.number("max_results", 1, MAX_RESULTS_PER_RUN, MAX_RESULTS_PER_RUN)
    if not ids or not key or len(ids) > MAX_RUNS_GET_METRIC_HISTORY_BULK:
        raise Declined
    if first is None and last is None:
        return histories.sampled(ids, key, points or 0, None)
    if first is None or last is None or first > last:
        raise Declined
    return histories.sampled(ids, key, points or 0, (first, last))


def _search_experiments(fields: _Fields) -> Query:
    limit = fields.number("max_results", 1, runs.MOST_RESULTS)
    if limit is None:
        raise Declined
    stages, order = fields.view("view_type"), fields.order()
    return experiments.search(fields.text("filter") or "", stages, order, limit, fields.offset())


_LISTS = frozenset({"run_ids", "order_by", "experiment_ids"})
_NUMBERS = frozenset({"max_results", "start_step", "end_step"})
#: Operation (gatehouse.operations) and method → what makes a query of the request's fields.
OPERATIONS: Mapping[tuple[str, str], Callable[[_Fields], Query]] = {
    ("get_run", "GET"): _get_run,
    ("search_runs", "POST"): _search_runs,
    ("get_metric_history", "GET"): _get_metric_history,
    ("get_metric_history_bulk_interval", "GET"): _sampled_histories,
    ("serve_get_metric_history_bulk_interval", "GET"): _sampled_histories,
    ("search_experiments", "GET"): _search_experiments,
    ("search_experiments", "POST"): _search_experiments,
}


def query(operation: str, method: str, query_string: bytes, content_type: str, body: bytes) -> Query:
    """Return what to ask the database for a request.

    Raises:
        Declined: if MLflow shall answer it.
    """
    fields = _Fields(_from_query(query_string, _LISTS, _NUMBERS) if method == "GET" else from_body(body, content_type))
    found = OPERATIONS[operation, method](fields)
    fields.done()
    return found
