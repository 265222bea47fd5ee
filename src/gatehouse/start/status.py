"""What matters now, gathered for ``/gatehouse/status`` and ``gatehouse status``: one form for both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatehouse import __version__
from gatehouse.monitoring import state

if TYPE_CHECKING:
    from pathlib import Path

    from gatehouse.policy.source import PolicySource
    from gatehouse.start.settings import Settings

#: Seconds for which a status is good: however many ask, the database and the store are asked once.
GOOD_FOR_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is well, and in words what it is, or what is wrong and the fix."""

    part: str
    ok: bool
    text: str


def versions() -> dict[str, str]:
    """Return the versions of what runs."""
    from mlflow.version import VERSION

    return {"gatehouse": __version__, "mlflow": VERSION, "python": ".".join(map(str, sys.version_info[:3]))}


def look_at_schema(uri: str) -> Finding:
    """Compare the database's schema with the installed MLflow's."""
    from gatehouse.database import reach, schema

    try:
        engine = schema.make_engine(uri)
        with reach.told(engine), engine.connect() as connection:
            found = schema.inspect(connection)
            schema.refuse(found)
    except reach.SchemaError as error:
        return Finding("database", False, str(error))
    except Exception as error:  # one part that fails in a way of its own hides no other
        return Finding("database", False, f"fails: {type(error).__name__}")
    return Finding("database", True, f"{engine.dialect.name}, schema {found.wanted}")


def look_at_store(destination: str | None, direct: bool) -> Finding:
    """Look whether the server may do in the artifact store what it must."""
    from gatehouse.artifacts import stores
    from gatehouse.artifacts.stores.base import StoreError

    if not destination:
        return Finding("artifacts", True, "clients write to the bucket themselves")
    try:
        store = stores.shared(destination)
        store.check()
        if direct:
            store.check_signing()
    except StoreError as error:
        return Finding("artifacts", False, f"{destination}: {error}")
    except Exception as error:  # whatever the store's library raises
        return Finding("artifacts", False, f"{destination} fails: {type(error).__name__}: {error}")
    return Finding("artifacts", True, f"{destination} can be written, read, listed and deleted in")


def look_at_policy(policy: PolicySource, path: Path | None) -> Finding:
    """Tell which policy is in force."""
    if path is None:
        return Finding("policy", True, "none: everybody who may come in is an editor (ACCESS_POLICY)")
    if policy.problem:
        return Finding("policy", False, f"the changed file can't be used, the old one is in force: {policy.problem}")
    age = policy.age or 0.0
    if age >= policy.OVERDUE:
        return Finding("policy", False, f"{path} was last read {age:.0f} s ago\n    fix: is its mount reachable?")
    return Finding("policy", True, f"{path}, looked at {age:.0f} s ago")


def compose(findings: Iterable[Finding], figures: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the whole status.

    Args:
        findings: what was looked at.
        figures: returns the last hour's; may raise NoFigures.
    """
    looked = list(findings)
    try:
        found: dict[str, Any] | None = figures()
        hint = None
    except state.NoFigures as error:
        found, hint = None, str(error)
    return {
        "versions": versions(),
        "findings": [{"part": each.part, "ok": each.ok, "text": each.text} for each in looked],
        "figures": found,
        **({"no_figures": hint} if hint else {}),
    }


class Gatherer:
    """Gathers the status of a worker's own gate; calls may come from any thread, and block.

    Args:
        settings: of the start.
        run_directory: its folder.
        policy: the one in force.
        monitoring: whether there are figures.
    """

    def __init__(self, settings: Settings, run_directory: Path, policy: PolicySource, monitoring: bool) -> None:
        self._settings = settings
        self._run_directory = run_directory
        self._policy = policy
        self._monitoring = monitoring
        self._lock = threading.Lock()
        self._kept: tuple[float, dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any]:
        """Return the status; one that was just gathered serves those that ask meanwhile."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > GOOD_FOR_S:
                self._kept = time.monotonic(), self._gather()
            return self._kept[1]

    def _gather(self) -> dict[str, Any]:
        settings = self._settings
        findings = [
            look_at_schema(settings.backend_store_uri),
            look_at_store(settings.artifacts_destination, settings.direct_transfers),
            look_at_policy(self._policy, settings.access_policy),
        ]
        return compose(findings, self._figures)

    def _figures(self) -> dict[str, Any]:
        if not self._monitoring:
            raise state.NoFigures("requests and pools aren't measured; set METRICS, for example METRICS=127.0.0.1:9090")
        return state.ask(self._run_directory)


def rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a status as names and texts, problems first."""
    told = [("version of " + name, value) for name, value in status["versions"].items()]
    findings = sorted(status["findings"], key=lambda each: each["ok"])
    told = [(("" if each["ok"] else "ERROR ") + each["part"], each["text"]) for each in findings] + told
    figures = status["figures"]
    if figures is None:
        return [*told, ("figures", status["no_figures"])]
    gauges = figures["gauges"]

    def total(name: str, **labels: str) -> float:
        return float(sum(each["value"] for each in gauges.get(name, ()) if labels.items() <= each.items()))

    told.append(("up", f"{figures['up_s']} s"))
    told += [
        (each["process"], f"{each['value'] / 2**20:.0f} MiB of its own")
        for each in gauges.get("gatehouse_process_memory_bytes", ())
    ]
    told += [
        (f"start: {each['phase']}", f"{each['value']:.2f} s")
        for each in gauges.get("gatehouse_start_phase_seconds", ())
    ]
    for name, what in (("handlers", "gatehouse_handlers"), ("connections", "gatehouse_database_connections")):
        for pool in sorted({each["pool"] for each in gauges.get(what + "_limit", ())}):
            used = total(what + "_running", pool=pool) if name == "handlers" else total(what, pool=pool, state="in_use")
            text = f"{used:.0f} of {total(what + '_limit', pool=pool):.0f} in use"
            if name == "handlers":
                text += f", {total(what + '_waiting', pool=pool):.0f} wait"
            told.append((f"{name}: {pool}", text))
    told.append(("requests, last hour", _counts(figures["requests"])))
    told.append(("refusals, last hour", _counts(figures["refusals"])))
    told += [
        (
            f"slow: {each['operation']}",
            f"p95 {each['p95_s']:g} s, mean {each['mean_s']:g} s, longest {each['longest_s']:g} s, {each['count']} "
            "requests",
        )
        for each in figures["slowest"]
    ]
    return told


def _counts(counts: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:.0f}" for name, count in sorted(counts.items())) or "none"
