"""Artifacts on Amazon S3, and on stores that speak its protocol.

Credentials are botocore's own chain: keys, a profile, a role by web identity, the container's or the instance's role.
MLflow's variables for S3 hold here too: MLFLOW_S3_ENDPOINT_URL, MLFLOW_S3_UPLOAD_EXTRA_ARGS,
MLFLOW_S3_EXPECTED_BUCKET_OWNER, MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)

from gatehouse.artifacts.stores.base import (
    PIECE,
    CannotSign,
    Damaged,
    Denied,
    Entry,
    Full,
    Multipart,
    NotFound,
    SignedUrl,
    Source,
    Stat,
    Store,
    StoreError,
    content_type,
)
from gatehouse.artifacts.stores.parts import MIB, Lane, PartedSink

#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MOST_PARTS = 10_000
#: The least that a part may have, but for the last one; so much each upload buffers.
PART = 5 * MIB
#: Keys that one DeleteObjects takes.
BATCH = 1000
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
#: The first one included; pauses grow from 1 s.
ATTEMPTS = 4
#: Connections kept: MLflow's calls, the transfers, and the parts under way.
CONNECTIONS = 40

#: Faults of a connection in the middle of a download, after which the rest can be asked for again.
INTERRUPTIONS = (ReadTimeoutError, ResponseStreamingError, IncompleteReadError)
NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
    SSOError,
)

#: What S3 says of credentials (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html): which one is
#: wrong, and the fix.
BAD_CREDENTIALS = {
    "InvalidAccessKeyId": (
        "doesn't know the server's access key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that exists"
    ),
    "SignatureDoesNotMatch": (
        "refuses the server's signature; AWS_SECRET_ACCESS_KEY isn't the secret of AWS_ACCESS_KEY_ID"
    ),
    "ExpiredToken": (
        "says that the server's session token has expired; renew AWS_SESSION_TOKEN with its keys, or use a role"
    ),
    "ExpiredTokenException": (
        "says that the server's session token has expired; renew AWS_SESSION_TOKEN with its keys, or use a role"
    ),
    "TokenRefreshRequired": (
        "says that the server's session token has expired; renew AWS_SESSION_TOKEN with its keys, or use a role"
    ),
    "InvalidToken": "refuses the server's session token; AWS_SESSION_TOKEN must be of the same credentials as the keys",
    "InvalidIdentityToken": (
        "refuses the token of AWS_WEB_IDENTITY_TOKEN_FILE; the role's trust policy must name its issuer and audience"
    ),
    "RequestTimeTooSkewed": "says that the server's clock is wrong; set it",
    "AuthorizationHeaderMalformed": (
        "was asked in another region than the bucket's; set AWS_DEFAULT_REGION to the bucket's"
    ),
}
MISSING = {"NoSuchKey", "404", "NoSuchUpload"}
#: The object is another one than asked for, or shorter.
REPLACED = {"PreconditionFailed", "412", "InvalidRange", "416"}
DAMAGED = {
    "BadDigest",
    "InvalidDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "InvalidPart",
    "InvalidPartOrder",
    "EntityTooSmall",
}
FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "507"}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _md5(data: bytes | bytearray) -> str:
    return _base64(hashlib.md5(data, usedforsecurity=False).digest())


def _crc32(value: int) -> str:
    return _base64(value.to_bytes(4, "big"))


def _tag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _time(answer: dict[str, Any]) -> datetime | None:
    found: datetime | None = answer.get("LastModified")
    return found.astimezone(timezone.utc) if found else None


def _extra_arguments() -> dict[str, Any]:
    """Return what the operator wants to be sent with requests, in boto3's terms."""
    name = "MLFLOW_S3_UPLOAD_EXTRA_ARGS"
    extra: dict[str, Any] = {}
    if text := os.environ.get(name):
        from s3transfer.manager import TransferManager

        try:
            extra = dict(json.loads(text))
        except (TypeError, ValueError):
            raise StoreError(
                f'{name} isn\'t a JSON object; use for example {{"ServerSideEncryption": "aws:kms"}}'
            ) from None
        known = {item for item in TransferManager.ALLOWED_UPLOAD_ARGS if not item.startswith(("Checksum", "If"))}
        if unknown := sorted(set(extra) - known):
            raise StoreError(f"{name} has {', '.join(unknown)}; it may have {', '.join(sorted(known))}")
    if owner := os.environ.get("MLFLOW_S3_EXPECTED_BUCKET_OWNER"):
        extra["ExpectedBucketOwner"] = owner
    return extra


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    """Send the checksum that every store knows; botocore sends only newer ones, which older stores refuse."""
    params["headers"]["Content-MD5"] = _md5(params["body"])


