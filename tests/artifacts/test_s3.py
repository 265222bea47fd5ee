"""What holds on S3 alone: rights and credentials by name, remains of interrupted uploads, long listings, MLflow's
variables.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from gatehouse.artifacts.stores.base import Denied, StoreError
from gatehouse.artifacts.stores.s3 import PART, S3Store
from local.proxy_binary import ROOT
from tests.artifacts.object_stores import BUCKET, Server, s3_server, versitygw

#: Another account of the store, which may do what a test's policy says.
OTHER = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other-secret"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as part:
        make = [str(versitygw()), "admin", "--endpoint-url", part.environment["MLFLOW_S3_ENDPOINT_URL"]]
        make += [
            "--access",
            part.environment["AWS_ACCESS_KEY_ID"],
            "--secret",
            part.environment["AWS_SECRET_ACCESS_KEY"],
        ]
        make += ["create-user", "--role", "user", "--access", OTHER["AWS_ACCESS_KEY_ID"]]
        subprocess.run([*make, "--secret", OTHER["AWS_SECRET_ACCESS_KEY"]], check=True, capture_output=True)
        yield part


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a server that may do everything; tests change it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def store(server: Server, environment: pytest.MonkeyPatch) -> S3Store:  # noqa: ARG001
    return S3Store(server.destination)


@pytest.fixture
def bucket(environment: pytest.MonkeyPatch) -> Any:  # noqa: ARG001
    """The client of the bucket's owner."""
    endpoint = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    return botocore.session.get_session().create_client("s3", endpoint_url=endpoint)


def least_rights() -> dict[str, Any]:
    """Return the policy that docs/stores.md tells to grant, for the tests' bucket."""
    text = re.search(r"<!-- policy -->\s+```json(.*?)```", (ROOT / "docs/stores.md").read_text(), re.DOTALL)
    assert text
    policy: dict[str, Any] = json.loads(text[1].replace("BUCKET", BUCKET))
    return policy


def grant(bucket: Any, policy: dict[str, Any]) -> None:
    """Let the other account do what a policy says; a bucket's policy names the account besides."""
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": [OTHER["AWS_ACCESS_KEY_ID"]]}
    bucket.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))


def as_other(environment: pytest.MonkeyPatch, server: Server) -> S3Store:
    for name, value in OTHER.items():
        environment.setenv(name, value)
    return S3Store(server.destination)


def interrupted(store: S3Store, path: str) -> None:
    """Leave an upload as a killed server does: parts, and nobody who would end it."""
    sink = store.create(path)
    sink.write(bytes(PART + 1))
    sink.write(bytes(PART))
    for tag in sink._tags:
        tag.result()


LATER = timedelta(hours=1)


def test_the_documented_rights_are_enough(bucket: Any, server: Server, environment: pytest.MonkeyPatch) -> None:
    grant(bucket, least_rights())
    store = as_other(environment, server)
    store.check()
    interrupted(store, "least/model.bin")
    swept = list(store.sweep(datetime.now(timezone.utc) + LATER, dry_run=False))
    assert ("least/model.bin", 2 * PART) in swept


RIGHTS = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


def test_a_look_at_the_rights_writes_nothing(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Store, "create", lambda *_: pytest.fail("an object was written"))
    before = list(store.list(""))
    store.check()
    assert list(store.list("")) == before


