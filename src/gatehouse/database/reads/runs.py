"""runs/search and runs/get as one SELECT each.

``SqlAlchemyStore._search_runs``, ``_get_run`` and what makes JSON of them.

The filters and orders are parsed by MLflow (``SearchUtils``); what follows from them is
``_get_sqlalchemy_filter_clauses`` and ``_get_orderby_clauses`` of mlflow/store/tracking/sqlalchemy_store.py, statement
for statement.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gatehouse.database.reads.query import Declined, Parameters, Query, visible
from gatehouse.database.reads.text import (
    Field,
    array,
    finished,
    integer,
    number,
    obj,
    page,
    plain_string,
    required_string,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Lifecycle stages by the view that is asked for (mlflow/entities/lifecycle_stage.py).
STAGES = {"ACTIVE_ONLY": ["active"], "DELETED_ONLY": ["deleted"], "ALL": ["active", "deleted"]}
MOST_RESULTS = 50_000

_RUN_COLUMNS = "run_uuid, experiment_id, name, user_id, status, start_time, end_time, artifact_uri, lifecycle_stage"
_NAME_TAG = "mlflow.runName"


def info(level: int) -> str:
    """Return ``info`` of the run ``r``; NULL if MLflow couldn't make it either."""
    # Runs of MLflow before 1.30 have their name in a tag alone.
    tag = f"(SELECT NULLIF(value, '') FROM tags WHERE run_uuid = r.run_uuid AND key = '{_NAME_TAG}')"
    return obj(
        [
            Field("run_uuid", plain_string("r.run_uuid")),
            Field("experiment_id", plain_string("r.experiment_id")),
            Field("run_name", string(f"COALESCE(NULLIF(r.name, ''), {tag}, r.name)"), optional=True),
            Field("user_id", string("r.user_id")),
            Field("status", plain_string("r.status")),
            Field("start_time", integer("r.start_time")),
            Field("end_time", integer("NULLIF(r.end_time, 0)"), optional=True),
            Field("artifact_uri", string("NULLIF(r.artifact_uri, '')"), optional=True),
            Field("lifecycle_stage", plain_string("r.lifecycle_stage")),
            Field("run_id", plain_string("r.run_uuid")),
        ],
        level,
    )


def metric(level: int, *more: Field) -> str:
    """Return a metric of the row ``m``."""
    return obj(
        [
            Field("key", string("m.key")),
            Field("value", number("m.value", "m.is_nan")),
            Field("timestamp", f"COALESCE({integer('m.timestamp')}, chr(1) || chr(1))"),
            Field("step", integer("m.step")),
            *more,
        ],
        level,
    )


def _pair(level: int, name: str = "key") -> str:
    """Return a parameter or tag of the row ``p``."""
    return obj([Field("key", string(f"p.{name}")), Field("value", required_string("p.value"))], level)


def _data(level: int) -> str:
    """Return ``data`` of the run ``r``."""
    inner = level + 1
    return obj(
        [
            Field("metrics", array(metric(inner + 1), "latest_metrics m WHERE m.run_uuid = r.run_uuid", inner), True),
            Field("params", array(_pair(inner + 1), "params p WHERE p.run_uuid = r.run_uuid", inner), True),
            Field("tags", array(_pair(inner + 1), "tags p WHERE p.run_uuid = r.run_uuid", inner), True),
        ],
        level,
    )


def _datasets(level: int) -> str:
    """Return the array of the datasets of the run ``r``, or NULL."""
    dataset = obj(
        [
            Field("name", string("d.name")),
            Field("digest", string("d.digest")),
            Field("source_type", string("d.dataset_source_type")),
            Field("source", string("d.dataset_source")),
            Field("schema", string("NULLIF(d.dataset_schema, '')"), True),
            Field("profile", string("NULLIF(d.dataset_profile, '')"), True),
        ],
        level + 2,
    )
    tags = array(_pair(level + 3, "name"), "input_tags p WHERE p.input_uuid = i.input_uuid", level + 2)
    inside = [Field("tags", tags, True), Field("dataset", dataset)]
    return array(
        obj(inside, level + 1),
        "inputs i JOIN datasets d ON d.dataset_uuid = i.source_id"
        " WHERE i.destination_type = 'RUN' AND i.destination_id = r.run_uuid",
        level,
    )


def _model_inputs(level: int) -> str:
    """Return the array of the models that the run ``r`` was given, or NULL."""
    return array(
        obj([Field("model_id", string("i.destination_id"))], level + 1),
        "inputs i WHERE i.source_type = 'RUN_INPUT' AND i.source_id = r.run_uuid AND i.destination_type = "
        "'MODEL_INPUT'",
        level,
    )


def _model_outputs(level: int) -> str:
    """Return the array of the models that the run ``r`` made, or NULL."""
    return array(
        obj([Field("model_id", string("i.destination_id")), Field("step", integer("i.step"))], level + 1),
        "inputs i WHERE i.source_type = 'RUN_OUTPUT' AND i.source_id = r.run_uuid AND i.destination_type = "
        "'MODEL_OUTPUT'",
        level,
    )


