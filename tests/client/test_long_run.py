"""A run that outlives its tokens many times, with threads and forked workers, loses nothing and renews in moderation.

The full measure: ``GATEHOUSE_TEST_TOKEN_LIFE=20 GATEHOUSE_TEST_RUN=180 pytest tests/client/test_long_run.py``.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from tests.client.conftest import RUN, TOKEN_LIFE, Machine, login
from tests.client.googleapis import Google
from tests.client.openid import OpenIdProvider

TRAINING = Path(__file__).parent / "training.py"
PROCESSES = 3  # the script and its two forked workers


@pytest.mark.parametrize("source", ["login", "metadata"])
def test_a_run_outlives_its_tokens(machine: Machine, google: Google, openid: OpenIdProvider, source: str) -> None:
    environment = {}
    if source == "login":
        login(machine)
    else:
        google.mint = lambda **claims: openid.sign(life=TOKEN_LIFE, **claims)
        environment = {"NO_GCE_CHECK": "", **google.as_metadata}
    already = openid.granted("refresh_token")
    began = time.monotonic()
    done = machine.run(machine.python, str(TRAINING), str(RUN), env=environment)
    took = time.monotonic() - began
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == []
    assert len(report["steps"]) == 10
    assert all(report["steps"].values()), report

    # A token is renewed at 4/5 of its life.
    expiries = math.ceil(took / (TOKEN_LIFE * 4 / 5)) + 1
    if source == "login":
        renewals = openid.granted("refresh_token") - already
        assert renewals <= expiries, "processes share the sign-in's renewals"
    else:
        renewals = google.count("/identity")
        assert renewals <= expiries * PROCESSES
    assert renewals >= RUN / TOKEN_LIFE - 1, "the run was meant to outlive its tokens"
    print(f"\n{source}: {sum(report['steps'].values())} steps, {renewals} tokens, in {RUN:.0f} s")
