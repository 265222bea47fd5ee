"""Two images are called the same only if all that a container finds in them is."""

from __future__ import annotations

import io
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from release import reproducible


@pytest.fixture
def image(docker_client: Any) -> Iterator[Callable[..., str]]:
    """Makes an image of one file; its time is always another one."""
    made: list[str] = []

    def make(content: bytes = b"same", mode: int = 0o644, name: str = "file", owner: int = 0) -> str:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.mtime = len(content), mode, owner, len(made)
            archive.addfile(member, io.BytesIO(content))
        tag = f"gatehouse-test:{uuid.uuid4().hex}"
        subprocess.run(["docker", "import", "-", tag], input=buffer.getvalue(), capture_output=True, check=True)
        made.append(tag)
        return tag

    yield make
    for tag in made:
        docker_client.images.remove(tag)


def test_times_alone_are_no_difference(image: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproducible.main([image(), image()]) == 0
    assert capsys.readouterr().out == ""


def test_a_byte_a_mode_an_owner_and_a_name_are(image: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    plain = image()
    for other, told in (
        (image(content=b"sane"), "/file: digest"),
        (image(mode=0o4755), "/file: mode"),
        (image(owner=1), "/file: owner"),
        (image(name="fill"), "/fill: only in the second"),
    ):
        assert reproducible.main([plain, other]) == 1
        assert told in capsys.readouterr().out


def test_an_image_that_is_not_there_is_told(docker_client: Any, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    assert reproducible.main(["gatehouse-test:none", "gatehouse-test:none"]) == 2
    assert "No such image" in capsys.readouterr().err
