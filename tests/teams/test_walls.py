"""Every operation of the installed MLflow has a verdict for a server with workspaces, and one without is refused."""

from __future__ import annotations

from gatehouse.operations import table
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.operations.workspaces import REACHES, Reach, reach
from tests.access.test_routes import REGISTERED


def test_every_operation_has_a_verdict_and_nothing_else_has() -> None:
    operations = {operation for _, _, operation in REGISTERED} - {table.GRAPHQL}
    closed = {name for name, access in table.OPERATIONS.items() if access is Access.CLOSED}
    assert sorted(operations - closed - set(REACHES)) == [], (
        "give these a verdict in gatehouse/operations/workspaces.py"
    )
    assert sorted(set(REACHES) - operations) == [], "MLflow has these no more"


def test_what_nobody_has_looked_at_is_refused() -> None:
    assert reach(Route("brand_new_operation", Access.READ, {})) is None
    assert reach(Route("graphql query.brandNewField", Access.ADMIN, {})) is None
    assert reach(Route("graphql query.mlflowGetRun", Access.READ, {})) is Reach.WITHIN
