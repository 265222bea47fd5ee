"""Running a plan: steps side by side where they don't wait for each other, with a live view of what takes how long.

A failure stops what has not begun; what runs is waited for, so that nothing is left half-known. The next run continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from deploy.cloud.errors import CloudError
from deploy.cloud.gcloud import Gcloud
from deploy.cloud.google import Google
from deploy.plan import Plan, Step
from deploy.resources import schema_job, watch
from deploy.resources.secrets import Vault
from deploy.smoke import SmokeError

PARALLEL = 6
MARKS = {
    "waiting": ("·", "dim"),
    "running": ("…", "yellow"),
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "left": ("-", "dim"),
}


@dataclass
class Outcome:
    """How it went: the keys of the steps that are done, and what failed with its error."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every step is done."""
        return not self.failed


class View:
    """The steps with their state and time: redrawn in a terminal, a line for each event elsewhere."""

    def __init__(self, console: Console, steps: list[Step]) -> None:
        self.console, self.steps = console, steps
        self.state = dict.fromkeys((step.key for step in steps), "waiting")
        self.since: dict[str, float] = {}
        self.took: dict[str, float] = {}

    def __rich__(self) -> Group:
        lines = []
        for step in self.steps:
            state = self.state[step.key]
            mark, style = MARKS[state]
            seconds = self.took.get(step.key) or (
                time.monotonic() - self.since[step.key] if step.key in self.since else None
            )
            lines.append(
                Text(
                    f" {mark} {step.title}" + (f"  {seconds:.0f} s" if seconds is not None else ""),
                    style=style,
                )
            )
        return Group(*lines)

    def set(self, step: Step, state: str) -> None:
        """Note a step's new state."""
        self.state[step.key] = state
        if state == "running":
            self.since[step.key] = time.monotonic()
        elif state in {"done", "failed"}:
            self.took[step.key] = time.monotonic() - self.since[step.key]
        if not self.console.is_terminal and state != "left":
            took = f" ({self.took[step.key]:.1f} s)" if step.key in self.took else ""
            self.console.print(Text(f"{MARKS[state][0]} {step.title}{took}"), soft_wrap=True)


@dataclass
class Executor:
    """What steps are done with. `smoke` tests a URL and raises SmokeError."""

    gcloud: Gcloud
    google: Google
    vault: Vault
    smoke: Callable[[str], None]

    def act(self, plan: Plan, step: Step) -> None:
        """Do one step. Raises CloudError, SmokeError, JobError."""
        if step.url:
            self.smoke(step.url)
        elif step.key == "migrate":
            schema_job.run(plan.config, self.gcloud, self.google, step.argv)
        elif step.input and step.input.kind == "document":
            names = watch.channel_names(plan.config, self.google) if watch.CHANNELS in step.input.key else []
            self.gcloud.write(step.argv, watch.resolve(step.input.key, names))
        else:
            self.gcloud.write(step.argv, self.vault.input(step.input) if step.input else None)


def run(plan: Plan, executor: Executor, console: Console, parallel: int = PARALLEL) -> Outcome:
    """Run every step of the plan."""
    outcome, view = Outcome(), View(console, plan.steps)
    waiting = list(plan.steps)

    def go() -> None:
        running: dict[Future[None], Step] = {}
        with ThreadPoolExecutor(parallel) as pool:
            while waiting or running:
                for step in list(waiting):
                    if not outcome.failed and set(step.needs) <= set(outcome.done) and len(running) < parallel:
                        waiting.remove(step)
                        view.set(step, "running")
                        running[pool.submit(executor.act, plan, step)] = step
                if not running and not outcome.failed:
                    raise AssertionError(f"these steps wait for none that there is: {[step.key for step in waiting]}")
                if not running:
                    break
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    step = running.pop(future)
                    error = future.exception()
                    if error is None:
                        outcome.done.append(step.key)
                        view.set(step, "done")
                    elif isinstance(error, (CloudError, SmokeError, RuntimeError)):
                        outcome.failed[step.key] = error
                        view.set(step, "failed")
                    else:
                        raise error
        for step in waiting:
            view.set(step, "left")

    if console.is_terminal:
        with Live(view, console=console, refresh_per_second=4):
            go()
    else:
        go()
    return outcome
