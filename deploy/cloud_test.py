"""`make cloud-test PROJECT=…`: the whole way on a real project, for whoever has one. **It was never run where this was written.**

Makes an environment of its own (a namespace by chance), and takes it down again with its data, also after a failure:
apply with the smoke test, a second apply, rotate, backup, restore, status, destroy. It costs what a small database
costs for an hour. Every call is written down without any value of an answer, for the tests' emulator to be held
against: tests/deploy/recorded.py says what it does otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import time
from pathlib import Path

import yaml

from deploy.__main__ import main as deploy
from deploy.cloud.record import VARIABLE


def steps(file: Path, client: str, *, smoke: bool) -> list[tuple[str, ...]]:
    """Return the commands, in order."""
    quiet = () if smoke else ("--no-smoke",)
    given = str(file)
    return [
        ("plan", given),
        ("apply", given, "--yes", f"--oauth-client={client}", *quiet),
        ("apply", given, "--yes", *quiet),
        *((("smoke", given),) if smoke else ()),
        ("rotate", given, "cookie", *quiet),
        ("rotate", given, "database", *quiet),
        ("backup", given),
        ("restore", given, "--backup=latest", "--yes", *quiet),
    ]


def environment(project: str, region: str, domain: str, name: str, image: str) -> dict[str, object]:
    """Return the environment's file."""
    return {
        "project": project,
        "region": region,
        "namespace": name,
        "oauth": {"email_domains": [domain]},
        "image": image,
        "sql": {"backups": 1},
        "housekeeping": {},
        "monitoring": {"emails": [f"nobody@{domain}"], "audit_days": 1},
    }


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit code is that of the first command that failed, or of taking it down."""
    parser = argparse.ArgumentParser(prog="make cloud-test", description=__doc__)
    parser.add_argument("--project", required=True)
    parser.add_argument("--region", default="europe-west1")
    parser.add_argument("--domain", required=True, help="the e-mail domain of who runs it")
    parser.add_argument("--image", default="cloudbuild", help="as in an environment's file")
    parser.add_argument("--oauth-client", required=True, metavar="FILE", help="the OAuth client's JSON file")
    parser.add_argument("--record", default="cloud-test.jsonl", metavar="FILE", help="where the calls are written down")
    parser.add_argument("--no-smoke", action="store_true", help="leave the smoke tests out")
    given = parser.parse_args(argv)
    name = f"ct-{secrets.token_hex(3)}"
    file = Path(f"{name}.yaml").resolve()
    file.write_text(yaml.safe_dump(environment(given.project, given.region, given.domain, name, given.image)))
    os.environ[VARIABLE] = str(Path(given.record).resolve())
    code = 0
    try:
        for command in steps(file, given.oauth_client, smoke=not given.no_smoke):
            code = _run(command)
            if code:
                break
    finally:
        ended = _run(("destroy", str(file), "--data", f"--confirm={name}"))
        if ended:
            sys.stderr.write(f"NOT taken down: python -m deploy destroy {file} --data\n")
        else:
            with contextlib.suppress(OSError):
                file.unlink()
    return code or ended


def _run(command: tuple[str, ...]) -> int:
    began = time.monotonic()
    sys.stdout.write(f"▸ python -m deploy {' '.join(command)}\n")
    code = deploy(list(command))
    sys.stdout.write(f"{'✗' if code else '✓'} {command[0]}: exit code {code}, {time.monotonic() - began:.0f} s\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
