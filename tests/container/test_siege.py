"""The image under a viewer that means harm: `python -m bench.siege` runs the same for a minute, and tells the waits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.siege import Siege
from tests.support import Postgres

if TYPE_CHECKING:
    from tests.container.parts import Engine

#: The waits themselves depend on the machine, and are no test's.
SECONDS = float(os.environ.get("SECONDS") or 6)
CONNECTIONS = 200


def test_a_viewer_that_means_harm_stops_nobody(engine: Engine, postgres: Postgres) -> None:
    siege = Siege(engine, postgres, seed=14)
    result = siege.attack(SECONDS, CONNECTIONS)
    print(result.table())
    assert result.during.failures == [], result.table()
    assert len(result.during.all()) >= 2, result.table()
    assert result.ended == "still running"
    assert result.killed == 0
    assert 0 < result.memory <= result.limit
    # It came through to the gate, and afterwards all is as it was.
    assert any(what.split()[-1] in {"200", "403", "413"} for what in result.statuses), result.table()
    assert siege.work(1).failures == []
