"""Whether workspaces are on: the access policy says so, or MLflow's own switch where the policy says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.start.settings import Problem
from gatehouse.upstream.workspaces import SWITCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatehouse.policy.roles import Policy


def switched_on(policy: Policy | None, environment: Mapping[str, str]) -> tuple[bool, list[Problem]]:
    """Return whether workspaces are on, and what is wrong if the policy and MLflow's switch contradict each other."""
    declared = policy is not None and policy.has_workspaces
    switch = environment.get(SWITCH, "").lower()
    if declared and switch not in {"", "true", "1"}:
        what = f"is {environment[SWITCH]!r}, and the access policy has `workspaces:`, which switches them on"
        return True, [Problem(SWITCH, what, "leave it unset, or take `workspaces:` out of the policy")]
    return declared or switch in {"true", "1"}, []