def _run(level: int, inputs: Sequence[Field], outputs: Sequence[Field]) -> str:
    """Return the run ``r``."""
    return obj(
        [
            Field("info", info(level + 1)),
            Field("data", _data(level + 1)),
            Field("inputs", obj(inputs, level + 1)),
            Field("outputs", obj(outputs, level + 1)),
        ],
        level,
    )


def _guarded(condition: str, value: str) -> str:
    """Return a value that is looked for only if one of the page's runs has such a thing at all: hardly any has."""
    return f"CASE WHEN (SELECT EXISTS (SELECT FROM inputs i WHERE {condition})) THEN {value} END"


_ON_PAGE = "IN (SELECT run_uuid FROM page)"
_SEARCHED = _run(
    2,
    [
        Field(
            "dataset_inputs",
            _guarded(f"i.destination_type = 'RUN' AND i.destination_id {_ON_PAGE}", _datasets(4)),
            True,
        )
    ],
    [
        Field(
            "model_outputs",
            _guarded(f"i.source_type = 'RUN_OUTPUT' AND i.source_id {_ON_PAGE}", _model_outputs(4)),
            True,
        )
    ],
)
_GET = f"""
SELECT {
    _run(
        1,
        [Field("dataset_inputs", _datasets(3), True), Field("model_inputs", _model_inputs(3), True)],
        [Field("model_outputs", _model_outputs(3), True)],
    )
}
FROM runs r WHERE r.run_uuid = $1 AND {visible("r.experiment_id")}
"""


def get(run: str) -> Query:
    """Return the query of ``GET runs/get``."""

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        if len(rows) != 1 or rows[0][0] is None:
            raise Declined
        return [b'{\n  "run": ' + finished(rows[0][0]) + b"\n}"]

    return Query(_GET, "varchar", [run], finish)


def search(
    experiments: Sequence[int], filter_string: str, stages: Sequence[str], order: Sequence[str], limit: int, offset: int
) -> Query:
    """Return the query of ``POST runs/search``.

    Raises:
        Declined: if MLflow's parser refuses the filter or the order, or there is something in it that isn't known here.
    """
    statement, types, values = _search(filter_string, tuple(order))

    def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
        return page("runs", rows, limit, offset)

    return Query(statement, types, [list(experiments), list(stages), limit + 1, offset, *values], finish)


@lru_cache(maxsize=512)
def _search(filter_string: str, order: tuple[str, ...]) -> tuple[str, str, list[object]]:
    """Return the statement for a filter and an order, its parameters' types, and their values from the fifth on."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchUtils

    parameters = Parameters(["int[]", "text[]", "bigint", "bigint"], [])
    try:
        joins, keys, joined = _order(order, parameters)
        conditions = [_condition(one, parameters, joined) for one in SearchUtils.parse_search_filter(filter_string)]
    except MlflowException as error:
        raise Declined from error
    statement = f"""
