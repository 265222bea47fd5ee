"""Typed state and the difference between two of them: change or refuse, and nothing in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

Argv = tuple[str, ...]
Verb = Literal["create", "change", "run"]
#: (value to be, value that is) → the flags of gcloud's update command that lead there.
Flags = Callable[[Any, Any], Argv]


class Environment(Protocol):
    """What a builder of commands needs of an environment."""

    @property
    def project(self) -> str: ...

    @property
    def labels(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Change:
    """A setting that an update sets right."""

    what: str
    before: str
    after: str
    flags: Argv = ()

    def __str__(self) -> str:
        return f"{self.what}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Refusal:
    """A setting that can't be, or isn't, changed: why, and the way out."""

    resource: str
    what: str
    before: str
    after: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.resource}: {self.what} is {self.before}, and {self.after} is wanted: {self.way_out}"


@dataclass(frozen=True)
class Difference:
    """All that differs between what a resource is and what it is to be."""

    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def flags(self) -> Argv:
        """The flags of every change, each once."""
        return tuple(dict.fromkeys(flag for change in self.changes for flag in change.flags))

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each change."""
        return tuple(str(change) for change in self.changes)


def setting(
    flags: Flags | None = None,
    *,
    refuse: str = "",
    name: str = "",
    same: Callable[[Any, Any], bool] | None = None,
) -> Any:
    """Return a field of a resource's state.

    Args:
        flags: what changes it.
        refuse: why it isn't changed, and the way out. One of the two must be given.
        name: what people call it, when that is not the field's name.
        same: whether two values (to be, is) are as good as each other, when that is more than equality.
    """
    if (flags is None) != bool(refuse):
        raise TypeError("a setting is either changed or refused")
    return field(metadata={"flags": flags, "refuse": refuse, "name": name, "same": same})


def compare(resource: str, wanted: Any, found: Any, refuse: Mapping[str, str] = MappingProxyType({})) -> Difference:
    """Return how `found` differs from `wanted`, two states of one type: every field, each way.

    `refuse` has fields that can't be changed from what is there, though others of their kind can: field → way out.
    """
    changes: list[Change] = []
    refusals: list[Refusal] = []
    for part in dataclasses.fields(wanted):
        after, before, rule = getattr(wanted, part.name), getattr(found, part.name), part.metadata
        if rule["same"](after, before) if rule["same"] else after == before:
            continue
        name = rule["name"] or part.name.replace("_", " ")
        if way_out := refuse.get(part.name) or rule["refuse"]:
            refusals.append(Refusal(resource, name, told(before), told(after), way_out))
        elif isinstance(after, Mapping):
            flags = rule["flags"](after, before)
            for key in sorted({*after, *before}):
                if after.get(key) != before.get(key):
                    what = f"{name}/{key}"
                    changes.append(Change(what, told(before.get(key)), told(after.get(key)), flags))
        else:
            changes.append(Change(name, told(before), told(after), rule["flags"](after, before)))
    return Difference(tuple(changes), tuple(refusals))


def told(value: Any) -> str:
    """Return a value as people read it."""
    if value is None or value == "" or value == ():
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ", ".join(str(item) for item in value)
    return str(value)


# Flags
# ---------------------------------------------------------------------------------------------------------------------------


def flag(name: str) -> Flags:
    """Return the rule of `--name=value`."""
    return lambda after, before: (f"--{name}={after}",)


def switch(on: str, off: str) -> Flags:
    """Return the rule of a pair of flags without value; an empty one gives none."""
    return lambda after, before: tuple(filter(None, [on if after else off]))


def optional(name: str, clear: str) -> Flags:
    """Return the rule of `--name=value`, or `clear` where nothing is wanted."""
    return lambda after, before: (f"--{name}={after}",) if after else (clear,)


def pairs(update: str, remove: str) -> Flags:
    """Return the rule of KEY=VALUE,… that are added or changed, and of keys that go."""

    def flags(after: Mapping[str, str], before: Mapping[str, str]) -> Argv:
        new = {key: value for key, value in after.items() if before.get(key) != value}
        gone = sorted(set(before) - set(after))
        return (
            *((f"--{update}={joined(new)}",) if new else ()),
            *((f"--{remove}={','.join(gone)}",) if gone else ()),
        )

    return flags


#: Labels, as most of gcloud's commands take them.
LABELS = pairs("update-labels", "remove-labels")


def joined(values: Mapping[str, str]) -> str:
    """Join KEY=VALUE with commas, sorted by key."""
    return ",".join(f"{key}={value}" for key, value in sorted(values.items()))


def own_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Return the labels that people set: not those that Google's own services add."""
    found = labels or {}
    return {
        k: v for k, v in found.items() if "/" not in k and "." not in k and not k.startswith(("goog-", "managed-by"))
    }


def p(config: Environment) -> str:
    """Return the flag that names the project: without it a command would reach gcloud's default one."""
    return f"--project={config.project}"


def same_resource(after: str, before: str) -> bool:
    """Return whether two full names mean one resource: APIs give URLs, and some a project's number for its id."""
    tail = [name.split("/projects/")[-1].removeprefix("projects/").split("/", 1)[-1] for name in (after, before)]
    return bool(after) == bool(before) and tail[0] == tail[1]


# IAM
# -----------------------------------------------------------------------------------------------------------------------------


def holds(policy: Mapping[str, Any], role: str, member: str, condition: str = "") -> bool:
    """Return whether an IAM policy has this binding, with exactly this condition."""
    return any(
        b["role"] == role and member in b["members"] and b.get("condition", {}).get("expression", "") == condition
        for b in policy.get("bindings", [])
    )


def is_open(policy: Mapping[str, Any]) -> list[str]:
    """Return the roles that a policy gives to everybody, a line each."""
    return [
        f"{member} has {binding['role']}"
        for binding in policy.get("bindings", [])
        for member in binding["members"]
        if member in {"allUsers", "allAuthenticatedUsers"}
    ]
