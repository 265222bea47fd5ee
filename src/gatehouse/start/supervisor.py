"""``gatehouse start``: what start.sh becomes.

It checks all settings, starts the programs, watches each by name, and ends them in order.

MLflow first; once it is ready the proxy, the listener and the job runner. Whichever ends, ends all: first what clients
see, which finishes its requests while the others are still there, and MLflow after it. It is also the one writer of
stdout and stderr (:mod:`gatehouse.start.output`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gatehouse.audit import wire as audit_wire
from gatehouse.exit_codes import Exit
from gatehouse.start import jobs
from gatehouse.start.monitor import Monitor
from gatehouse.start.output import Desk, Drain, Output, Relay
from gatehouse.start.plan import Plan, Program
from gatehouse.start.prepare import exit_code, prepare
from gatehouse.start.settings import SettingsError

#: Seconds that MLflow gets after SHUTDOWN_TIMEOUT to finish what was cut off in front of it: a write that is committed
#: by then has its line.
LAST_WRITES_S = 1.0
#: Seconds that stdout gets to take the last lines.
LAST_LINES_S = 0.5
#: Seconds between two starts of the proxy whose provider doesn't answer: the first pause, and the longest.
AGAIN_S, AGAIN_MOST_S = 0.5, 5.0
#: What the proxy ends with if it can't start; a signal or a panic ends it otherwise.
CANNOT_START = 1
#: prctl(2): orphans become children of this process. Where a kernel has none, a worker's death shows by its channel
#: alone.
PR_SET_CHILD_SUBREAPER = 36

MLFLOW, PROXY, LISTENER, RUNNER = "MLflow", "OAuth2 Proxy", "the HTTP/2 listener", "the job runner"
MONITOR = "the monitor"
#: The order in which they end: each finishes its requests while those behind it still serve.
ORDER = (LISTENER, PROXY, MLFLOW, RUNNER, MONITOR)


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    with contextlib.suppress(OSError):
        print(f"start.sh: {message}", file=sys.stderr, flush=True)


def describe(status: int | None) -> str:
    """Return a wait status in words."""
    if status is None:
        return "nobody knows how"
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name.removeprefix('SIG')}" if code < 0 else f"exit code {code}"


class Stopped(Exception):
    """TERM or INT came while nothing was started yet."""


class Failed(Exception):
    """The start, or what it started, came to an end that it shouldn't have.

    Args:
        code: what this process exits with.
        message: None if it was said already.
    """

    def __init__(self, code: int, message: str | None = None, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


@dataclass
class Child:
    """One process, by the name of its part; of MLflow's there can be several."""

    part: str
    pid: int
    name: str


