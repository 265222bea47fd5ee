"""``gatehouse status``: what matters now of the gate that runs in this container, and what is wrong with its settings.

It looks at what ``gatehouse doctor`` looks at, and asks the running gate for its figures of the last hour, if METRICS
is set there. ``/gatehouse/status`` shows the same to admins.
"""

from __future__ import annotations

import argparse
import json
import sys

from gatehouse.commands import doctor
from gatehouse.exit_codes import Exit
from gatehouse.monitoring import state
from gatehouse.start import status


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code that a start would end with."""
    parser = argparse.ArgumentParser(prog="gatehouse status", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--wait", type=float, default=10, metavar="SECONDS", help="how long to wait for the database (10)"
    )
    arguments = parser.parse_args(argv)
    # The gate that runs has its port.
    findings = doctor.examine(doctor.default_template(), arguments.wait, is_running=True)
    found = status.compose(
        [status.Finding(each.part, each.ok, each.text) for each in findings], lambda: state.ask(state.running())
    )
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        told = status.rows(found)
        width = max(len(name) for name, _ in told)
        for name, text in told:
            print(f"{name:<{width}}  {text}", file=sys.stderr if name.startswith("ERROR") else sys.stdout)
    return next((each.code for each in findings if not each.ok), Exit.OK)
