"""Straight to the bucket, by choice, with MLflow's own client; and through the server wherever that can't be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.utils import server_info

from gatehouse.exit_codes import Exit
from tests.artifacts.google_server import google_server
from tests.artifacts.object_stores import Server, azure_server, s3_server
from tests.artifacts.signed_bucket import SignedBucket, signed_google
from tests.client.googleapis import ACCOUNT, Google
from tests.support import Gate, Provider, free_port, run_sdk, running

MIB = 1024 * 1024
LARGE, SMALL = 40 * MIB, 1000
API = "/api/2.0/mlflow-artifacts"

#: A training script that knows nothing of buckets. It prints the digests of what it gets back.
SCRIPT = """
import hashlib, pathlib, sys, tempfile
from mlflow import MlflowClient
client = MlflowClient()
run = client.create_run(client.create_experiment(sys.argv[1])).info.run_id
for name in sys.argv[2:]:
    client.log_artifact(run, name)
for name in sys.argv[2:]:
    with tempfile.TemporaryDirectory() as folder:
        got = client.download_artifacts(run, pathlib.Path(name).name, folder)
        print(hashlib.sha256(pathlib.Path(got).read_bytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def parts(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, Google, SignedBucket]]:
    """A gate as on Cloud Run, with a metadata server and no key, that offers the way straight to its bucket."""
    with signed_google(tmp_path_factory.mktemp("google")) as (google, bucket):
        machine = google.as_googleapis | google.as_metadata | {"NO_GCE_CHECK": "", "HOME": ""}
        folder = tmp_path_factory.mktemp("direct")
        settings = {"ARTIFACTS_DESTINATION": "gs://artifacts/mlflow", "DIRECT_TRANSFERS": "true", "AUDIT_READS": "true"}
        with running(Gate(folder, provider, **{**machine, "HOME": str(folder), **settings})) as gate:
            yield gate, google, bucket


@pytest.fixture
def direct(parts: tuple[Gate, Google, SignedBucket]) -> Iterator[Gate]:
    """The gate, with the right to sign, and nothing moved yet."""
    gate, google, bucket = parts
    bucket.signed.clear()
    yield gate
    google.may_sign = True
    bucket.uploads.clear()


@pytest.fixture
def google(parts: tuple[Gate, Google, SignedBucket]) -> Google:
    return parts[1]


@pytest.fixture
def bucket(parts: tuple[Gate, Google, SignedBucket]) -> SignedBucket:
    return parts[2]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A large file and a small one."""
    large, small = tmp_path / "large model.bin", tmp_path / "small.txt"
    large.write_bytes(os.urandom(MIB) * (LARGE // MIB))
    small.write_bytes(os.urandom(SMALL))
    return large, small


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def client_of(gate: Gate, google: Google | None, monkeypatch: pytest.MonkeyPatch, **settings: str) -> MlflowClient:
    """Return MLflow's client in this process, without the plug-in, as whoever reaches Google and the gate."""
    environment = {
        "MLFLOW_TRACKING_URI": gate.url,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a failure shows at once, not after minutes of trying again
        "MLFLOW_TRACKING_TOKEN": gate.provider.token(),
        **(google.as_googleapis if google else {}),
        **settings,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server_info._clear_server_info_cache()
    return MlflowClient(gate.url)


def round_trip(client: MlflowClient, name: str, folder: Path, *paths: Path) -> None:
    """Log files to a new run, and get them back."""
    run = client.create_run(client.create_experiment(name)).info.run_id
    for path in paths:
        client.log_artifact(run, str(path), "a folder")
        got = Path(client.download_artifacts(run, f"a folder/{path.name}", str(folder)))
        assert digest(got) == digest(path)


def test_the_plugin_takes_the_way_that_the_server_offers_with_no_setting_of_its_own(
    direct: Gate, google: Google, bucket: SignedBucket, files: tuple[Path, Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    variables = {
        "MLFLOW_TRACKING_AUTH": "gatehouse",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "GATEHOUSE_KEYRING": "off",
        "GIT_PYTHON_REFRESH": "quiet",
        **google.as_googleapis,
    }
    token = direct.provider.token()
    done = run_sdk(direct, SCRIPT, home, "plug-in", *map(str, files), token=token, variables=variables)
    assert done.stdout.split() == [digest(path) for path in files]
    moved = [(method, path.rpartition("/")[2], size) for method, path, size in bucket.signed]
    up = [("PUT", "large model.bin", 8 * MIB), ("PUT", "large model.bin", 32 * MIB)]
    assert sorted(moved) == [("GET", "large model.bin", 0), *up]
    assert not bucket.uploads
    assert "X-Goog-" not in direct.log()


def test_the_unmodified_client_finds_out_by_itself(
    direct: Gate,
    google: Google,
    bucket: SignedBucket,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own threshold is 500 MB; it is lowered, so that the test needn't move as much."""
    client = client_of(direct, google, monkeypatch, MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE=str(MIB))
    round_trip(client, "unmodified", tmp_path, *files)
    assert [size for method, _, size in bucket.signed if method == "PUT"].count(10 * MIB) == 4
    assert {path.rpartition("/")[2] for _, path, _ in bucket.signed} == {"large model.bin"}


@pytest.mark.parametrize("told", [{}, {"UPLOAD": "true", "DOWNLOAD": "true"}], ids=["unmodified", "told to try"])
def test_without_the_right_to_sign_the_bytes_go_through_the_server(
    direct: Gate,
    google: Google,
    bucket: SignedBucket,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, str],
) -> None:
    google.may_sign = False
    settings = {f"MLFLOW_ENABLE_PROXY_MULTIPART_{name}": value for name, value in told.items()}
    client = client_of(direct, google, monkeypatch, MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE=str(MIB), **settings)
    round_trip(client, f"no right {told}", tmp_path, *files)
    assert not bucket.signed
    assert not bucket.uploads
    assert f"{ACCOUNT} lacks iam.serviceAccounts.signBlob" in direct.log()


@pytest.mark.parametrize("may_sign", [True, False])
def test_the_doctor_tells_whether_urls_can_be_signed(direct: Gate, google: Google, may_sign: bool) -> None:
    google.may_sign = may_sign
    command = [sys.executable, "-m", "gatehouse", "doctor", "--json"]
    # The gate itself has the port.
    environment = direct.environment | {"PORT": str(free_port())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    (found,) = [finding for finding in json.loads(done.stdout) if finding["part"] == "direct transfers"]
    assert (found["ok"], found["code"]) == (may_sign, Exit.OK if may_sign else Exit.UNAVAILABLE)
    assert may_sign or "roles/iam.serviceAccountTokenCreator" in found["text"]


@pytest.mark.parametrize("number", [0, -1, 10_001, 2**31 - 1])
def test_an_upload_of_no_or_of_too_many_parts_is_refused(direct: Gate, bucket: SignedBucket, number: int) -> None:
    answer = direct.session().post(
        f"{direct.url}{API}/mpu/create/x", json={"path": "f", "num_parts": number}, timeout=30
    )
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert not bucket.uploads


@pytest.mark.parametrize("path", ["", "/", "a/", "..", "x/..", "%2e%2e", "a\0b", "n" * 256, "\uff0e\uff0e"])
def test_an_upload_can_name_only_a_file_below_its_folder(direct: Gate, bucket: SignedBucket, path: str) -> None:
    answer = direct.session().post(f"{direct.url}{API}/mpu/create/1/x", json={"path": path, "num_parts": 1}, timeout=30)
    assert answer.status_code == 400, answer.text
    assert not bucket.uploads


def test_the_path_on_the_clients_machine_stays_there(direct: Gate, bucket: SignedBucket) -> None:
    for path in ("/home/me/model.bin", "C:\\Users\\me\\model.bin", "../../model.bin"):
        answer = create(direct, path)
        assert [upload.name for upload in bucket.uploads.values()] == ["mlflow/1/x/model.bin"]
        end(direct, "abort", path, answer["upload_id"]).raise_for_status()
        assert not bucket.uploads


def create(gate: Gate, path: str) -> Any:
    answer = gate.session().post(f"{gate.url}{API}/mpu/create/1/x", json={"path": path, "num_parts": 1}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def end(gate: Gate, how: str, path: str, upload_id: str, *parts: dict[str, object]) -> requests.Response:
    message = {"path": path, "upload_id": upload_id} | ({"parts": parts} if how == "complete" else {})
    return gate.session().post(f"{gate.url}{API}/mpu/{how}/1/x", json=message, timeout=30)


def test_what_ends_an_upload_must_be_its_own_name_and_parts(direct: Gate, bucket: SignedBucket) -> None:
    made = create(direct, "f")
    known, part = made["upload_id"], {"part_number": 1, "etag": '"tag"'}
    for upload_id, parts in {
        f"{known}&acl": [part],
        f"{known}?x": [part],
        known: [part, part],
        f"{known}": [{"part_number": 2, "etag": '"tag"'}],
    }.items():
        assert end(direct, "complete", "f", upload_id, *parts).status_code == 400
    assert end(direct, "complete", "f", known, {"part_number": 1, "etag": "<x>"}).status_code == 400
    assert end(direct, "complete", "f", known, part).status_code == 400  # such a part wasn't uploaded
    assert end(direct, "complete", "other", known, part).status_code == 404
    assert end(direct, "abort", "f", f"{known}&acl").status_code == 400
    assert list(bucket.uploads) == [known]


@pytest.mark.parametrize("store", [s3_server, azure_server])
def test_s3_and_azure_offer_the_way_too(
    provider: Provider,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Callable[[Path], AbstractContextManager[Server]],
) -> None:
    with store(tmp_path / "store") as server:
        settings = {"DIRECT_TRANSFERS": "true", "AUDIT_READS": "true", **server.environment}
        with running(Gate(tmp_path / "gate", provider, **settings)) as gate:
            client = client_of(gate, None, monkeypatch, MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE=str(MIB))
            round_trip(client, "direct", tmp_path, *files)
            lines = [json.loads(line) for line in gate.log().splitlines() if line.startswith("{")]
    done = Counter(line["audit"]["action"] for line in lines if line["audit"]["result"] == "done")
    # The small file alone came through the server.
    assert (done["upload_artifact"], done["download_artifact"]) == (1, 1)
    assert (done["complete_multipart_upload_artifact"], done["get_presigned_download_url"]) == (1, 2)


def test_where_it_is_off_a_client_that_tries_falls_back(
    gate: Gate, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = gate.session().get(f"{gate.url}/api/3.0/mlflow/server-info", timeout=30).json()
    assert (info["multipart_uploads_enabled"], info["multipart_downloads_enabled"]) == (False, False)
    assert "mlflow" not in requests.get(f"{gate.url}/.well-known/gatehouse", timeout=10).json()
    answers = [
        gate.session().post(f"{gate.url}{API}/mpu/create/x", json={"path": "f", "num_parts": 1}, timeout=30),
        gate.session().get(f"{gate.url}{API}/presigned/x/f", timeout=30),
    ]
    assert [answer.status_code for answer in answers] == [501, 501]
    tries = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true"}
    client = client_of(gate, None, monkeypatch, MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE="1", **tries)
    round_trip(client, "direct transfers are off", tmp_path, files[1])


def test_clients_that_write_to_the_bucket_themselves(
    provider: Provider, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEFAULT_ARTIFACT_ROOT: the client has credentials of its own, and the server only knows the address."""
    with google_server() as server:
        emulator = {"STORAGE_EMULATOR_HOST": server.url}
        settings = {"ARTIFACTS_DESTINATION": "", "DEFAULT_ARTIFACT_ROOT": "gs://artifacts/root"}
        with running(Gate(tmp_path / "gate", provider, **settings, **emulator)) as gate:
            client = client_of(gate, None, monkeypatch, **emulator)
            round_trip(client, "by themselves", tmp_path, *files)
            (name,) = [name for name in server.names() if name.endswith("/small.txt")]
            run = name.split("/")[2]
            assert name == f"root/1/{run}/artifacts/a folder/small.txt"
            # MLflow's UI shows it all the same: the server reads the bucket for it.
            asked = {"run_id": run, "path": "a folder/small.txt"}
            shown = gate.session().get(f"{gate.url}/get-artifact", params=asked, timeout=30)
            assert shown.content == files[1].read_bytes()
            # And nothing is proxied.
            assert gate.session().put(f"{gate.url}{API}/artifacts/x", data=b"x", timeout=30).status_code == 503