class Supervisor:
    """One loop over all that happens: what is printed, what is audited, who ends, and what the platform asks for.

    Args:
        plan: what to start.
        began: when this process began to look at its settings, on the monotonic clock.
    """

    def __init__(self, plan: Plan, began: float | None = None) -> None:
        self._plan = plan
        self._settings = plan.server.settings
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._groups: set[int] = set()
        self._ended: list[tuple[Child, int | None]] = []
        self._signals: list[int] = []
        self._said = b""
        self._ready = 0
        self.output = Output(1)
        self.errors = Output(2)
        self._desk = Desk(self.output, self.errors)
        self._drain = Drain()
        self._control: int | None = None
        self._ending = False
        #: Whether a worker's channel was closed, and nobody has ended yet.
        self._lost = False
        #: When STARTUP_TIMEOUT is over, by the monotonic clock; until then the proxy may start again.
        self._deadline = time.monotonic() + self._settings.startup_timeout
        self._pause = AGAIN_S
        #: When the proxy starts again; None if it runs, or never again.
        self._again: float | None = None
        self._monitor = Monitor(plan, began or time.monotonic()) if plan.monitor_environment is not None else None

    def run(self) -> int:
        """Start all, wait for the end, end all; return the exit code."""
        with self._waking():
            try:
                self._open_monitor()
                self._start_mlflow()
                self._await_readiness()
                if not self._signals:
                    self._start_the_others()
                while not self._signals and not self._ended:
                    self._turn()
            except Failed as failure:
                self._end()
                return self._tell(failure)
            if self._signals:
                return self._end()
            child, status = self._ended[0]
            self._end()
            return self._tell(self._failure(child, status))

    # --- Starting ------------------------------------------------------------------------------------------------

    def _spawn(self, part: str, program: Program, **arguments: Any) -> Child:
        """Start a program in a session of its own: Ctrl-C reaches this process alone, and a session is ended as one."""
        path = program.environment.get("PATH", "")
        executable = shutil.which(program.command[0], path=path) or program.command[0]
        seen = self._monitor.see_line if self._monitor and part == PROXY else None
        relays = [Relay(part, self.output, seen), Relay(part, self.errors, seen)]
        process = subprocess.Popen(
            program.command, executable=executable, env=dict(program.environment), stdin=subprocess.DEVNULL,
            stdout=relays[0].writing, stderr=relays[1].writing, start_new_session=True, **arguments,
        )  # fmt: skip
        # This loop waits for it; the object would only warn that nobody did.
        process.returncode = 0
        for relay in relays:
            os.close(relay.writing)
            self._drain.add(relay)
        self._groups.add(process.pid)
        return self._adopt(part, process.pid)

    def _adopt(self, part: str, pid: int, name: str = "") -> Child:
        self._children[pid] = Child(part, pid, name or part)
        return self._children[pid]

    def _start_mlflow(self) -> None:
        plan_read, plan_write = os.pipe()
        control_read, control_write = os.pipe()
        os.set_blocking(control_read, False)
        pairs = [audit_wire.pair() for _ in range(self._settings.workers)]
        # What stays open across exec keeps its number; 1 is the relay's there, so the log itself gets another.
        log = os.dup(1)
        passed = [plan_read, control_write, log, *(theirs.fileno() for _, theirs in pairs)]
        command = (
            sys.executable, "-m", "gatehouse", "serve", "--run-directory", str(self._plan.server.run_directory),
            "--descriptors", ",".join(map(str, passed)),
        )  # fmt: skip
        self._spawn(MLFLOW, Program(command, self._plan.server_environment), pass_fds=passed)
        for descriptor in (plan_read, control_write, log):
            os.close(descriptor)
        for ours, theirs in pairs:
            theirs.close()
            self._desk.register(self._selector, ours, self._lose)
        with contextlib.suppress(BrokenPipeError), open(plan_write, "wb") as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(self._plan.server.dump())
        self._control = control_read
        self._selector.register(control_read, selectors.EVENT_READ, self._hear)

    def _hear(self) -> None:
        """Take what MLflow says of its start: ``worker PID`` for each process that serves, and ``ready`` from each."""
        if self._control is None:
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._control, 4096)
            if not data:
                self._selector.unregister(self._control)
                os.close(self._control)
                self._control = None
            self._said += data
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            if line == b"ready":
                self._ready += 1
            else:
                pid = int(line.removeprefix(b"worker "))
                self._adopt(MLFLOW, pid, f"worker {pid} of MLflow")

    def _await_readiness(self) -> None:
        limit = self._settings.startup_timeout
        deadline = self._deadline
        while self._ready < self._settings.workers and not self._signals:
            if self._ended:
                status = self._ended[0][1]
                code = os.waitstatus_to_exitcode(status) if status is not None else 1
                # 64 to 78 are the server's own, and it has said why.
                if 64 <= code <= 78:
                    raise Failed(code)
                text = f"MLflow ended before it was ready ({describe(status)})"
                raise Failed(Exit.SERVER_ENDED, text, "see its log above")
            left = deadline - time.monotonic()
            if left <= 0:
                fix = "see its log above; raise STARTUP_TIMEOUT if it is only slow"
                raise Failed(Exit.NOT_READY, f"MLflow isn't ready after {limit} s", fix)
            self._turn(left)

    def _start_the_others(self) -> None:
        self._spawn(PROXY, self._plan.proxy)
        if self._plan.listener is not None:
            # It opens the public port once the proxy's socket is there.
            self._spawn(LISTENER, self._plan.listener)
        if self._plan.server.jobs:
            self._spawn(RUNNER, jobs.runner(self._plan.server, self._plan.server_environment))
        if self._monitor:
            self._monitor.opened()
            self._start_monitor()

    def _open_monitor(self) -> None:
        try:
            if self._monitor:
                self._monitor.open()
        except OSError as error:
            text = f"METRICS' port can't be listened on: {error.strerror}"
            raise Failed(Exit.CANNOT_CREATE, text, "set METRICS to another port") from None

    def _start_monitor(self) -> None:
        assert self._monitor is not None  # noqa: S101 - for mypy
        self._spawn(MONITOR, self._monitor.program(), pass_fds=self._monitor.descriptors())

    # --- The loop ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _waking(self) -> Iterator[None]:
        """Let signals wake the loop: TERM and INT are noted, CHLD makes it look who ended."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self._signals.append(number))
        signal.signal(signal.SIGCHLD, lambda *_: None)

        def empty() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 4096)

        self._selector.register(reading, selectors.EVENT_READ, empty)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)

    def _turn(self, limit: float | None = None) -> None:
        """Do what there is to do, after waiting for it at most so many seconds."""
        look = self._monitor.look(self.output.waiting) if self._monitor else None
        again = None if self._again is None else self._again - time.monotonic()
        candidates = (limit, self._desk.judge(), 0.1 if self._lost else None, look, again)
        waits = [seconds for seconds in candidates if seconds is not None]
        for key, _ in self._selector.select(max(0.0, min(waits)) if waits else None):
            key.data()
        self._reap()
        if self._monitor and self._monitor.is_due() and not self._ended and not self._signals:
            self._start_monitor()
        if self._again is not None and time.monotonic() >= self._again:
            self._again = None
            self._spawn(PROXY, self._plan.proxy)

    def _starts_again(self, child: Child, status: int | None) -> bool:
        """Return whether the proxy, which asks its provider before it listens, is started once more later.

        Whoever starts everything at once, after a power cut or in a cluster, starts the provider too.
        """
        left = self._deadline - time.monotonic()
        if child.part != PROXY or status is None or os.waitstatus_to_exitcode(status) != CANNOT_START or left <= 0:
            return False
        if self._ending:
            return False
        say(
            f"OAuth2 Proxy can't start (see its log above; is the identity provider reachable?): trying again, for "
            f"another {left:.0f} s (STARTUP_TIMEOUT)"
        )
        self._again = time.monotonic() + min(self._pause, left)
        self._pause = min(2 * self._pause, AGAIN_MOST_S)
        return True

    def _reap(self) -> None:
        """Note who has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            child = self._children.pop(pid, None)
            if child is None:
                continue  # an orphan of a child
            if child.part == MONITOR and self._monitor is not None:
                # Figures that are missing are no reason to end what they are about.
                self._groups.discard(pid)
                self._monitor.ended()
                if not self._ending:
                    say(f"error: {MONITOR} ended ({describe(status)}); it is started again")
                continue
            if child.name == MLFLOW and status == 0:
                self._hear()
                if any(other.part == MLFLOW for other in self._children.values()):
                    continue  # it has forked its workers, and leaves them to this process
            self._note(child, status)
        if self._lost:
            for child in [child for child in self._children.values() if child.part == MLFLOW]:
                try:
                    os.kill(child.pid, 0)
                except ProcessLookupError:
                    del self._children[child.pid]
                    self._note(child, None)

    def _note(self, child: Child, status: int | None) -> None:
        if self._starts_again(child, status):
            return
        self._ended.append((child, status))
        self._lost = False

    def _lose(self) -> None:
        """A worker's channel was closed: it is dead, and where orphans aren't this process's, nobody else tells."""
        self._lost = not self._ended

    # --- Ending --------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """End all that still runs, in order; return OK, or CUT_OFF if requests were still running at the limit."""
        code = Exit.OK
        self._ending = True
        self._again = None
        limit = self._settings.shutdown_timeout
        deadline = time.monotonic() + limit
        for part in ORDER:
            if part in {MLFLOW, RUNNER, MONITOR}:
                # However long those in front of it took: it has time for what it is doing.
                deadline = max(deadline, time.monotonic() + LAST_WRITES_S)
            if not self._end_part(part, deadline):
                code = Exit.CUT_OFF
        if code is Exit.CUT_OFF:
            say(f"requests were still running after {limit} s: cut off")
        for group in self._groups:
            _kill(os.killpg, group, signal.SIGKILL)
        self._flush()
        return code

    def _end_part(self, part: str, deadline: float) -> bool:
        """End a part's processes; return whether they ended by themselves before a time of the monotonic clock."""

        def running() -> list[Child]:
            return [child for child in self._children.values() if child.part == part]

        for child in running():
            _kill(os.kill, child.pid, signal.SIGTERM)
        while running() and (left := deadline - time.monotonic()) > 0:
            self._turn(left)
        late = running()
        for child in late:
            _kill(os.kill, child.pid, signal.SIGKILL)
        while running() and time.monotonic() < deadline + 1:
            self._turn(0.1)
        # Nobody's request is cut off with the figures.
        return not late or part == MONITOR

    def _flush(self) -> None:
        """Write what the children left behind; what nobody reads on stdout goes to stderr."""
        self._drain.now()
        self._desk.drain(self._selector)
        for line in self.output.finish(time.monotonic() + LAST_LINES_S):
            self._desk.keep(line, "nothing reads stdout, and all ends here")
        self.errors.finish(time.monotonic() + LAST_LINES_S)

    def _failure(self, child: Child, status: int | None) -> Failed:
        name = child.part
        if child.part == MLFLOW and child.name != MLFLOW:
            say(f"error: {child.name} ended ({describe(status)})")
        what = f"{name} ended ({describe(status)}); stopped the others"
        fix = "see the log above; the platform starts a fresh container"
        return Failed(Exit.PROXY_ENDED if child.part in {PROXY, LISTENER} else Exit.SERVER_ENDED, what, fix)

    def _tell(self, failure: Failed) -> int:
        if failure.message is not None:
            say(f"error: {failure.message}")
            with contextlib.suppress(OSError):
                print(f"    fix: {failure.fix}", file=sys.stderr, flush=True)
        return failure.code


