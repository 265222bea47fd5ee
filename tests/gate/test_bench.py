"""The benchmark runs, and measures what it says; no figure is asserted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from bench.__main__ import REFERENCES, SUBJECTS
from local.proxy_binary import ROOT
from tests.support import missing


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_set_ups_are_compared_side_by_side() -> None:
    if not shutil.which("nc") or not shutil.which("go"):
        missing("nc or Go", "apt-get install netcat-openbsd, and install Go")
    results = ROOT / "bench" / "results"
    done = subprocess.run(
        ["make", "--silent", "bench"],
        cwd=ROOT, env={**os.environ, "ROUNDS": "1", "SCENARIOS": "sdk", "COLUMNS": "200"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((results / "bench.json").read_text())["figures"]
    for name in (*REFERENCES, *SUBJECTS):
        for figure in ("cold start, s", "SDK loop of 100 metrics, s"):
            assert figures[name][figure][0] > 0
    assert re.search(r"SDK loop of 100 metrics, s.*×\d+\.\d", done.stdout)
    assert (results / "bench.svg").stat().st_size > 1000