@pytest.mark.parametrize("right", RIGHTS)
def test_a_missing_right_is_found_and_named_and_nothing_is_left(
    right: str, bucket: Any, server: Server, store: S3Store, environment: pytest.MonkeyPatch
) -> None:
    policy = least_rights()
    for statement in policy["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != right]
    grant(bucket, policy)
    before = list(store.list(""))
    with pytest.raises(Denied, match=rf"may not {right} on {BUCKET}"):
        as_other(environment, server).check()
    assert list(store.list("")) == before


def test_an_account_without_rights_gets_403_for_each_operation(
    bucket: Any, server: Server, store: S3Store, environment: pytest.MonkeyPatch
) -> None:
    sink = store.create("private.bin")
    sink.write(b"x")
    sink.commit()
    bucket.delete_bucket_policy(Bucket=BUCKET)
    other = as_other(environment, server)
    new = other.create("other.bin")
    new.write(b"y")
    operations: list[Callable[[], object]] = [
        lambda: other.stat("private.bin"),
        lambda: other.open("private.bin"),
        lambda: list(other.list("")),
        lambda: other.delete("private.bin"),
        new.commit,
        lambda: other.begin_multipart("other.bin", 2, 60),
    ]
    for operation in operations:
        with pytest.raises(Denied) as caught:
            operation()
        assert caught.value.status == 403
    assert store.stat("private.bin").size == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "doesn't know the server's access key; set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY isn't the secret of AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS credentials can't be used"),
        ({"AWS_PROFILE": "missing"}, "missing"),
    ],
)
def test_credentials_that_are_wrong_are_named_and_never_shown(
    change: dict[str, str], message: str, server: Server, environment: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        environment.setenv(name, value) if value else environment.delenv(name)
    with pytest.raises(Denied, match=message) as caught:
        S3Store(server.destination).check()
    secret = server.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in str(caught.value)
    assert "unknown" not in str(caught.value)


@pytest.mark.usefixtures("environment")
def test_a_bucket_that_isnt_there_is_named() -> None:
    with pytest.raises(StoreError, match="There is no bucket nowhere; create it"):
        S3Store("s3://nowhere/mlflow").check()


def test_a_profile_brings_the_credentials(server: Server, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = "\n".join(f"{name.lower()} = {os.environ[name]}" for name in OTHER)
    (tmp_path / "credentials").write_text(f"[team]\n{profile}\n")
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    environment.setenv("AWS_PROFILE", "team")
    for name in OTHER:
        environment.delenv(name)
    S3Store(server.destination).check()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MLFLOW_S3_IGNORE_TLS", "true", "AWS_CA_BUNDLE"),
        ("MLFLOW_S3_UPLOAD_EXTRA_ARGS", "{", "isn't a JSON object"),
        ("MLFLOW_S3_UPLOAD_EXTRA_ARGS", "[1]", "isn't a JSON object"),
        ("MLFLOW_S3_UPLOAD_EXTRA_ARGS", '{"Bucket": "another"}', "has Bucket; it may have"),
        ("MLFLOW_S3_ENDPOINT_URL", "store.example.com", "settings of S3 can't be used"),
        ("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "sideways", "settings of S3 can't be used"),
    ],
)
def test_a_setting_that_cant_be_used_is_refused(
    name: str, value: str, message: str, server: Server, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(name, value)
    with pytest.raises(StoreError, match=message):
        S3Store(server.destination)


@pytest.mark.parametrize("size", [1, PART + 1], ids=["in one request", "in parts"])
def test_extra_arguments_go_with_each_upload(
    size: int, bucket: Any, server: Server, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", '{"Metadata": {"team": "vision"}, "ContentType": "text/x-own"}')
    sink = S3Store(server.destination).create("extra.bin")
    sink.write(bytes(size))
    sink.commit()
    found = bucket.head_object(Bucket=BUCKET, Key="mlflow/extra.bin")
    assert (found["Metadata"], found["ContentType"]) == ({"team": "vision"}, "text/x-own")


def test_remains_of_interrupted_uploads_are_listed_then_removed(bucket: Any, store: S3Store) -> None:
    interrupted(store, "swept/model.bin")
    bucket.create_multipart_upload(Bucket=BUCKET, Key="elsewhere/model.bin")
    now = datetime.now(timezone.utc)
    assert "swept/model.bin" not in dict(store.sweep(now - LATER, dry_run=False)), "it may be under way still"
    for dry_run in (True, False):
        assert dict(store.sweep(now + LATER, dry_run)).get("swept/model.bin") == 2 * PART
    assert list(store.sweep(now + LATER, dry_run=True)) == []
    left = [upload["Key"] for upload in bucket.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
    assert left == ["elsewhere/model.bin"], "what isn't under the destination isn't Gatehouse's"


def test_a_given_up_upload_leaves_no_parts_to_pay_for(bucket: Any, store: S3Store) -> None:
    sink = store.create("given-up.bin")
    sink.write(bytes(3 * PART))
    sink.abort()
    keys = [upload["Key"] for upload in bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())]
    assert "mlflow/given-up.bin" not in keys


def test_a_folder_of_more_than_a_page_is_listed_and_deleted_whole(server: Server, store: S3Store) -> None:
    # The store's objects are files; so many are made faster there than through the protocol.
    folder = server.folder / "data" / BUCKET / "mlflow" / "many"
    (folder / "sub").mkdir(parents=True)
    names = [f"{number:04}.txt" for number in range(2100)]
    for name in names:
        (folder / name).write_bytes(b"x")
        (folder / "sub" / name).write_bytes(b"x")
    assert [entry.name for entry in store.list("many")] == [*names, "sub"]
    store.delete("many")
    assert list(store.list("many")) == []
    assert list(store.list("many/sub")) == []


class Seen(Exception):
    """Ends a request before it is sent."""


@pytest.mark.parametrize("endpoint", ["http://store.example", "https://store.example"])
def test_the_digest_of_what_is_sent_is_signed(server: Server, environment: pytest.MonkeyPatch, endpoint: str) -> None:
    """botocore leaves it out over HTTPS where another checksum goes with the bytes; here none does."""
    environment.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
    store = S3Store(server.destination)
    headers: dict[str, Any] = {}

    def look(request: Any, **_: object) -> None:
        headers.update(request.headers)
        raise Seen

    store._client.meta.events.register("before-send.s3.PutObject", look)
    sink = store.create("model.bin", 5)
    sink.write(b"bytes")
    with pytest.raises(Seen):
        sink.commit()
    signed = headers["X-Amz-Content-SHA256"]
    assert (signed.decode() if isinstance(signed, bytes) else signed) == hashlib.sha256(b"bytes").hexdigest()
