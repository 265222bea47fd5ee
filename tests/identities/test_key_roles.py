"""A key may what its owner may there and now, and never more than its own role: on the server, and in each workspace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gatehouse.policy.identity import Identity
from gatehouse.policy.reader import parse
from gatehouse.policy.roles import Role

POLICY = parse(
    b"""
default: none
roles:
  admin: ["user:alice@example.com"]
  viewer: ["user:carol@example.com"]
workspaces:
  fraud:
    default: none
    editor: ["user:bob@example.com"]
""",
    "development",
)


@pytest.mark.parametrize(
    ("person", "workspace", "key", "role"),
    [
        ("alice", "default", None, "admin"),
        ("alice", "default", "editor", "editor"),
        ("alice", "fraud", None, "admin"),
        ("alice", "fraud", "viewer", "viewer"),
        ("bob", "default", "admin", "none"),
        ("bob", "fraud", "admin", "editor"),
        ("bob", "fraud", "viewer", "viewer"),
        ("carol", "default", "admin", "viewer"),
        ("carol", "fraud", "admin", "none"),
    ],
)
def test_the_lower_of_two_roles_counts(person: str, workspace: str, key: str | None, role: str) -> None:
    identity = Identity(f"{person}@example.com", person)
    if key is not None:
        identity = replace(identity, key="k", key_role=int(Role[key.upper()]))
    assert str(POLICY.role_in(identity, workspace)) == role
    assert str(POLICY.reason_in(identity, workspace).role) == role
    if workspace == "default":
        assert str(POLICY.role_of(identity)) == role


def test_who_has_a_role_in_a_workspace_alone_can_make_a_key_for_it() -> None:
    assert POLICY.best_role_of(Identity("bob@example.com", "bob")) is Role.EDITOR
    assert POLICY.best_role_of(Identity("mallory@example.com", "mallory")) is Role.NONE
