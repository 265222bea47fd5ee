"""A real object store with Cloud Storage's API: fake-gcs-server, built from the source that servers/go.mod pins."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import requests

from local.proxy_binary import ROOT
from tests.support import free_port, missing, wait_for

MODULE = "github.com/fsouza/fake-gcs-server"
HERE = Path(__file__).parent / "servers"


@cache
def binary() -> Path:
    """Return the program, built once for each version."""
    match = re.search(rf"{re.escape(MODULE)} (v[0-9.]+)", (HERE / "go.mod").read_text())
    assert match
    built = ROOT / ".build" / f"fake-gcs-server-{match[1]}" / "fake-gcs-server"
    if not built.exists():
        if not shutil.which("go"):
            missing("Go", "install Go 1.26 or newer")
        built.parent.mkdir(parents=True, exist_ok=True)
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(built), MODULE]
        subprocess.run(command, cwd=HERE, check=True, timeout=900)
    return built


@contextlib.contextmanager
def google_server(external_url: str = "") -> Iterator[str]:
    """Run the server on a free port; yield its URL. ``external_url`` is where it tells clients to go on with an upload."""
    folder = Path(tempfile.mkdtemp(prefix="gcs"))
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(binary()),
                "-scheme=http",
                "-host=127.0.0.1",
                f"-port={url.rpartition(':')[2]}",
                f"-external-url={external_url or url}",
                "-backend=filesystem",
                f"-filesystem-root={folder / 'objects'}",
                "-log-level=warn",
            ],
            stdout=log,
            stderr=log,
        )
    try:

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{url}/storage/v1/b", timeout=2).ok
            return False

        wait_for(ready, "fake-gcs-server", logs=(folder / "log").read_text)
        yield url
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
