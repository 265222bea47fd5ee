"""What a crash leaves of the local store: a stored artifact with every folder that leads to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatehouse.artifacts.stores.local import LocalStore


def test_each_new_folder_is_on_the_disk_before_the_artifact_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, list[str]]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path, [entry.name for entry in path.iterdir()] if path.is_dir() else []))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    root = tmp_path / "new" / "store"
    sink = LocalStore(f"file://{root}").create("a/b/c.bin", 1)
    sink.write(b"x")
    sink.commit()
    assert (root / "a/b/c.bin").read_bytes() == b"x"
    # The name of each folder, and then the file's, was in what was written to the disk.
    for folder, name in [
        (tmp_path, "new"),
        (tmp_path / "new", "store"),
        (root, "a"),
        (root / "a", "b"),
        (root / "a/b", "c.bin"),
    ]:
        assert any(path == folder and name in names for path, names in synced), (folder, name, synced)
