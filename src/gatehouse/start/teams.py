"""Whether workspaces are on: the access policy says so, or MLflow's own switch where the policy says nothing.

And what a policy that changes while the server runs declares.
"""

from __future__ import annotations

import sys
import threading
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


def make_declared(uri: str, policy: Policy) -> None:
    """Make the workspaces that a changed policy declares, as a start would, in a thread of its own that may wait.

    What can't be made is told on stderr; the policy is in force all the same, and the access page shows what is
    missing.

    Args:
        uri: of the database.
        policy: the one that is in force from now on.
    """
    threading.Thread(target=_make, args=(uri, policy), name="workspaces", daemon=True).start()


def _make(uri: str, policy: Policy) -> None:
    from gatehouse.database import workspaces

    try:
        for name in workspaces.make(uri, policy.workspaces):
            _say(f"made the workspace {name}, which the changed access policy declares")
    except Exception as error:  # whatever the database's driver raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _say(
            f"error: the changed access policy declares workspaces that can't be looked for or made: {reason}\n"
            "    fix: mend the database's answer, then `gatehouse workspaces apply`; until then they answer 404"
        )


def _say(message: str) -> None:
    print(f"gatehouse: {message}", file=sys.stderr, flush=True)
