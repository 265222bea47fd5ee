"""Each store does each operation, for the unmodified SDK, curl's plain HTTP and the routes of MLflow's UI."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.artifacts.conftest import ARTIFACTS, Stored

NAMES = ["plain.txt", "with space.txt", "ümläut.txt", "🚂.txt", "100%.txt", "a+b&c=d;e.txt", "…"]


def test_the_sdk_logs_lists_downloads_and_overwrites(sdk: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(5_000_000))  # more than one request of a few MiB at Cloud Storage
    many = tmp_path / "many"
    (many / "deeper").mkdir(parents=True)
    for name in NAMES:
        (many / "deeper" / name).write_text(name)
    with sdk.start_run() as run:
        sdk.log_artifact(str(large), "some/folder")
        sdk.log_artifacts(str(many), "many")
        sdk.log_text("the first", "text.txt")
        sdk.log_text("the second, longer", "text.txt")
    client = sdk.MlflowClient()
    run_id = run.info.run_id
    listed = {entry.path: (entry.is_dir, entry.file_size) for entry in client.list_artifacts(run_id)}
    assert listed == {"many": (True, None), "some": (True, None), "text.txt": (False, 18)}
    assert [e.file_size for e in client.list_artifacts(run_id, "some/folder")] == [5_000_000]
    assert sorted(e.path for e in client.list_artifacts(run_id, "many/deeper")) == sorted(
        f"many/deeper/{name}" for name in NAMES
    )
    assert client.list_artifacts(run_id, "text.txt") == []
    there = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    assert (there / "some/folder/large.bin").read_bytes() == large.read_bytes()
    assert (there / "text.txt").read_text() == "the second, longer"
    assert {path.name: path.read_text() for path in (there / "many/deeper").iterdir()} == {n: n for n in NAMES}


def test_a_model_is_logged_and_loaded(stored: Stored, sdk: Any) -> None:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    with sdk.start_run():
        info = sdk.sklearn.log_model(
            model, name="line", serialization_format="pickle", registered_model_name=stored.folder
        )
    loaded = sdk.pyfunc.load_model(f"models:/{stored.folder}/1")
    assert loaded.predict([[2.0]]) == pytest.approx([5.0])
    # What the UI asks for, of the same files.
    wanted = {"path": "MLmodel"}
    version = {"name": stored.folder, "version": "1", **wanted}
    by_version = stored.session.get(f"{stored.gate.url}/model-versions/get-artifact", params=version, timeout=20)
    by_model = stored.session.get(
        f"{stored.gate.url}/ajax-api/2.0/mlflow/logged-models/{info.model_id}/artifacts/files",
        params={"artifact_file_path": "MLmodel"},
        timeout=20,
    )
    assert by_version.status_code == by_model.status_code == 200, by_version.text + by_model.text
    assert "sklearn" in by_version.text
    assert by_version.content == by_model.content
    assert by_version.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_the_uis_own_routes_upload_and_download(stored: Stored, sdk: Any) -> None:
    with sdk.start_run() as run:
        pass
    page = "<script>document.title='owned'</script>"
    base = stored.gate.url
    where = {"run_uuid": run.info.run_id, "path": "pages/page.html"}
    upload = f"{base}/ajax-api/2.0/mlflow/upload-artifact"
    assert stored.session.post(upload, params=where, data=page, timeout=20).status_code == 200
    answer = stored.session.get(f"{base}/get-artifact", params=where, timeout=20)
    assert answer.text == page
    # Active content can't run as this site.
    assert answer.headers["Content-Disposition"] == "attachment; filename=page.html"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"

    too_large = stored.session.post(upload, params=where, data=bytes(10 * 1024 * 1024 + 1), timeout=20)
    assert (too_large.status_code, too_large.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    nowhere = stored.session.post(upload, params={**where, "run_uuid": "0" * 32}, data=page, timeout=20)
    assert (nowhere.status_code, nowhere.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert stored.session.post(upload, params=where, timeout=20).status_code == 400
    assert stored.session.get(f"{base}/get-artifact", params=where, timeout=20).text == page


def test_a_traces_attachment_is_downloaded(stored: Stored, sdk: Any) -> None:
    with sdk.start_span("span") as span:
        pass
    sdk.flush_trace_async_logging()
    trace = sdk.MlflowClient().get_trace(span.trace_id)
    place = trace.info.tags["mlflow.artifactLocation"].removeprefix("mlflow-artifacts:/")
    name = str(uuid.uuid4())
    stored.session.put(f"{stored.gate.url}{ARTIFACTS}/{place}/attachments/{name}", data=b"seen", timeout=20)
    answer = stored.session.get(
        f"{stored.gate.url}/ajax-api/3.0/mlflow/get-trace-artifact",
        params={"request_id": span.trace_id, "path": name},
        timeout=20,
    )
    assert answer.content == b"seen", answer.text


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
@pytest.mark.parametrize("length_known", [True, False], ids=["known length", "chunked"])
def test_bytes_come_back_as_they_were(stored: Stored, size: int, length_known: bool) -> None:
    data = os.urandom(size)
    sent = data if length_known else iter([data[at : at + 65_536] for at in range(0, size, 65_536)])
    answer = stored.session.put(stored.url("a.bin"), data=sent, timeout=30)
    assert (answer.status_code, answer.content) == (200, b""), answer.text
    got = stored.session.get(stored.url("a.bin"), timeout=30)
    assert got.content == data
    assert got.headers["Content-Length"] == str(size)
    assert got.headers["ETag"] == answer.headers["ETag"]
    assert stored.inside() == ["a.bin"]


def test_parts_and_conditions_are_answered_as_http_defines_them(stored: Stored) -> None:
    data = os.urandom(1000)
    etag = stored.session.put(stored.url("a.csv"), data=data, timeout=20).headers["ETag"]

    def get(method: str = "GET", **headers: str) -> requests.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return stored.session.request(method, stored.url("a.csv"), headers=names, timeout=20)

    whole = get()
    modified = whole.headers["Last-Modified"]
    assert (whole.headers["Accept-Ranges"], whole.headers["Content-Type"]) == ("bytes", "text/plain; charset=utf-8")
    for asked, said, part in [
        ("bytes=0-9", "bytes 0-9/1000", data[:10]),
        ("bytes=990-", "bytes 990-999/1000", data[990:]),
        ("bytes=-5", "bytes 995-999/1000", data[-5:]),
        ("bytes=500-5000", "bytes 500-999/1000", data[500:]),
    ]:
        answer = get(Range=asked)
        assert (answer.status_code, answer.headers["Content-Range"], answer.content) == (206, said, part)
    beyond = get(Range="bytes=1000-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */1000")
    for ignored in ("bytes=0-1,5-6", "lines=0-1", "nonsense"):
        assert (get(Range=ignored).status_code, get(Range=ignored).content) == (200, data)
    assert get(Range="bytes=0-9", If_Range=etag).status_code == 206
    assert get(Range="bytes=0-9", If_Range='"another"').content == data
    head = get("HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "1000")
    assert head.headers["ETag"] == etag
    for unchanged in ({"If_None_Match": etag}, {"If_Modified_Since": modified}, {"If_None_Match": f'"x", {etag}'}):
        answer = get(**unchanged)
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert get(If_None_Match='"another"').status_code == 200
    assert get(If_Match='"another"').status_code == 412
    # Another content has another tag, also if it is as long.
    again = stored.session.put(stored.url("a.csv"), data=data[::-1], timeout=20).headers["ETag"]
    assert again != etag
    assert get(If_None_Match=etag).content == data[::-1]


def test_a_digest_of_the_client_is_compared(stored: Stored) -> None:
    data = b"what was meant"
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    sha = base64.b64encode(hashlib.sha256(data).digest()).decode()
    stored.session.put(stored.url("a"), data=b"the old one", timeout=20)
    for name, value in [
        ("Content-MD5", md5),
        ("Digest", f"SHA-256={sha},unknown=x"),
        ("Content-Digest", f"sha-256=:{sha}:"),
    ]:
        wrong = stored.session.put(stored.url("a"), data=b"something else", headers={name: value}, timeout=20)
        assert (wrong.status_code, wrong.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert stored.session.get(stored.url("a"), timeout=20).content == b"the old one"
        assert stored.session.put(stored.url(name), data=data, headers={name: value}, timeout=20).status_code == 200
    assert stored.session.put(stored.url("a"), data=data, headers={"Content-MD5": "?"}, timeout=20).status_code == 400


def test_an_artifact_and_a_folder_are_deleted(stored: Stored) -> None:
    for path in ("keep", "gone", "folder/a", "folder/deeper/b", "folder2/c"):
        assert stored.session.put(stored.url(path), data=b"x", timeout=20).status_code == 200
    for path in ("gone", "folder", "never there"):
        assert stored.session.delete(stored.url(quote(path)), timeout=20).status_code == 200
    assert stored.inside() == ["folder2/c", "keep"]
    with stored.gate.session("bob") as editor:
        refused = editor.delete(stored.url("keep"), timeout=20)
    assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert stored.session.get(stored.url("keep"), timeout=20).content == b"x"


def test_what_is_no_artifact_is_said_to_be_none(stored: Stored) -> None:
    stored.session.put(stored.url("folder/a"), data=b"x", timeout=20)
    for method in ("GET", "HEAD"):
        folder = stored.session.request(method, stored.url("folder"), timeout=20)
        nothing = stored.session.request(method, stored.url("nothing"), timeout=20)
        assert (folder.status_code, nothing.status_code) == (400, 404)
    assert nothing.headers["Content-Type"] == "application/json"
    assert stored.session.get(stored.url("nothing"), timeout=20).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_mlflows_checks_of_host_and_origin_stay(stored: Stored) -> None:
    stored.session.put(stored.url("a"), data=b"x", timeout=20)
    other = stored.session.put(stored.url("b"), data=b"x", headers={"Origin": "https://evil.test"}, timeout=20)
    assert (other.status_code, other.text) == (403, "Cross-origin request blocked")
    other = stored.session.get(stored.url("a"), headers={"Host": "evil.test"}, timeout=20)
    assert (other.status_code, other.text) == (403, "Invalid Host header - possible DNS rebinding attack detected")
    own = stored.session.put(stored.url("c"), data=b"x", headers={"Origin": stored.gate.url}, timeout=20)
    assert (own.status_code, own.headers["Access-Control-Allow-Origin"]) == (200, stored.gate.url)
    assert stored.inside() == ["a", "c"]
