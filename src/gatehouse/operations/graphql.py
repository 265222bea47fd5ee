"""What a GraphQL request does: the worst of the root fields in its document."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from gatehouse.operations.classes import Access
from gatehouse.operations.table import GRAPHQL_FIELDS

#: MLflow's UI has four queries, the longest of 2,000 characters and 300 tokens; what a query costs grows with the
#: square of these (OverlappingFieldsCanBeMerged, and MLflow runs it).
MAX_QUERY = 16 * 1024
MAX_TOKENS = 1_000


class Unreadable(ValueError):
    """Nobody can tell what the document would do; the text says why."""


async def judge(request: object) -> tuple[Access, tuple[str, ...]]:
    """Return the class of a GraphQL request and the root fields that it names.

    Args:
        request: its JSON (graphql.org, Serving over HTTP).

    Raises:
        Unreadable: if it is none, or too large to be read.
    """
    query = request.get("query") if isinstance(request, dict) else None
    if not isinstance(request, dict) or not isinstance(query, str):
        raise Unreadable("The request's body has no GraphQL query.")
    # MLflow hands on what it finds, and fails with it.
    if not isinstance(request.get("variables"), dict | None):
        raise Unreadable("The variables of a GraphQL request are a JSON object.")
    if not isinstance(request.get("operationName"), str | None):
        raise Unreadable("The operationName of a GraphQL request is a text.")
    if len(query) > MAX_QUERY:
        raise Unreadable(f"The GraphQL query is longer than {MAX_QUERY} characters.")
    if len(query) <= _AT_ONCE:
        return _remembered(query)
    return await asyncio.to_thread(graphql_access, query)


def graphql_access(query: str) -> tuple[Access, tuple[str, ...]]:
    """Judge a document: every operation and fragment of it counts, whichever of them the request selects.

    Raises:
        Unreadable: if it is none, or too large to be read.
    """
    from graphql import GraphQLError, parse
    from graphql.language import ast

    try:
        document = parse(query, no_location=True, max_tokens=MAX_TOKENS)
    except GraphQLError as error:
        raise Unreadable(f"The GraphQL query can't be read: {error.message[:200]}") from None
    except RecursionError:
        raise Unreadable("The GraphQL query is nested too deep.") from None
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, ast.FragmentDefinitionNode)}
    fields: dict[str, None] = {}
    for definition in document.definitions:
        if not isinstance(definition, ast.OperationDefinitionNode):
            continue
        seen: set[str] = set()
        pending: list[Any] = list(definition.selection_set.selections)
        while pending:
            node = pending.pop()
            if isinstance(node, ast.FieldNode):
                fields[f"{definition.operation.value}.{node.name.value}"] = None
            elif isinstance(node, ast.InlineFragmentNode):
                pending.extend(node.selection_set.selections)
            elif isinstance(node, ast.FragmentSpreadNode) and node.name.value not in seen:
                seen.add(node.name.value)
                if node.name.value in fragments:
                    pending.extend(fragments[node.name.value].selection_set.selections)
    if not fields:
        raise Unreadable("The GraphQL query has no operation.")
    access = max(GRAPHQL_FIELDS.get(field, Access.ADMIN) for field in fields)
    return access, tuple(fields)


# The UI sends the same few queries again and again, with variables; parsing one takes a few milliseconds at most.
_AT_ONCE = 4096
_remembered = lru_cache(maxsize=128)(graphql_access)
