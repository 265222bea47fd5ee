"""Known vulnerabilities in what is shipped: ``python -m release.audit``.

Each part is asked of the database of its own makers.

Python's packages by pip-audit (PyPI's advisories), Go's modules and its standard library by govulncheck (Go's
database), Debian's packages in the image by debsecan (Debian's security tracker). Where a database can't be reached,
that part says so.

Exit code: 0 nothing known, 1 something found, 75 a part couldn't be asked and the others found nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from local.go_program import ROOT, NoProgramError
from local.proxy_binary import find_or_build
from release.tools import say, tool

FOUND, UNKNOWN = 1, 75
LIMIT_S = 300
#: Of the image's Debian.
SUITE = "trixie"
#: What is installed in the image: its lock files.
LOCKS = ("server", "all-stores")


@dataclass(frozen=True)
class Answer:
    """What one database knows: the tool's own report, or None in ``clean`` for one that couldn't be asked."""

    part: str
    clean: bool | None
    text: str


def _ask(part: str, command: list[str], clean: Callable[[subprocess.CompletedProcess[str]], bool | None]) -> Answer:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(part, None, str(error))
    verdict = clean(done)
    text = done.stdout if verdict is not None else f"{done.stdout}{done.stderr}"
    return Answer(part, verdict, text.strip())


def python_packages(lock: str | Path) -> Answer:
    """Ask PyPI's advisories of a lock file, by its name or path."""
    file = lock if isinstance(lock, Path) else ROOT / "requirements" / f"{lock}.txt"
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner=off"]
    command += ["--format", "json", "--requirement", str(file)]
    part = f"Python, {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}"
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(part, None, str(error))
    return python_answer(part, done.stdout, done.stderr)


def python_answer(part: str, report: str, errors: str = "") -> Answer:
    """Read pip-audit's report. A package that it skipped is one that nobody was asked about:

    pip-audit exits 0 then too.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Answer(part, None, errors.strip() or "pip-audit printed no report")
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no release'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    skipped = [package for package in packages if "skip_reason" in package]
    if found:
        return Answer(part, False, "\n".join(found))
    if skipped or not packages:
        first = skipped[0]["skip_reason"] if skipped else "the lock file is empty"
        return Answer(part, None, f"{len(skipped)} of {len(packages)} packages weren't looked at: {first}")
    return Answer(part, True, "")


def go_modules(database: str | None = None) -> Answer:
    """Ask Go's database of oauth2-proxy at its pin; ``database`` is another one's address (file:// or https://)."""
    part = "Go, oauth2-proxy"
    try:
        binary, program = find_or_build(say), tool("govulncheck")
    except NoProgramError as error:
        return Answer(part, None, str(error))
    command = [str(program), "-mode=binary", "-scan=module", *([f"-db={database}"] if database else []), str(binary)]
    # govulncheck(1): 3 when vulnerabilities were found, 1 for any error.
    return _ask(part, command, lambda done: {0: True, 3: False}.get(done.returncode))


def debian_packages(image: str) -> Answer:
    """Ask Debian's tracker of the packages in the image: those with a fix that isn't in it."""
    part = f"Debian, {image}"
    if not shutil.which("debsecan"):
        return Answer(part, None, "debsecan is missing\n    fix: apt-get install debsecan")
    read = ["docker", "run", "--rm", "--entrypoint", "cat", image, "/var/lib/dpkg/status"]
    try:
        status = subprocess.run(read, capture_output=True, timeout=LIMIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Answer(part, None, f"can't read the image's packages: {error}\n    fix: make image")
    with tempfile.NamedTemporaryFile(prefix="status.") as file:
        file.write(status)
        file.flush()
        command = ["debsecan", "--suite", SUITE, "--only-fixed", "--format", "summary", "--status", file.name]
        return _ask(part, command, lambda done: not done.stdout.strip() if done.returncode == 0 else None)


def report(answers: list[Answer]) -> int:
    """Print each answer; return the exit code."""
    for answer in answers:
        verdict = {True: "nothing known", False: "FOUND", None: "can't be told"}[answer.clean]
        print(f"{answer.part}: {verdict}")
        if answer.clean is not True:
            last = answer.text.splitlines()[-1:] if answer.clean is None else answer.text.splitlines()
            for line in last:
                print(f"    {line}")
    if any(answer.clean is False for answer in answers):
        return FOUND
    return UNKNOWN if any(answer.clean is None for answer in answers) else 0


def main() -> int:
    """Ask all of them."""
    image = os.environ.get("IMAGE", "gatehouse:dev")
    return report([*map(python_packages, LOCKS), go_modules(), debian_packages(image)])


if __name__ == "__main__":
    sys.exit(main())
