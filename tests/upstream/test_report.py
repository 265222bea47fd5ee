"""What `make upstream-check` prints at its end."""

from __future__ import annotations

from pathlib import Path

from gatehouse.upstream.names import NAMES
from tests.upstream.report import summarize


def test_each_reason_is_told_once_with_its_tests_and_what_they_guard(tmp_path: Path) -> None:
    guard = NAMES[0].guard
    classname = guard.removesuffix(".py").replace("/", ".")
    report = tmp_path / "report.xml"
    cases = "".join(
        f'<testcase classname="{classname}" name="test_{number}"><failure message="gone at 0x7f{number}&#10;more"/></testcase>'
        for number in range(7)
    )
    report.write_text(
        f'<testsuites><testsuite>{cases}<testcase classname="tests.a" name="b"><error message="odd"/></testcase>'
        '<testcase classname="tests.a" name="c"><skipped/></testcase><testcase classname="tests.a" name="d"/>'
        "</testsuite></testsuites>"
    )
    first, *rest = summarize(report)
    assert first == "7 × gone at …"
    assert rest[:2] == [f"    {guard}::test_0", f"    {guard}::test_1"]
    assert "    … and 2 more" in rest
    assert any(NAMES[0].use in line for line in rest)
    assert rest[-3:-1] == ["1 × odd", "    tests/a.py::b"]
    assert rest[-1] == "8 of 9 tests fail, for 2 reasons; 1 were skipped"
