"""Limits on what a search may ask:

a sort by thousands of metrics, or a filter of a megabyte, costs the database or us seconds.

They are looked at in MLflow's own handlers' thread, in front of them, on the JSON that Flask parses once for both.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Each item is a join. The UI sends one.
MAX_ORDER_BY = 20
#: The UI's longest filters name some hundreds of runs, 36 characters each.
MAX_FILTER_CHARACTERS = 64 * 1024
_ORDER_BY = frozenset({"order_by", "orderBy"})
_FILTER = frozenset({"filter", "filter_string", "filterString"})


def problem(pairs: Iterable[tuple[str, Any]]) -> str | None:
    """Return what is wrong with a search's fields, each with its value (of a query: a list of texts), or None."""
    for name, value in pairs:
        items = value if isinstance(value, list) else [value]
        if name in _ORDER_BY and len(items) > MAX_ORDER_BY:
            return f"{name} has {len(items)} items; a search may have {MAX_ORDER_BY}."
        longest = max((len(item) for item in items if isinstance(item, str)), default=0)
        if name in _ORDER_BY | _FILTER and longest > MAX_FILTER_CHARACTERS:
            return f"{name} has {longest} characters; a search may have {MAX_FILTER_CHARACTERS}."
    return None


def register(flask_app: Any) -> None:
    """Refuse searches beyond the limits with 400, which no client repeats."""
    from flask import Response, request

    def refuse_too_much() -> Response | None:
        found = problem(request.args.lists())
        if found is None and request.method == "POST" and request.content_length:
            # As MLflow asks for it (handlers._get_request_json), so that it is parsed once.
            document = request.get_json(force=True, silent=True)
            found = problem(document.items()) if isinstance(document, dict) else None
        if found is None:
            return None
        body = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": found})
        return Response(body, 400, mimetype="application/json")

    flask_app.before_request(refuse_too_much)
