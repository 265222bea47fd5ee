"""By default there are as many workers as pay off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gatehouse.start.settings import MOST_AUTOMATIC_WORKERS, load

POSTGRESQL = "postgresql://u:p@h/d"
REST = {"ARTIFACTS_DESTINATION": "gs://b", "PUBLIC_URL": "https://mlflow.example.com"}


@pytest.mark.parametrize("named", [{}, {"WORKERS": "auto"}])
def test_one_worker_for_each_cpu_that_this_process_may_use(named: dict[str, str]) -> None:
    code = f"""
import os
from gatehouse.start.settings import load
settings = { ({**REST, **named, "BACKEND_STORE_URI": POSTGRESQL})!r}
everywhere = load(settings).workers
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
print(everywhere, load(settings).workers)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    everywhere, on_one = map(int, done.stdout.split())
    assert on_one == 1
    # A quota of this machine's own may allow fewer than it has.
    assert 1 <= everywhere <= min(len(os.sched_getaffinity(0)), MOST_AUTOMATIC_WORKERS)


def test_sqlite_gets_one_for_more_would_wait_for_its_lock() -> None:
    assert load({**REST, "BACKEND_STORE_URI": "sqlite:////tmp/x.db"}).workers == 1


def test_a_number_wins() -> None:
    assert load({**REST, "BACKEND_STORE_URI": "sqlite:////tmp/x.db", "WORKERS": "3"}).workers == 3