def _kill(how: Callable[[int, int], None], target: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        how(target, number)


@contextlib.contextmanager
def run_directory() -> Iterator[Path]:
    """Make the private folder of this start; remove it at the end.

    Raises:
        Failed: if it can't be made.
    """
    parent = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - mkdtemp makes a folder of its own
    try:
        folder = Path(tempfile.mkdtemp(prefix="gatehouse.", dir=parent))
    except OSError:
        fix = "mount a small tmpfs there, or set TMPDIR to a folder that can be written to"
        raise Failed(Exit.CANNOT_CREATE, f"can't make a folder in {parent}", fix) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_streams() -> None:
    """Make sure that no pipe of this start's takes the place of stdout or stderr.

    Raises:
        Failed: if stdout is closed.
    """
    for descriptor in (0, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    try:
        os.fstat(1)
    except OSError:
        fix = "give it a pipe, a file or a terminal"
        raise Failed(Exit.SETTINGS, "stdout is closed, and the audit log goes there", fix) from None


def check_and_start(template: Path) -> int:
    """Check everything, and if nothing is wrong run until the end; return the exit code."""
    began = time.monotonic()
    try:
        check_streams()
        with run_directory() as folder:
            try:
                plan = prepare(os.environ, template, folder)
            except SettingsError as error:
                for problem in sorted(dict.fromkeys(error.problems), key=lambda problem: problem.name):
                    say(f"error: {problem}")
                return exit_code(error.problems)
            for note in plan.notes:
                say(f"note: {note}")
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            return Supervisor(plan, began).run()
    except Failed as failure:
        say(f"error: {failure.message}\n    fix: {failure.fix}")
        return failure.code
    except Stopped:
        return Exit.OK


def main(argv: list[str]) -> int:
    """Run the command; return an exit code."""
    parser = argparse.ArgumentParser(prog="gatehouse start", description=__doc__)
    parser.add_argument("--template", type=Path, required=True, help="oauth2_proxy.cfg.tmpl")
    arguments = parser.parse_args(argv)

    def stop(_number: int, _frame: object) -> NoReturn:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return check_and_start(arguments.template)
