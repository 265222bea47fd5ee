"""MLflow's scripts and styles come compressed, with the content and the type that MLflow gives them."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest
from mlflow.server import app as flask_app

from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.request.context import Context
from gatehouse.ui import static
from gatehouse.ui.static import StaticLayer

FOLDER = static.source_folder()
FILES = static.files(FOLDER)


async def handed_on(_context: Context, _send: object) -> None:
    raise LookupError


def ask(layer: StaticLayer, name: str, method: str = "GET", **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body; LookupError means that it was handed on."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    pairs = {"accept_encoding": "gzip, deflate, br", **headers}
    scope = {"type": "http", "method": method, "path": f"/static-files/{name}",
             "headers": [(key.replace("_", "-").encode(), value.encode()) for key, value in pairs.items()]}  # fmt: skip
    context = Context(scope, receive, route=Route(static.OPERATION, Access.READ, {"path": name}))
    asyncio.run(layer(context, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


@pytest.fixture
def layer(tmp_path: Path) -> StaticLayer:
    """The layer without copies that were made beforehand."""
    return StaticLayer(handed_on, FOLDER, tmp_path)


@pytest.mark.parametrize("suffix", sorted(static.TYPES))
def test_content_and_type_are_those_of_mlflow(layer: StaticLayer, suffix: str) -> None:
    name = next((name for name in sorted(FILES) if name.endswith(suffix)), None)
    if name is None:  # MLflow has no such file that is large enough
        assert suffix not in {".js", ".css"}
        return
    status, headers, body = ask(layer, name)
    plain = flask_app.test_client().get(f"/static-files/{name}")
    assert (status, plain.status_code) == (200, 200)
    assert gzip.decompress(body) == plain.data
    assert len(body) == int(headers[b"content-length"]) < len(plain.data)
    assert headers[b"content-type"].decode() == plain.headers["Content-Type"]
    assert headers[b"vary"] == b"Accept-Encoding"


def test_what_a_page_needs_becomes_a_fraction(tmp_path: Path) -> None:
    static.main(tmp_path)
    names = [name for name in FILES if "/main." in name]
    assert names
    before = sum(FILES[name].size for name in names)
    assert sum((tmp_path / f"{name}.gz").stat().st_size for name in names) < before / 3


def test_a_file_with_a_hash_in_its_name_never_changes(layer: StaticLayer) -> None:
    hashed = next(name for name in FILES if "/main." in name)
    status, headers, _ = ask(layer, hashed)
    assert headers[b"cache-control"] == b"private, max-age=31536000, immutable"
    assert ask(layer, hashed, if_none_match=headers[b"etag"].decode())[0] == 304
    assert ask(layer, hashed, if_none_match='"another"')[0] == status == 200
    unhashed = next(name for name in FILES if not static._HASHED.search(name))
    assert b"immutable" not in ask(layer, unhashed)[1][b"cache-control"]


def test_the_copies_of_the_image_are_used(tmp_path: Path) -> None:
    name = next(name for name in FILES if name.endswith(".css"))
    copy = tmp_path / f"{name}.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(gzip.compress(b"made beforehand"))
    assert gzip.decompress(ask(StaticLayer(handed_on, FOLDER, tmp_path), name)[2]) == b"made beforehand"


@pytest.mark.parametrize(
    ("name", "method", "headers"),
    [
        ("none.js", "GET", {}),
        ("../build/index.html", "GET", {}),
        ("../__init__.py", "GET", {}),
        ("MAIN", "GET", {"accept_encoding": ""}),
        ("MAIN", "GET", {"accept_encoding": "br, gzip;q=0"}),
        ("MAIN", "GET", {"accept_encoding": "identity"}),
        ("MAIN", "GET", {"range": "bytes=0-9"}),
        ("MAIN", "HEAD", {}),
    ],
)
def test_everything_else_is_mlflows_to_answer(
    layer: StaticLayer, name: str, method: str, headers: dict[str, str]
) -> None:
    main = next(name for name in FILES if "/main." in name)
    with pytest.raises(LookupError):
        ask(layer, name.replace("MAIN", main), method, **headers)


@pytest.mark.parametrize("header", ["gzip", "deflate, gzip", "br;q=1.0, gzip;q=0.8", "*", "GZIP", "gzip;q=1"])
def test_clients_that_take_gzip(header: str) -> None:
    assert static.takes_gzip(header.encode())
