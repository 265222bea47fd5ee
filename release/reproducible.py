"""Whether two images hold the same bytes: ``python -m release.reproducible IMAGE IMAGE``.

Compares what a container of each would find: every path with its type, mode, owner, link target and content. Times are
left out: BuildKit sets them to SOURCE_DATE_EPOCH (`rewrite-timestamp=true`, as the release does), the classic builder
can't. Exit code 0: the same, but for what `EXPECTED` lists; 1: not, with each path that differs; 2: no such image.
"""

from __future__ import annotations

import fnmatch
import hashlib
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from typing import IO

#: Paths that may differ between two builds of one commit, each with its reason; docs/releasing.md lists the same.
EXPECTED: dict[str, str] = {}
SHOWN = 50
PIECE = 1 << 20  # bytes


class NoImageError(Exception):
    """An image can't be read, and what the engine says."""


@dataclass(frozen=True)
class Entry:
    """What is at a path: type (as tar has it), mode, owner, link target and SHA-256 of the content."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    link: str
    digest: str

    def differs_in(self, other: Entry) -> str:
        """Return the names of the fields that aren't the same."""
        return ", ".join(name for name in self.__dataclass_fields__ if getattr(self, name) != getattr(other, name))


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoImageError(done.stderr.strip())
    return done.stdout.strip()


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := content.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def entries(image: str) -> dict[str, Entry]:
    """Return what each path of an image holds.

    Raises:
        NoImageError: if the engine hasn't the image.
    """
    container = _docker("create", "--pull", "never", image, "true")
    try:
        found = {}
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                digest = _digest(content) if content else ""
                owner = (member.uid, member.gid)
                found["/" + member.name] = Entry(member.type, member.mode, owner, member.linkname, digest)
        return found
    finally:
        _docker("rm", container)


def differences(first: dict[str, Entry], second: dict[str, Entry]) -> dict[str, str]:
    """Return the paths that differ, each with what differs, those of `EXPECTED` left out."""
    found = {}
    for path in sorted(first.keys() | second.keys()):
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in EXPECTED):
            continue
        one, other = first.get(path), second.get(path)
        if one is None or other is None:
            found[path] = f"only in the {'second' if one is None else 'first'}"
        elif one != other:
            found[path] = one.differs_in(other)
    return found


def main(arguments: list[str]) -> int:
    """Compare two images; print what differs."""
    if len(arguments) != 2:
        print("usage: python -m release.reproducible IMAGE IMAGE", file=sys.stderr)
        return 2
    try:
        first, second = (entries(image) for image in arguments)
    except NoImageError as error:
        print(f"reproducible: error: {error}", file=sys.stderr)
        return 2
    found = differences(first, second)
    for path in list(found)[:SHOWN]:
        print(f"{path}: {found[path]}")
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more")
    print(f"{len(first)} and {len(second)} paths, {len(found)} differ", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
