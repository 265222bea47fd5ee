"""Which image the sources here make: a tag that follows from their content, so the same sources are built once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from deploy.commands import ROOT
from deploy.config import Config

#: What the Dockerfile can see that matters: everything else is in .dockerignore and deploy/gcloudignore.
INPUTS = (
    "Dockerfile",
    ".dockerignore",
    "start.sh",
    "oauth2_proxy.cfg.tmpl",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements/server.txt",
    "proxy",
    "listener",
    "src",
    "client",
)


def content_tag(root: Path = ROOT) -> str:
    """Return `src-` and 16 hexadecimal digits over names, modes and contents of the image's sources."""
    digest = hashlib.sha256()
    for name in INPUTS:
        top = root / name
        files = sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else [top] if top.is_file() else []
        for file in files:
            if "__pycache__" in file.parts or any(part.endswith(".egg-info") for part in file.parts):
                continue
            mode = "x" if file.stat().st_mode & 0o100 else "-"
            digest.update(f"{file.relative_to(root)} {mode} {file.stat().st_size}\n".encode() + file.read_bytes())
    return f"src-{digest.hexdigest()[:16]}"


def wanted(config: Config, root: Path = ROOT) -> str:
    """Return the full name of the image to deploy."""
    how = str(config.data["image"])
    return f"{config.repository}:{content_tag(root)}" if how in {"cloudbuild", "docker"} else how