WITH page AS MATERIALIZED (
    SELECT {", ".join(f"r.{column.strip()}" for column in _RUN_COLUMNS.split(","))}
    FROM runs r {" ".join(joins)}
    WHERE r.experiment_id = ANY($1) AND r.lifecycle_stage = ANY($2) AND {visible("r.experiment_id")}
    {"".join(f" AND {condition}" for condition in conditions)}
    ORDER BY {", ".join(keys)} LIMIT $3 OFFSET $4
)
SELECT {_SEARCHED} FROM page r
"""
    return statement, ", ".join(parameters.types), parameters.values


#: MLflow's comparators → SQL's.
_COMPARATORS = {"=": "=", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<=", "LIKE": "LIKE", "ILIKE": "ILIKE"}
_ATTRIBUTES = frozenset({"run_id", "user_id", "status", "start_time", "end_time", "artifact_uri"})


def compared(column: str, comparator: str, value: object, parameters: Parameters, kind: str = "text") -> str:
    """Return a comparison of a column with a value or a list of values.

    Raises:
        Declined: if the comparator or the value isn't known.
    """
    if comparator in {"IN", "NOT IN"}:
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise Declined
        operator, quantifier = ("=", "ANY") if comparator == "IN" else ("<>", "ALL")
        return f"{column} {operator} {quantifier}({parameters.add(list(value), f'{kind}[]')})"
    if comparator not in _COMPARATORS or not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise Declined
    return f"{column} {_COMPARATORS[comparator]} {parameters.add(value, kind)}"


def integer_kind(value: object) -> str:
    """Return the type of SQL that a number is compared with a ``bigint`` as."""
    return "bigint" if isinstance(value, int) and -(2**63) <= value < 2**63 else "numeric"


#: (table, name) → the alias under which rows of that name are joined already, because runs are ordered by them.
Joined = dict[tuple[str, str], str]


def _condition(parsed: dict[str, Any], parameters: Parameters, joined: Joined) -> str:
    """Return the condition on the run ``r`` for one comparison of a filter."""
    from mlflow.utils.search_utils import SearchUtils

    kind, value, comparator = parsed.get("type"), parsed.get("value"), str(parsed.get("comparator")).upper()
    key = SearchUtils.translate_key_alias(parsed.get("key"))
    if SearchUtils.is_string_attribute(kind, key, comparator):
        if key == "run_name":
            alias = joined.get(("tags", _NAME_TAG), "p")
            condition = compared(f"{alias}.value", comparator, value, parameters)
            return _has("tags", _NAME_TAG, alias, condition, parameters)
        return compared(_column(key), comparator, value, parameters)
    if SearchUtils.is_numeric_attribute(kind, key, comparator):
        return compared(_column(key), comparator, value, parameters, integer_kind(value))
    if SearchUtils.is_metric(kind, comparator):
        alias = joined.get(("latest_metrics", key), "p")
        condition = compared(f"{alias}.value", comparator, float(str(value)), parameters, "float8")
        # NaN is stored as 0, and differs from everything.
        condition += f" OR {alias}.is_nan" if comparator == "!=" else f" AND NOT {alias}.is_nan"
        return _has("latest_metrics", key, alias, f"({condition})", parameters)
    if SearchUtils.is_param(kind, comparator) or SearchUtils.is_tag(kind, comparator):
        table = "params" if SearchUtils.is_param(kind, "=") else "tags"
        alias = joined.get((table, key), "p")
        if comparator in {"IS NULL", "IS NOT NULL"}:
            found = _has(table, key, alias, "TRUE", parameters)
            return f"NOT {found}" if comparator == "IS NULL" else found
        return _has(table, key, alias, compared(f"{alias}.value", comparator, value, parameters), parameters)
    if SearchUtils.is_dataset(kind, comparator):
        source = "inputs i JOIN datasets d ON d.dataset_uuid = i.source_id"
        if key == "context":
            source += " JOIN input_tags t ON t.input_uuid = i.input_uuid AND t.name = 'mlflow.data.context'"
        column = {"context": "t.value", "name": "d.name", "digest": "d.digest"}.get(key)
        if column is None:
            raise Declined
        condition = compared(column, comparator, value, parameters)
        return f"EXISTS (SELECT FROM {source} WHERE i.destination_id = r.run_uuid AND {condition})"
    raise Declined


def _column(key: str) -> str:
    """Return the column of ``runs`` for an attribute."""
    if key not in _ATTRIBUTES:
        raise Declined
    return f"r.{'run_uuid' if key == 'run_id' else key}"


def _has(table: str, key: str, alias: str, condition: str, parameters: Parameters) -> str:
    """Return the condition that the run ``r`` has a row of a name in a table, for which a condition holds.

    Args:
        alias: "p", or that of rows which are joined already.
    """
    if alias != "p":
        return f"({alias}.run_uuid IS NOT NULL AND {condition})"
    name = parameters.add(key, "text")
    return f"EXISTS (SELECT FROM {table} p WHERE p.run_uuid = r.run_uuid AND p.key = {name} AND {condition})"


def _order(order: Sequence[str], parameters: Parameters) -> tuple[list[str], list[str], Joined]:
    """Return the joins, the keys of ORDER BY, and what is joined."""
    from mlflow.utils.search_utils import SearchUtils

    joins: list[str] = []
    joined: Joined = {}
    keys: list[str] = []
    seen: set[tuple[str, str]] = set()
    for number_, clause in enumerate(order):
        kind, key, ascending = SearchUtils.parse_order_by_for_search_runs(clause)
        key = SearchUtils.translate_key_alias(key)
        if (kind, key) in seen:
            raise Declined
        seen.add((kind, key))
        first = "CASE WHEN {0} IS NULL THEN 1 ELSE 0 END"
        if SearchUtils.is_attribute(kind, key, "="):
            value = "r.name" if key == "run_name" else _column(key)
        else:
            tables = {"metric": "latest_metrics", "tag": "tags", "parameter": "params"}
            if kind not in tables:
                raise Declined
            alias = f"o{number_}"
            value = f"{alias}.value"
            joined[tables[kind], key] = alias
            joins.append(
                f"LEFT JOIN {tables[kind]} {alias} ON {alias}.run_uuid = r.run_uuid AND {alias}.key = "
                f"{parameters.add(key, 'text')}"
            )
            if kind == "metric":
                first = f"CASE WHEN {alias}.is_nan THEN 1 WHEN {{0}} IS NULL THEN 2 ELSE 0 END"
        keys += [first.format(value), value if ascending else f"{value} DESC"]
    if ("attribute", "start_time") not in seen:
        keys.append("r.start_time DESC")
    return joins, [*keys, "r.run_uuid"], joined
