"""What a GraphQL document does: the class of the worst of its root fields."""

from __future__ import annotations

from functools import lru_cache

from gatehouse.operations.classes import Access
from gatehouse.operations.table import GRAPHQL_FIELDS


def graphql_access(query: object) -> tuple[Access, tuple[str, ...]]:
    """Return the class of a GraphQL document and the root fields that it names."""
    if isinstance(query, str) and len(query) <= _CACHED_QUERY:
        return _remembered_graphql_access(query)
    return _graphql_access(query)


def _graphql_access(query: object) -> tuple[Access, tuple[str, ...]]:
    """Judge a document.

    Every operation and fragment of the document counts, whichever of them the request selects. A document
    that can't be read is READ: MLflow refuses it before it runs anything.
    """
    from graphql import GraphQLError, parse
    from graphql.language import ast

    if not isinstance(query, str):
        return Access.READ, ()
    try:
        document = parse(query, no_location=True)
    except (GraphQLError, RecursionError):
        return Access.READ, ()
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, ast.FragmentDefinitionNode)}
    fields: dict[str, None] = {}
    for definition in document.definitions:
        if not isinstance(definition, ast.OperationDefinitionNode):
            continue
        seen: set[str] = set()
        pending = list(definition.selection_set.selections)
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
    access = max((GRAPHQL_FIELDS.get(field, Access.ADMIN) for field in fields), default=Access.READ)
    return access, tuple(fields)


# The UI sends the same few queries again and again, with variables; parsing one takes a millisecond.
_CACHED_QUERY = 8192
_remembered_graphql_access = lru_cache(maxsize=128)(_graphql_access)
