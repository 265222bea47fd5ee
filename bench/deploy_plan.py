"""`python -m bench.deploy_plan`: how long `python -m deploy plan` takes when there is nothing to do.

A deployment on the emulated Google Cloud of the tests, looked at by the real gcloud of this machine, started anew each
time as for anybody. Prints the wall time and the processor time of the tool with its children, in seconds, and how many
gclouds ran.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.deploy.conftest import new_cloud, tool_for

ROUNDS = 5


def main() -> int:
    """Measure and print."""
    program = shutil.which("gcloud")
    if program is None:
        print("bench: error: there is no gcloud on PATH; install the Google Cloud CLI", file=sys.stderr)
        return 69
    folder = Path(tempfile.mkdtemp(prefix="deploy-plan"))
    counted, calls = folder / "bin", folder / "calls"
    counted.mkdir()
    (counted / "gcloud").write_text(f'#!/bin/sh\necho "$1 $2" >> {calls}\nexec {program} "$@"\n')
    (counted / "gcloud").chmod(0o755)
    try:
        with new_cloud(folder / "cloud") as cloud:
            tool = tool_for(cloud, folder / "home", counted)
            tool.apply()
            for _ in range(ROUNDS):
                calls.write_text("")
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
                command = [sys.executable, "-m", "deploy", "plan", str(tool.file)]
                done = subprocess.run(command, env=tool.environment(), cwd=os.getcwd(), capture_output=True, text=True)  # noqa: PTH109
                wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
                if "Nothing to do" not in done.stdout:
                    print(done.stdout + done.stderr, file=sys.stderr)
                    return 1
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                print(f"wall {wall:.2f} s, processor {used:.2f} s, gclouds {len(calls.read_text().splitlines())}")
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
