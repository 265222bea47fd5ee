"""experiments/search as one SELECT:

``SqlAlchemyStore._search_experiments`` and the functions that it makes its clauses with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gatehouse.database.reads.query import Declined, Parameters, Query, visible
from gatehouse.database.reads.runs import compared, integer_kind
from gatehouse.database.reads.text import Field, array, integer, obj, page, plain_string, required_string, string

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = ("experiment_id", "name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time")
_TAG = obj([Field("key", string("t.key")), Field("value", required_string("t.value"))], 4)
_EXPERIMENT = obj(
    [
        Field("experiment_id", plain_string("e.experiment_id")),
        Field("name", string("e.name")),
        Field("artifact_location", string("e.artifact_location")),
        Field("lifecycle_stage", plain_string("e.lifecycle_stage")),
        Field("last_update_time", integer("NULLIF(e.last_update_time, 0)"), optional=True),
        Field("creation_time", integer("NULLIF(e.creation_time, 0)"), optional=True),
        Field("tags", array(_TAG, "experiment_tags t WHERE t.experiment_id = e.experiment_id", 3), optional=True),
        Field("workspace", string("e.workspace")),
    ],
    2,
)


def search(filter_string: str, stages: Sequence[str], order: Sequence[str], limit: int, offset: int) -> Query:
    """Return the query of ``experiments/search``.

    Raises:
        Declined: if MLflow's parser refuses the filter or the order, or there is something in it that isn't known here.
    """
    statement, types, values = _search(filter_string, tuple(order))

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        return page("experiments", rows, limit, offset)

    return Query(statement, types, [list(stages), limit + 1, offset, *values], finish)


@lru_cache(maxsize=128)
def _search(filter_string: str, order: tuple[str, ...]) -> tuple[str, str, list[object]]:
    """Return the statement for a filter and an order, its parameters' types, and their values from the fourth on."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchExperimentsUtils

    parameters = Parameters(["text[]", "bigint", "bigint"], [])
    keys = []
    try:
        conditions = [_condition(one, parameters) for one in SearchExperimentsUtils.parse_search_filter(filter_string)]
        for clause in order or ("creation_time DESC", "experiment_id ASC"):
            kind, key, ascending = SearchExperimentsUtils.parse_order_by_for_search_experiments(clause)
            if kind != "attribute" or key not in _COLUMNS:
                raise Declined
            keys.append((key, ascending))
    except MlflowException as error:
        raise Declined from error
    if not any(key == "experiment_id" for key, _ in keys):
        keys.append(("experiment_id", False))
    statement = f"""
SELECT {_EXPERIMENT} FROM (
    SELECT {", ".join(_COLUMNS)}, workspace FROM experiments e
    WHERE e.lifecycle_stage = ANY($1) AND {visible("e.experiment_id")}{"".join(f" AND {one}" for one in conditions)}
    ORDER BY {", ".join(f"e.{key} {'ASC' if ascending else 'DESC'}" for key, ascending in keys)} LIMIT $2 OFFSET $3
) e
"""
    return statement, ", ".join(parameters.types), parameters.values


def _condition(parsed: dict[str, Any], parameters: Parameters) -> str:
    """Return the condition on the experiment ``e`` for one comparison of a filter."""
    kind, key, comparator, value = (parsed.get(name) for name in ("type", "key", "comparator", "value"))
    if kind == "attribute" and key == "name":
        if comparator not in {"=", "!=", "LIKE", "ILIKE"}:
            raise Declined
        return compared("e.name", comparator, value, parameters)
    if kind == "attribute" and key in {"creation_time", "last_update_time"}:
        if comparator not in {"=", "!=", "<", "<=", ">", ">="} or not isinstance(value, int):
            raise Declined
        return compared(f"e.{key}", comparator, value, parameters, integer_kind(value))
    if kind == "tag":
        found = (
            "SELECT FROM experiment_tags t WHERE t.experiment_id = e.experiment_id AND t.key = "
            f"{parameters.add(key, 'text')}"
        )
        if comparator in {"IS NULL", "IS NOT NULL"}:
            return f"{'NOT ' if comparator == 'IS NULL' else ''}EXISTS ({found})"
        if comparator not in {"=", "!=", "LIKE", "ILIKE"}:
            raise Declined
        return f"EXISTS ({found} AND {compared('t.value', str(comparator), value, parameters)})"
    raise Declined
