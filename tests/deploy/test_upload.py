"""What leaves this machine for Cloud Build: the image's sources, and nothing that merely lies beside them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.resources.images import INPUTS
from tests.deploy.conftest import ROOT, Tool

#: Where docs/deploy.md has people put an OAuth client, what google-github-actions/auth writes, and what people have
#: lying about.
SECRETS = (
    "client_secret_123-abc.apps.googleusercontent.com.json",
    "gha-creds-0123456789abcdef.json",
    ".env",
    "src/.env",
    "src/gatehouse/.env.local",
    "src/gatehouse/key.json",
    "src/notes.py",
    "proxy/templates/key.pem",
    "listener/credentials.json",
    "requirements/token.txt",
    "deploy/environments/client_secret.json",
    ".gatehouse/mlflow.db",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A working copy with the tracked files that an image is made of, and things that nobody must see."""
    top = tmp_path / "copy"
    for name in tracked():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, top / name)
    for name in SECRETS:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("hunter2")
    return top


def tracked() -> list[str]:
    """Return the sources of the image, by git where this is a checkout."""
    done = subprocess.run(["git", "ls-files", "--", *INPUTS], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return done.stdout.split()
    kinds = {".py", ".js", ".html", ".css", ".typed", ".go", ".mod", ".sum", ".txt"}
    inside = [path for name in INPUTS for path in (ROOT / name).rglob("*") if path.suffix in kinds]
    return [str(path.relative_to(ROOT)) for path in (*inside, *(ROOT / n for n in INPUTS)) if path.is_file()]


def test_gcloud_uploads_the_images_sources_and_no_other_file(copy: Path, tool: Tool) -> None:
    """By the file's own reader: the real gcloud."""
    shutil.copy2(ROOT / ".gcloudignore", copy / ".gcloudignore")
    command = [str(tool.gcloud / "gcloud"), "meta", "list-files-for-upload"]
    done = subprocess.run(command, cwd=copy, env=tool.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    uploaded = set(done.stdout.split())
    assert uploaded & set(SECRETS) == set()
    assert uploaded == set(tracked())
