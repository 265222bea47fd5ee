"""Runs in the image: lists, as JSON, files of builders, downloaders, caches, and those with wrong rights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = re.compile(
    r"(gcc|g\+\+|cc|c\+\+|clang|cpp|ld|as|make|cmake|go|gofmt|rustc|cargo|pip3?|uv|git|curl|wget)(-[0-9.]+)?"
)
PACKAGES = {"pip", "setuptools", "wheel", "ensurepip", "tests"}
CACHES = ("/var/lib/apt/lists", "/var/cache/apt", "/root/")
SHELL_FILES = {".bashrc", ".profile"}


def unwanted(folder: str, folders: list[str], files: list[str]) -> Iterator[str]:
    for name in files:
        path = Path(folder, name)
        if path.parent.name in {"bin", "sbin"} and PROGRAMS.fullmatch(name):
            yield str(path)
        # One wheel is there to be handed out (test_image.py says which).
        if name.endswith((".deb", ".whl", ".map", ".a")) and folder != "/app/dist":
            yield str(path)
        if folder.startswith(CACHES) and name not in SHELL_FILES:
            yield str(path)
        if path.is_file() and not path.is_symlink():
            mode = path.stat().st_mode
            if mode & 0o6000:
                yield f"{path} gives rights away"
            if mode & 0o002:
                yield f"{path} can be changed by anybody"
    for name in folders:
        if (name in PACKAGES and folder.endswith("-packages")) or name in {".cache", ".git", "__pip__"}:
            yield str(Path(folder, name))


found: list[str] = []
for folder, folders, files in os.walk("/"):
    if folder in {"/proc", "/sys", "/dev"}:
        folders.clear()
    else:
        found += unwanted(folder, folders, files)
print(json.dumps(found))