def _make_client() -> Any:
    if os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in {"true", "1"}:
        raise StoreError(
            "MLFLOW_S3_IGNORE_TLS would let anyone on the way replace a model; "
            "unset it, and name the store's certificate in AWS_CA_BUNDLE"
        )
    try:
        config = Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            # Checksums are set below, in a form that needs no chunked encoding, which older stores store as content.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE") or "auto"},
        )
        client = botocore.session.get_session().create_client(
            "s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None, config=config
        )
    except NO_CREDENTIALS as error:
        raise Denied(f"The server's AWS credentials can't be used: {error}") from None
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"The settings of S3 can't be used: {error}") from None
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    return client


def _takes_whole_checksums(client: Any) -> bool:
    """Tell whether the store verifies CRC-32 over the whole object: AWS does, another one if its operator says so."""
    if said := os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION"):
        return said.lower() == "when_supported"
    return str(urlsplit(client.meta.endpoint_url).hostname).endswith((".amazonaws.com", ".amazonaws.com.cn"))


class S3Source(Source):
    """A download that goes on where the connection broke."""

    def __init__(self, store: S3Store, path: str, start: int, stop: int | None, etag: str | None) -> None:
        self._store, self._path, self._position, self._stop = store, path, start, stop
        answer = self._ask(etag)
        span = answer.get("ContentRange")
        size = int(span.rpartition("/")[2]) if span else int(answer["ContentLength"])
        self.stat = Stat(size, _tag(answer), _time(answer))
        self._body = answer["Body"]
        self._left = int(answer["ContentLength"])

    def _ask(self, etag: str | None) -> dict[str, Any]:
        parameters: dict[str, Any] = {"Key": self._store.key(self._path), "ChecksumMode": "ENABLED"}
        if self._position or self._stop is not None:
            last = "" if self._stop is None else self._stop - 1
            parameters["Range"] = f"bytes={self._position}-{last}"
        if etag:
            parameters["IfMatch"] = f'"{etag}"'
        return self._store.call("get_object", "s3:GetObject", **parameters)

    def read(self) -> bytes:
        for attempt in range(ATTEMPTS):
            try:
                data = bytes(self._body.read(PIECE))
            except FlexibleChecksumError:
                raise Damaged("The artifact doesn't have the checksum that the store names.") from None
            except INTERRUPTIONS as error:
                self._body.close()
                if attempt == ATTEMPTS - 1:
                    raise StoreError(
                        f"The artifact store closed the connection before the end: {type(error).__name__}"
                    ) from None
                self._body = self._ask(self.stat.etag)["Body"]
            else:
                self._position += len(data)
                self._left -= len(data)
                if not data and self._left:
                    raise Damaged(f"The artifact store sent {self._left} bytes less than it announced.")
                return data
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._body.close()


class S3Sink(PartedSink):
    """One PutObject, or a multipart upload: neither shows anything under the name before it is whole.

    Where no CRC-32 goes with the bytes, botocore signs their SHA-256 (``S3SigV4Auth._should_sha256_sign_payload``), and
    the store refuses others. An MD5 besides took a third of an upload's processor time.
    """

    def __init__(self, store: S3Store, path: str, size: int | None) -> None:
        super().__init__(store.lane, size, PART, MOST_PARTS)
        self._store, self._key, self._type = store, store.key(path), content_type(path)
        self._upload: dict[str, str] = {}
        self._crc = 0
        self._part_crcs: dict[int, str] = {}

    def write(self, data: bytes) -> None:
        if self._store.whole_checksums:
            self._crc = zlib.crc32(data, self._crc)
        super().write(data)

    def _whole(self) -> dict[str, str]:
        return {"ChecksumCRC32": _crc32(self._crc)} if self._store.whole_checksums else {}

    def _put_whole(self, data: bytearray) -> Stat:
        answer = self._store.call(
            "put_object",
            "s3:PutObject",
            Key=self._key,
            Body=data,
            ContentType=self._type,
            **self._whole(),
        )
        return Stat(self.size, _tag(answer))

    def _begin(self) -> None:
        checksum = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"} if self._store.whole_checksums else {}
        answer = self._store.call(
            "create_multipart_upload", "s3:PutObject", Key=self._key, ContentType=self._type, **checksum
        )
        self._upload = {"Key": self._key, "UploadId": answer["UploadId"]}

    def _put_part(self, number: int, data: bytearray) -> str:
        checksum = {}
        if self._store.whole_checksums:
            checksum = {"ChecksumCRC32": _crc32(zlib.crc32(data))}
            self._part_crcs[number] = checksum["ChecksumCRC32"]
        return _tag(
            self._store.call(
                "upload_part",
                "s3:PutObject",
                **self._upload,
                PartNumber=number,
                Body=data,
                **checksum,
            )
        )

    def _join(self, tags: list[str]) -> Stat:
        parts: list[dict[str, Any]] = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        whole = self._whole()
        if whole:
            whole["ChecksumType"] = "FULL_OBJECT"
            for part in parts:
                part["ChecksumCRC32"] = self._part_crcs[part["PartNumber"]]
        return Stat(self.size, self._store.join(self._upload, parts, **whole))

    def _discard(self) -> None:
        self._store.call("abort_multipart_upload", "s3:AbortMultipartUpload", **self._upload)


