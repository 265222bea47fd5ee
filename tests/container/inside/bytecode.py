"""Runs in the image: counts modules with bytecode that is never checked against its source; lists the others.

Such bytecode has the flags 1 (PEP 552).
"""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from pathlib import Path

root = Path(sysconfig.get_paths()["purelib"])
good, bad = 0, []
for source in root.rglob("*.py"):
    if not source.stem.isidentifier():
        continue  # a template of code
    cached = Path(importlib.util.cache_from_source(str(source)))
    if cached.exists() and cached.read_bytes()[4:8] == bytes([1, 0, 0, 0]):
        good += 1
    else:
        bad.append(str(source.relative_to(root)))
print(json.dumps([good, bad]))
