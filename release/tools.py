"""Kept tools that come as Go modules, each built once from its pin in `tools/`.

``python -m release.tools NAME`` prints its path.
"""

from __future__ import annotations

import sys
from pathlib import Path

from local.go_program import ROOT, build, digest

PACKAGES = {
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint",
    "govulncheck": "golang.org/x/vuln/cmd/govulncheck",
    "helm": "helm.sh/helm/v4/cmd/helm",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
}


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def tool(name: str) -> Path:
    """Return the program's path.

    Raises:
        NoProgramError: if it isn't built and can't be.
    """
    folder = Path(__file__).parent / "tools" / name
    pins = digest([folder / "go.mod", folder / "go.sum"])
    return build(name, PACKAGES[name], folder, ROOT / ".build" / f"{name}-{pins}" / name, say)


if __name__ == "__main__":
    print(tool(sys.argv[1]))
