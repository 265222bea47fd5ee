"""Signed URLs without a private key: each opens one thing, for a while, and nothing is begun that can't be signed."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
import requests
from google.auth import compute_engine
from google.auth.compute_engine import _metadata
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import credentials as persons

from gatehouse.artifacts.stores import google_signing
from gatehouse.artifacts.stores.base import CannotSign, NotFound, SignedUrl
from gatehouse.artifacts.stores.google_signing import BadUpload, GoogleSigning
from tests.artifacts.signed_bucket import BUCKET, MIN_PART, SignedBucket, signed_google
from tests.client.googleapis import ACCOUNT, Google
from tests.support import wait_for

NAMES = ["plain.bin", "a folder/with spaces & signs?x=1#y%2F+~*'().bin", "Größe/モデル/🙂.pkl"]


@pytest.fixture(scope="module")
def signed_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Google, SignedBucket]]:
    """Google's endpoints, and the bucket."""
    with signed_google(tmp_path_factory.mktemp("google")) as parts:
        yield parts


@pytest.fixture
def cloud_run(
    signed_bucket: tuple[Google, SignedBucket], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Google, SignedBucket]]:
    """This process as it would be on Cloud Run: a metadata server, and no key."""
    google, bucket = signed_bucket
    for name, value in google.as_googleapis.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", google.address)
    yield google, bucket
    google.may_sign, google.before_signing = True, lambda: None
    bucket.uploads.clear()


@pytest.fixture
def signing(google: Google) -> GoogleSigning:
    """What the server signs with there."""
    assert google.may_sign
    return GoogleSigning(AuthorizedSession(compute_engine.Credentials()), BUCKET)


@pytest.fixture
def bucket(cloud_run: tuple[Google, SignedBucket]) -> SignedBucket:
    return cloud_run[1]


@pytest.fixture
def google(cloud_run: tuple[Google, SignedBucket]) -> Google:
    return cloud_run[0]


def stored(bucket: SignedBucket, name: str) -> bytes | None:
    """Return an object's bytes as fake-gcs-server has them."""
    address = f"http://127.0.0.1:{bucket.port}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media"
    answer = requests.get(address, timeout=10)
    return answer.content if answer.ok else None


def generation(bucket: SignedBucket, name: str) -> str:
    """Return an object's version."""
    address = f"http://127.0.0.1:{bucket.port}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}"
    return str(requests.get(address, timeout=10).json()["generation"])


def put(part: SignedUrl, data: bytes) -> str:
    """Upload a part as MLflow's client does; return its entity tag."""
    answer = requests.put(part.url, data=data, headers=part.headers, timeout=30)
    answer.raise_for_status()
    return answer.headers["ETag"]


def upload(signing: GoogleSigning, name: str, *parts: bytes) -> None:
    """Upload an object in parts by signed URLs alone."""
    begun = signing.begin(name, len(parts), 600)
    etags = [put(url, data) for url, data in zip(begun.parts, parts, strict=True)]
    signing.complete(name, begun.upload_id, etags)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_go_up_and_down_by_signed_urls_alone(signing: GoogleSigning, bucket: SignedBucket, name: str) -> None:
    first, second = b"1" * MIN_PART, name.encode()
    upload(signing, name, first, second)
    assert stored(bucket, name) == first + second
    url = signing.download(name, 60, generation(bucket, name)).url
    assert requests.get(url, timeout=10).content == first + second
    part = requests.get(url, headers={"Range": f"bytes={MIN_PART}-"}, timeout=10)
    assert (part.status_code, part.content) == (206, second)


def test_a_url_opens_nothing_else(signing: GoogleSigning, bucket: SignedBucket) -> None:
    upload(signing, "mine.bin", b"mine")
    upload(signing, "other.bin", b"other")
    url = signing.download("mine.bin", 60, generation(bucket, "mine.bin")).url
    assert requests.get(url, timeout=10).status_code == 200
    changed: dict[str, Callable[[], requests.Response]] = {
        "another object": lambda: requests.get(url.replace("mine.bin", "other.bin"), timeout=10),
        "a write": lambda: requests.put(url, data=b"theirs", timeout=10),
        "a deletion": lambda: requests.delete(url, timeout=10),
        "a longer life": lambda: requests.get(url.replace("X-Goog-Expires=60", "X-Goog-Expires=600000"), timeout=10),
        "one more option": lambda: requests.get(f"{url}&versions=true", timeout=10),
        "no signature": lambda: requests.get(url.partition("?")[0], timeout=10),
    }
    assert {what: ask().status_code for what, ask in changed.items()} == dict.fromkeys(changed, 403)


