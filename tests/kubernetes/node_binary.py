"""Build Kubernetes' programs as one, from the pinned module, and print the folder that has each by its name.

``python -m tests.kubernetes.node_binary``: with nothing cached, a quarter of an hour of two processors.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from local.go_program import ROOT, build, digest

SOURCE = Path(__file__).parent / "node"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")


def folder() -> Path:
    """Return the folder with the programs, built once for each state of the pins.

    Raises:
        NoProgramError: if they aren't built and can't be.
    """
    pins = SOURCE / "go.mod"
    version = re.findall(r"^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\S*)$", pins.read_text(), re.MULTILINE)[0]
    names = ("gitVersion", "gitMajor", "gitMinor")
    stamps = " ".join(
        f"-X k8s.io/component-base/version.{name}={value}" for name, value in zip(names, version, strict=True)
    )
    target = ROOT / ".build" / f"kubernetes-{digest([pins, SOURCE / 'go.sum', SOURCE / 'main.go'])}" / "kubernetes"
    build("kubernetes", ".", SOURCE, target, lambda line: print(line, file=sys.stderr, flush=True), f"-s -w {stamps}")
    for name in PROGRAMS:
        link = target.parent / name
        if not link.is_symlink():
            link.symlink_to(target.name)
    return target.parent


if __name__ == "__main__":
    print(folder())