class S3Store(Store):
    """The objects of a bucket under a prefix."""

    def __init__(self, destination: str) -> None:
        """Take ``s3://bucket/path``; asks nothing of the store yet.

        Raises:
            StoreError: if a setting can't be used, or there are no credentials at all.
        """
        parts = urlsplit(destination)
        self.bucket, self._root = parts.netloc, parts.path.strip("/")
        self._extra = _extra_arguments()
        self._client = _make_client()
        self.whole_checksums = _takes_whole_checksums(self._client)
        self.lane = Lane()

    def key(self, path: str) -> str:
        return f"{self._root}/{path}".strip("/")

    def _folder(self, path: str) -> str:
        key = self.key(path)
        return f"{key}/" if key else ""

    def _arguments(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Add the bucket, and of the operator's extra arguments those that the operation knows."""
        operation = self._client.meta.method_to_api_mapping[method]
        known = self._client.meta.service_model.operation_model(operation).input_shape.members
        extra = {name: value for name, value in self._extra.items() if name in known}
        return {**parameters, **extra, "Bucket": self.bucket}

    def call(self, method: str, right: str, **parameters: Any) -> dict[str, Any]:
        """Make a call of the client; ``right`` is the permission that it takes."""
        with self._explained(right):
            answer: dict[str, Any] = getattr(self._client, method)(**self._arguments(method, parameters))
            return answer

    def _pages(self, method: str, right: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        with self._explained(right):
            yield from self._client.get_paginator(method).paginate(**self._arguments(method, parameters))

    @contextlib.contextmanager
    def _explained(self, right: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._explain(error, right) from None
        except NO_CREDENTIALS as error:
            raise Denied(
                f"The server has no AWS credentials that can be used ({type(error).__name__}); "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
            ) from None
        except BotoCoreError as error:
            where = urlsplit(self._client.meta.endpoint_url).netloc
            raise StoreError(f"The artifact store at {where} can't be used: {type(error).__name__}") from None

    def _explain(self, error: ClientError, right: str) -> StoreError:
        """Say what an answer means; its text is left out where it could repeat a credential."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if error.operation_name.startswith("AssumeRole"):
            return Denied(f"The server can't assume the role of AWS_ROLE_ARN ({code}); mend the role's trust policy")
        if code in BAD_CREDENTIALS:
            return Denied(f"The artifact store {BAD_CREDENTIALS[code]}")
        if code == "NoSuchBucket":
            return StoreError(f"There is no bucket {self.bucket}; create it, or correct ARTIFACTS_DESTINATION")
        if code in MISSING:
            return NotFound("There is no such artifact, or no such upload.")
        if code in REPLACED:
            return NotFound("The artifact was replaced by another version meanwhile.")
        if code in DAMAGED:
            return Damaged(f"What arrived at the artifact store isn't what was sent ({code}). Nothing was stored.")
        if code in FULL or status == 507:
            return Full(f"The artifact store has no room left ({code}).")
        if status in {401, 403}:
            also = " (s3:ListBucket too: without it a missing object is refused as well)" if code == "403" else ""
            return Denied(f"The server's account may not {right} on {self.bucket}; grant it{also}")
        return StoreError(f"The artifact store answered {code or status} to {error.operation_name}")

    def stat(self, path: str) -> Stat:
        answer = self.call("head_object", "s3:GetObject", Key=self.key(path))
        return Stat(int(answer["ContentLength"]), _tag(answer), _time(answer))

    def open(self, path: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> Source:
        return S3Source(self, path, start, stop, etag)

    def create(self, path: str, size: int | None = None) -> S3Sink:
        return S3Sink(self, path, size)

    def list(self, path: str) -> Iterator[Entry]:
        folder = self._folder(path)
        entries = []
        for page in self._pages("list_objects_v2", "s3:ListBucket", Prefix=folder, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                entries.append(Entry(item["Prefix"][len(folder) : -1], True))
            for item in page.get("Contents", ()):
                entries.append(Entry(item["Key"][len(folder) :], False, int(item["Size"])))
        # A folder's own marker, as consoles make them, has no name in it.
        yield from sorted((entry for entry in entries if entry.name), key=lambda entry: entry.name)

    def delete(self, path: str) -> None:
        if not path:
            raise Denied("The root of the artifact store isn't deleted.")
        self.call("delete_object", "s3:DeleteObject", Key=self.key(path))
        for page in self._pages("list_objects_v2", "s3:ListBucket", Prefix=self._folder(path), MaxKeys=BATCH):
            if keys := [{"Key": item["Key"]} for item in page.get("Contents", ())]:
                answer = self.call("delete_objects", "s3:DeleteObject", Delete={"Objects": keys, "Quiet": True})
                for failed in answer.get("Errors", ()):
                    status = 403 if failed.get("Code") == "AccessDenied" else 500
                    told = {"Error": failed, "ResponseMetadata": {"HTTPStatusCode": status}}
                    raise self._explain(ClientError(told, "DeleteObjects"), "s3:DeleteObject")

    def check(self) -> None:
        # Each of these says whether it is allowed, and changes nothing: an object that isn't there (deleted without a
        # condition, it would leave a marker in a bucket with versions), an upload that is cancelled.
        key = self.key(f".gatehouse-check-{secrets.token_hex(8)}")
        self.call("list_objects_v2", "s3:ListBucket", Prefix=self._folder(""), MaxKeys=1)
        with contextlib.suppress(NotFound):
            self.call("get_object", "s3:GetObject", Key=key)
        with contextlib.suppress(NotFound):
            self.call("delete_object", "s3:DeleteObject", Key=key, IfMatch=f'"{secrets.token_hex(16)}"')
        upload = self.call("create_multipart_upload", "s3:PutObject", Key=key)["UploadId"]
        self.call("abort_multipart_upload", "s3:AbortMultipartUpload", Key=key, UploadId=upload)

    def sweep(self, before: datetime, dry_run: bool) -> Iterator[tuple[str, int]]:
        prefix = self._folder("")
        for page in self._pages("list_multipart_uploads", "s3:ListBucketMultipartUploads", Prefix=prefix):
            for item in page.get("Uploads", ()):
                if item["Initiated"] >= before:
                    continue
                upload = {"Key": item["Key"], "UploadId": item["UploadId"]}
                with contextlib.suppress(NotFound):  # finished or thrown away meanwhile
                    pages = self._pages("list_parts", "s3:ListMultipartUploadParts", **upload)
                    size = sum(int(part["Size"]) for parts in pages for part in parts.get("Parts", ()))
                    if not dry_run:
                        self.call("abort_multipart_upload", "s3:AbortMultipartUpload", **upload)
                    yield item["Key"][len(prefix) :], size

    def _sign(self, method: str, seconds: int, **parameters: Any) -> SignedUrl:
        try:
            url = self._client.generate_presigned_url(
                method, Params=self._arguments(method, parameters), ExpiresIn=seconds
            )
        except BotoCoreError as error:
            raise CannotSign(
                f"The server has no AWS credentials to sign with ({type(error).__name__}); send the bytes through the "
                "server."
            ) from None
        return SignedUrl(url, {})

    def sign_download(self, path: str, seconds: int) -> SignedUrl:
        name = quote(path.rpartition("/")[2], safe="")
        return self._sign(
            "get_object",
            seconds,
            Key=self.key(path),
            ResponseContentType="application/octet-stream",
            ResponseContentDisposition=f"attachment; filename*=UTF-8''{name}",
        )

    def begin_multipart(self, path: str, parts: int, seconds: int) -> Multipart:
        if not 1 <= parts <= MOST_PARTS:
            raise CannotSign(f"S3 takes 1 to {MOST_PARTS} parts, not {parts}; send larger ones.")
        key = self.key(path)
        self._sign("upload_part", seconds, Key=key, UploadId="none", PartNumber=1)
        upload = self.call("create_multipart_upload", "s3:PutObject", Key=key, ContentType=content_type(path))
        target = {"Key": key, "UploadId": upload["UploadId"]}
        urls = [self._sign("upload_part", seconds, **target, PartNumber=number) for number in range(1, parts + 1)]
        return Multipart(target["UploadId"], urls)

    def complete_multipart(self, path: str, upload_id: str, etags: Sequence[str]) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self.join({"Key": self.key(path), "UploadId": upload_id}, parts)

    def join(self, upload: dict[str, str], parts: Sequence[dict[str, Any]], **checksum: str) -> str:
        """Complete a multipart upload; return the entity tag."""
        answer = self.call(
            "complete_multipart_upload", "s3:PutObject", **upload, MultipartUpload={"Parts": parts}, **checksum
        )
        return _tag(answer)

    def abort_multipart(self, path: str, upload_id: str) -> None:
        with contextlib.suppress(NotFound):
            self.call("abort_multipart_upload", "s3:AbortMultipartUpload", Key=self.key(path), UploadId=upload_id)
