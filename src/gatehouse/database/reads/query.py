"""A SELECT and its parameters, put together piece by piece."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
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
    #: Whether the rows can be the answer where workspaces are on: of another one's run there are none, and MLflow shall
    #: say that it isn't there, or that its own has nothing.
    suffices: Callable[[list[tuple[str | None, ...]]], bool] = lambda _rows: True

    def within(self, workspace: str | None) -> Query:
        """Return the query for a request to a workspace; None where workspaces are off.

        Raises:
            Unconditional: if the statement reads without asking :func:`visible`.
        """
        statement = _conditional(self.statement, None if workspace is None else len(self.values) + 1)
        if workspace is None:
            return replace(self, statement=statement)

        def finish(rows: list[tuple[str | None, ...]]) -> list[bytes]:
            if not self.suffices(rows):
                raise Declined
            return self.finish(rows)

        return Query(statement, f"{self.types}, varchar", [*self.values, workspace], finish)


class Unconditional(RuntimeError):
    """A statement that reads of experiments or runs without the condition for them: a mistake of this package's."""


_CONDITION = re.compile("\x01(experiment|runs) ([^\x02]+)\x02")


def visible(experiment: str) -> str:
    """Return the condition under which the caller sees an experiment and all that belongs to it.

    ``experiment`` is its id in SQL.

    With :func:`visible_runs` the one place for it: every statement here asks one of them, and one that doesn't isn't
    sent (:meth:`Query.within`). Without workspaces whoever may read sees all.
    """
    return f"\x01experiment {experiment}\x02"


def visible_runs(runs: str) -> str:
    """Return the condition under which the caller sees all of some runs; ``runs`` is the array of their ids in SQL."""
    return f"\x01runs {runs}\x02"


@lru_cache(maxsize=1024)
def _conditional(statement: str, position: int | None) -> str:
    """Return a statement with its conditions, for the workspace that the parameter at a position names."""

    def condition(found: re.Match[str]) -> str:
        kind, what = found.groups()
        if position is None:
            return "TRUE"
        if kind == "experiment":
            return f"{what} IN (SELECT experiment_id FROM experiments WHERE workspace = ${position})"
        seen = f"runs JOIN experiments USING (experiment_id) WHERE run_uuid = one AND workspace = ${position}"
        return f"(SELECT bool_and(EXISTS (SELECT FROM {seen})) FROM unnest({what}) one)"

    filled, number = _CONDITION.subn(condition, statement)
    if not number:
        raise Unconditional(statement)
    return filled
