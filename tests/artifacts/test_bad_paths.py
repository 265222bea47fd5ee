"""Nothing is read or written outside the root, however a path is spelt, by any route that takes one."""

from __future__ import annotations

import http.client
import json
from urllib.parse import quote

import pytest

from gatehouse.artifacts.paths import BadPath, check
from tests.artifacts.conftest import ARTIFACTS, Stored

NO_RUN = "0" * 32
# As they stand in the address, below the test's own folder.
BAD = {
    **(
        NO_ROUTE := {
            # In an address, these may lead to no route.
            "upwards": "a/../../b",
            "upwards, encoded": "%2e%2e/%2e%2e/b",
            "upwards, encoded slash": "a%2f..%2f..%2fb",
            "a file URI": "file:%2f%2f%2fetc%2fpasswd",
            "a line feed": "a%0ab",
        }
    ),
    "upwards, encoded twice": "%252e%252e%252fb",
    "upwards, encoded three times": "%25252e%25252e/b",
    "absolute, encoded twice": "%252fetc/passwd",
    "a drive": "C:%5cwindows",
    "backslashes": "..%5c..%5cb",
    "a NUL": "a%00b",
    "a NUL, encoded twice": "a%2500b",
    "DEL": "a%7fb",
    "a C1 control": "a%c2%85b",
    "a long name": "n" * 1000,
    "a long path": "/".join(["n" * 200] * 6),
    "a full-width slash": "..%ef%bc%8fb",
    "a fraction slash": "..%e2%81%84b",
    "a division slash": "..%e2%88%95b",
    "two dots as one character": "%e2%80%a5/b",
    "one-dot leaders": "%e2%80%a4%e2%80%a4/b",
    "full-width dots": "%ef%bc%8e%ef%bc%8e/b",
    "not UTF-8": "a%ff%feb",
    "overlong UTF-8": "%c0%ae%c0%ae/b",
    "a fragment": "a%23b",
}


def request(stored: Stored, method: str, target: str) -> tuple[int, str]:
    """Send a request with exactly this target; return the status and the error code of the answer, if it has one."""
    connection = http.client.HTTPConnection("localhost", stored.gate.port, timeout=20)
    try:
        connection.request(method, target, b"x", {"Authorization": str(stored.session.headers["Authorization"])})
        answer = connection.getresponse()
        body = answer.read()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(body)["error_code"] if is_json else body.decode()
    finally:
        connection.close()


@pytest.mark.parametrize("spelling", BAD)
def test_a_bad_path_is_refused_in_mlflows_shape(stored: Stored, spelling: str) -> None:
    before = stored.names()
    path = BAD[spelling]
    by_address = [(method, f"{ARTIFACTS}/{path}") for method in ("PUT", "GET", "DELETE")]
    by_parameter = [
        ("GET", f"{ARTIFACTS}?path={path}"),
        ("GET", f"/api/2.0/mlflow/artifacts/list?run_id={NO_RUN}&path={path}"),
        ("GET", f"/get-artifact?run_id={NO_RUN}&path={path}"),
        ("GET", f"/model-versions/get-artifact?name=m&version=1&path={path}"),
        ("GET", f"/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files?artifact_file_path={path}"),
        ("GET", f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id=tr-1&path={path}"),
        ("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={NO_RUN}&path={path}"),
    ]
    for method, target in by_address + by_parameter:
        status, code = request(stored, method, target)
        if (method, target) in by_address and spelling in NO_ROUTE:
            assert status in {400, 404}, (method, target, status, code)
        else:
            assert (status, code) == (400, "INVALID_PARAMETER_VALUE"), (method, target, status, code)
    assert stored.names() == before


def test_the_uploads_aside_of_a_local_store_are_nobodys(stored: Stored) -> None:
    assert stored.session.put(stored.url("a"), data=b"x", timeout=20).status_code == 200
    url = f"{stored.gate.url}{ARTIFACTS}"
    listed = stored.session.get(url, timeout=20).json()["files"]
    assert not any(entry["path"].startswith(".") for entry in listed)
    if (
        "ARTIFACTS_DESTINATION" in stored.gate.environment
        and stored.gate.environment["ARTIFACTS_DESTINATION"][0] == "/"
    ):
        for method in ("GET", "PUT", "DELETE"):
            body = b"x" if method == "PUT" else None
            answer = stored.session.request(method, f"{url}/.gatehouse-uploads/x", data=body, timeout=20)
            assert answer.status_code == (200 if method == "DELETE" else 404), answer.text


@pytest.mark.parametrize(
    "path", ["a b", "ü", "🚂", "100%", "50%25", "...", "…", "a..b", "½", ".hidden", "a:b", "(1)", "ﬁle"]
)
def test_ordinary_names_are_left_alone(path: str) -> None:
    assert check(f"folder/{path}") == f"folder/{path}"
    assert quote(path)


def test_one_artifact_has_one_path() -> None:
    assert check("a//b/./c/") == "a/b/c"
    assert check("") == ""
    with pytest.raises(BadPath):
        check("\ud800")
