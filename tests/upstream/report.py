"""What ``make upstream-check`` found: each reason once, with the tests that fail by it and what those guard.

``python -m tests.upstream.report REPORT.xml`` reads pytest's JUnit report.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from gatehouse.upstream.names import NAMES

#: Of a reason: the rest is in the report.
WIDTH = 200
SHOWN = 5


def reason(message: str) -> str:
    """Return an error without what differs from test to test: addresses, numbers, and all but its first line."""
    first = next((line for line in message.splitlines() if line.strip()), "no reason given")
    return re.sub(r"0x[0-9a-f]+|/[\w./-]+/|\b\d{4,}\b", "…", first)[:WIDTH]


def summarize(report: Path) -> list[str]:
    """Return the lines that say what would break."""
    failed: dict[str, list[str]] = defaultdict(list)
    passed = skipped = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        problem = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        if problem is not None:
            file = str(case.get("classname")).replace(".", "/") + ".py"
            failed[reason(problem.get("message") or "")].append(f"{file}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    uses = defaultdict(list)
    for name in NAMES:
        uses[name.guard].append(name.use)
    lines = []
    for why, tests in sorted(failed.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(tests)} × {why}")
        lines += [f"    {test}" for test in tests[:SHOWN]]
        if len(tests) > SHOWN:
            lines.append(f"    … and {len(tests) - SHOWN} more")
        guarded = sorted({use for test in tests for use in uses[test.partition("::")[0]]})
        if guarded:
            lines.append(f"    these files guard: {'; '.join(guarded)}")
    count = sum(map(len, failed.values()))
    lines.append(f"{count} of {count + passed} tests fail, for {len(failed)} reasons; {skipped} were skipped")
    return lines


if __name__ == "__main__":
    print("\n".join(summarize(Path(sys.argv[1]))))
