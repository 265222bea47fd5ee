"""Google's side of signed URLs: the account's signer, and the bucket that looks at signatures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.artifacts.google_server import google_server
from tests.artifacts.signed_bucket import SignedBucket
from tests.client.googleapis import ACCOUNT, STORAGE, Google

BUCKET = "team-artifacts"


@pytest.fixture(scope="package")
def signed_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Google, SignedBucket]]:
    """Google's endpoints with a bucket behind storage.googleapis.com, kept by fake-gcs-server."""
    with google_server(f"https://{STORAGE}") as upstream:
        requests.post(f"{upstream}/storage/v1/b", json={"name": BUCKET}, timeout=10).raise_for_status()
        google = Google(tmp_path_factory.mktemp("google"), lambda **_: "")
        bucket = SignedBucket(upstream, BUCKET, ACCOUNT, google.key.public_key(), tmp_path_factory.mktemp("bucket"))
        google.bucket = bucket
        yield google, bucket
        google.stop()