def test_a_url_dies_when_its_time_is_over(signing: GoogleSigning, bucket: SignedBucket) -> None:
    upload(signing, "short.bin", b"short")
    url = signing.download("short.bin", 1, generation(bucket, "short.bin")).url
    wait_for(lambda: requests.get(url, timeout=10).status_code == 403, "the end of the URL's life", 10)


def test_without_the_right_to_sign_nothing_is_begun_and_the_right_is_named(
    signing: GoogleSigning, bucket: SignedBucket, google: Google
) -> None:
    google.may_sign = False
    for sign in (lambda: signing.begin("big.bin", 3, 600), lambda: signing.download("big.bin", 60, "1")):
        with pytest.raises(CannotSign) as caught:
            sign()
        assert str(caught.value) == (
            f"{ACCOUNT} lacks iam.serviceAccounts.signBlob: grant it roles/iam.serviceAccountTokenCreator on itself."
        )
    assert not bucket.uploads


def test_a_right_lost_halfway_leaves_no_upload_behind(
    signing: GoogleSigning, bucket: SignedBucket, google: Google
) -> None:
    asked: list[int] = []

    def lose_it() -> None:
        asked.append(1)
        google.may_sign = len(asked) < 10

    google.before_signing = lose_it
    with pytest.raises(CannotSign):
        signing.begin("big.bin", 40, 600)
    assert len(asked) >= 10
    assert not bucket.uploads


def test_a_signer_that_hangs_is_given_up(
    signing: GoogleSigning, bucket: SignedBucket, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google_signing, "SIGN_LIMIT_S", 0.5)
    go_on = threading.Event()
    google.before_signing = lambda: None if not bucket.uploads else (go_on.wait(30), None)[1]
    try:
        with pytest.raises(CannotSign, match="use larger parts"):
            signing.begin("big.bin", 40, 600)
        assert not bucket.uploads
    finally:
        go_on.set()


def test_parts_that_make_no_artifact_are_refused(signing: GoogleSigning, bucket: SignedBucket) -> None:
    begun = signing.begin("bad.bin", 2, 600)
    etags = [put(part, b"too small") for part in begun.parts]
    with pytest.raises(BadUpload, match="EntityTooSmall"):
        signing.complete("bad.bin", begun.upload_id, etags)
    with pytest.raises(BadUpload, match="InvalidPart"):
        signing.complete("bad.bin", begun.upload_id, ['"other"', etags[1]])
    for upload_id in ("none", f"{begun.upload_id}&uploads=", "../x", ""):
        with pytest.raises((NotFound, BadUpload)):
            signing.complete("bad.bin", upload_id, etags)
    with pytest.raises(NotFound):
        signing.complete("another.bin", begun.upload_id, etags)
    assert stored(bucket, "bad.bin") is None


def test_an_aborted_upload_leaves_nothing_and_the_old_artifact_stays(
    signing: GoogleSigning, bucket: SignedBucket
) -> None:
    upload(signing, "kept.bin", b"old")
    begun = signing.begin("kept.bin", 1, 600)
    put(begun.parts[0], b"new")
    signing.abort("kept.bin", begun.upload_id)
    signing.abort("kept.bin", begun.upload_id)
    assert not bucket.uploads
    assert stored(bucket, "kept.bin") == b"old"


def test_interrupted_uploads_are_found_with_their_sizes(signing: GoogleSigning) -> None:
    begun = signing.begin("root/half.bin", 2, 600)
    put(begun.parts[0], b"x" * 1000)
    signing.begin("elsewhere/half.bin", 1, 600)
    now = datetime.datetime.now(datetime.timezone.utc)
    assert list(signing.interrupted("root/", now)) == [("root/half.bin", begun.upload_id, 1000)]
    assert list(signing.interrupted("root/", now - datetime.timedelta(hours=1))) == []


@pytest.mark.parametrize(
    "credentials",
    [AnonymousCredentials(), persons.Credentials("token", expiry=datetime.datetime(2100, 1, 1))],
    ids=["anonymous", "a person's"],
)
def test_credentials_of_no_service_account_sign_nothing(bucket: SignedBucket, credentials: object) -> None:
    with pytest.raises(CannotSign, match="no service account"):
        GoogleSigning(AuthorizedSession(credentials), BUCKET).begin("x", 1, 60)
    assert not bucket.uploads


def test_a_signer_that_is_down_is_no_lack_of_rights(signing: GoogleSigning, google: Google) -> None:
    google.down = True
    try:
        with pytest.raises(CannotSign, match="can't be reached, or doesn't answer"):
            signing.download("x", 60, "1")
    finally:
        google.down = False
