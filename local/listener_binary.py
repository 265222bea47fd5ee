"""Build gatehouse-listener from the folder `listener`, once for each state of its sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from local.go_program import ROOT, build, digest


def find_or_build_listener(say: Callable[[str], None]) -> Path:
    """Return the path of the program.

    Raises:
        NoProgramError: if it isn't built and can't be.
    """
    folder = ROOT / "listener"
    built = ROOT / ".build" / f"listener-{digest(list(folder.iterdir()))}" / "gatehouse-listener"
    return build("gatehouse-listener", ".", folder, built, say)
