"""The benchmark runs, and measures what it says; no figure is asserted."""

from __future__ import annotations

import re
import subprocess
import sys

from local.proxy_binary import ROOT


def test_the_cost_of_the_layers_is_measured_with_and_without_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.layers", "--rounds", "1", "--seconds", "0.2"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for scenario in ("version", "runs/get", "runs/log-batch"):
        assert re.search(rf"^{scenario} +[\d.]+ +[\d.]+ +[\d.]+", done.stdout, re.M), done.stdout


def test_a_scenario_that_there_is_not_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench"],
        cwd=ROOT,
        env={"SCENARIOS": "warp", "PATH": "/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 64
    assert "SCENARIOS has warp" in done.stderr
