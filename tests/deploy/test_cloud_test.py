"""`make cloud-test`, which is for a real project: here the same commands on the emulated one, and what it writes down."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deploy import cloud_test
from tests.deploy import recorded
from tests.deploy.conftest import CLIENT_SECRET, PROJECT, Tool, image
from tests.deploy.test_apply import values


def test_it_goes_the_whole_way_and_takes_all_down_and_writes_no_secret(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in set(os.environ) - set(tool.environment()):
        monkeypatch.delenv(key)
    for key, value in tool.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tool.home)
    held: list[bytes] = []
    tool.cloud.after_write = lambda _: held.extend(values(tool.cloud))
    arguments = [
        f"--project={PROJECT}", "--domain=example.com", f"--image={image('1')}", f"--oauth-client={tool.client_file()}", "--no-smoke",
    ]  # fmt: skip
    # Nothing counts rows here, so restored and serving are alike: empty.
    assert cloud_test.main(arguments) == 0
    assert tool.cloud.run.services == {}
    assert tool.cloud.sql.instances == {}
    assert list(tool.home.glob("ct-*")) == []
    text = (tool.home / "cloud-test.jsonl").read_bytes()
    assert [value for value in {*held, CLIENT_SECRET.encode()} if value in text] == []
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["argv"][1] for line in lines if "argv" in line} >= {"sql", "run", "secrets", "storage", "monitoring"}
    # What it is held against: the emulator knows all of its own calls, and a field that it lacks is told.
    assert recorded.differences(lines, lines) == []
    one = next(line for line in lines if line.get("url", "").endswith("/secrets") and line["status"] == 200)
    other = one | {"answer": one["answer"] | {"newField": "str"}}
    told = "secretmanager.projects.secrets.list: newField is in Google's answer alone"
    assert recorded.differences([*lines, other], lines) == [told]
    assert Path(tool.home / "cloud-test.jsonl").stat().st_size > 1000
