"""Runs in a container: prints the id of the first process whose command line has the first argument in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    if sys.argv[1] in command and int(process.name) != os.getpid():
        print(process.name)
        break
