"""A SELECT and its parameters, put together piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Declined(Exception):
    """This request isn't for the short way: MLflow answers it, also if that means to refuse it."""


@dataclass
class Parameters:
    """Parameters of a statement, by position."""

    types: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)

    def add(self, value: object, kind: str) -> str:
        """Add one; return its placeholder."""
        self.types.append(kind)
        self.values.append(value)
        return f"${len(self.types)}"


@dataclass(frozen=True)
class Query:
    """A statement whose rows make an answer.

    Args:
        finish: makes the parts of the answer's body from the rows.
    """

    statement: str
    types: str
    values: Sequence[object]
    finish: Callable[[list[tuple[str | None, ...]]], list[bytes]]


def visible(experiment: str) -> str:  # noqa: ARG001
    """Return the condition under which the caller sees an experiment and all that belongs to it.

    ``experiment`` is its id in SQL.

    The one place for it: every statement here that reads of an experiment or a run asks it. Today whoever may read sees
    all; MLflow's workspaces, and permissions by experiment, switch the short way off (``layer.Reads``) until their
    condition stands here.
    """
    return "TRUE"
