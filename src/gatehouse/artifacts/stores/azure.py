"""Artifacts on Azure Blob Storage and Data Lake Storage Gen2, whose blobs are the same ones under another name.

Credentials, the first that is set: AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCESS_KEY, and else azure-identity's
own chain (a service principal by AZURE_TENANT_ID, AZURE_CLIENT_ID and a secret, a workload's or a managed identity). A
connection string that has a BlobEndpoint and no key goes with that chain too: a private endpoint with a managed
identity.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote, urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
)
from azure.storage.blob import (
    BlobPrefix,
    BlobSasPermissions,
    BlobServiceClient,
    ContentSettings,
    ExponentialRetry,
    generate_blob_sas,
)
from requests import RequestException

from gatehouse.artifacts.stores.base import (
    CannotSign,
    Conflict,
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

# It would log each request with its headers, and a download has many.
logging.getLogger("azure").setLevel(logging.WARNING)

#: https://learn.microsoft.com/azure/storage/blobs/scalability-targets: blocks of a block blob.
MOST_BLOCKS = 50_000
#: Bytes of a block, as long as 50,000 of them suffice; so much each upload buffers.
BLOCK = 4 * MIB
#: As many parts as MLflow's clients are signed at a time.
MOST_SIGNED = 10_000
#: Bytes of a download's requests: the service computes the MD5 of up to 4 MiB (Get Blob, x-ms-range-get-content-md5),
#: and the library holds each several times.
RANGE = MIB
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
#: Besides the first attempt, after pauses of 2 s and 4 s.
RETRIES = 2

BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
READ, WRITE, DELETE = f"{BLOBS}/read", f"{BLOBS}/write", f"{BLOBS}/delete"
DELEGATE = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"

#: What the service says of credentials (https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes),
#: and the fix.
BAD_CREDENTIALS = {
    "AuthenticationFailed": (
        "refuses the server's credentials; check AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCESS_KEY against "
        "the account's keys, or the identity's tenant"
    ),
    "InvalidAuthenticationInfo": "refuses the server's token; check AZURE_TENANT_ID against the account's tenant",
    "NoAuthenticationInformation": (
        "got no credentials; set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCESS_KEY or an identity"
    ),
    "KeyBasedAuthenticationNotPermitted": "takes no account keys; unset them, and give the server a managed identity",
    "AuthorizationFailure": (
        "refuses the server; check AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCESS_KEY against the account's "
        "keys, and let the server's network through the account's firewall"
    ),
    "AccountIsDisabled": "belongs to an account that is disabled",
}
DAMAGED = {"Md5Mismatch", "Crc64Mismatch", "InvalidMd5"}


def _tag(etag: object) -> str:
    return str(etag or "").strip('"')


def _block_id(upload: str, number: int) -> str:
    """Return a block's name, of this upload alone.

    Blocks of all uploads to a name lie together until one is committed.
    """
    return f"{upload}-{number:05d}"


def _make_client(account_url: str) -> BlobServiceClient:
    options: dict[str, Any] = {
        "retry_policy": ExponentialRetry(
            initial_backoff=0, increment_base=2, retry_total=RETRIES, random_jitter_range=1
        ),
        "connection_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # A part that fits goes in one request, which is whole or nothing.
        "max_single_put_size": BLOCK,
    }
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if not text:
        key = os.environ.get("AZURE_STORAGE_ACCESS_KEY")
        return BlobServiceClient(account_url, credential=key or _identity(), **options)
    lacks_key = not re.search(r"(?i)(^|;)\s*(AccountKey|SharedAccessSignature|UseDevelopmentStorage)\s*=", text)
    try:
        return BlobServiceClient.from_connection_string(text, credential=_identity() if lacks_key else None, **options)
    except ValueError:
        # The string has a key in it, so neither it nor what the library says of it is repeated.
        raise StoreError(
            "AZURE_STORAGE_CONNECTION_STRING isn't a connection string; copy it anew from the account's access keys"
        ) from None


def _identity() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


class AzureSource(Source):
    """A download in ranges of one version, each with the service's checksum of it; all of it against the stored one."""

    def __init__(self, store: AzureStore, path: str, start: int, stop: int | None, etag: str | None) -> None:
        self._store, self._path = store, path
        self.stat, md5 = store.look(path)
        if etag and etag != self.stat.etag:
            raise NotFound("The artifact was replaced by another version meanwhile.")
        self._position = start
        self._stop = self.stat.size if stop is None else min(stop, self.stat.size)
        self._expected = md5 if start == 0 and self._stop == self.stat.size else None
        self._md5 = hashlib.md5(usedforsecurity=False)

    def read(self) -> bytes:
        length = min(RANGE, self._stop - self._position)
        if length <= 0:
            if self._expected and self._md5.digest() != self._expected:
                raise Damaged("The artifact doesn't have the checksum that the store names.")
            return b""
        data = self._fetch(length)
        if len(data) != length:
            raise Damaged(f"The artifact store sent {len(data)} bytes of {length}.")
        self._position += length
        self._md5.update(data)
        return data

    def _fetch(self, length: int) -> bytes:
        blob = self._store.blob(self._path)
        for attempt in range(RETRIES + 1):
            try:
                with self._store.explained(READ):
                    data: bytes = blob.download_blob(
                        self._position,
                        length,
                        etag=f'"{self.stat.etag}"',
                        match_condition=MatchConditions.IfNotModified,
                        validate_content=True,
                        max_concurrency=1,
                    ).readall()
                    return data
            # The library retries a request, but not a body that breaks off while its checksum is computed.
            except RequestException as error:
                if attempt == RETRIES:
                    raise StoreError(
                        f"The artifact store closed the connection before the end: {type(error).__name__}"
                    ) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Each range is a request of its own: nothing stays open between them."""


class AzureSink(PartedSink):
    """One Put Blob, or blocks that a block list joins; blocks of an upload that was given up vanish within a week."""

    def __init__(self, store: AzureStore, path: str, size: int | None) -> None:
        super().__init__(store.lane, size, BLOCK, MOST_BLOCKS)
        self._store, self._path = store, path
        self._upload = secrets.token_hex(16)
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        self._md5.update(data)
        super().write(data)

    def _put_whole(self, data: bytearray) -> Stat:
        with self._store.explained(WRITE):
            answer = self._store.blob(self._path).upload_blob(
                bytes(data),
                overwrite=True,
                validate_content=True,
                content_settings=_content_settings(self._path, self._md5.digest()),
            )
        return Stat(self.size, _tag(answer["etag"]), answer["last_modified"])

    def _begin(self) -> None:
        """Blocks need no beginning."""

    def _put_part(self, number: int, data: bytearray) -> str:
        name, content = _block_id(self._upload, number), bytes(data)
        data.clear()  # the library takes nothing but bytes; the copy is enough
        with self._store.explained(WRITE):
            self._store.blob(self._path).stage_block(name, content, len(content), validate_content=True)
        return name

    def _join(self, tags: list[str]) -> Stat:
        return self._store.join(self._path, tags, self.size, self._md5.digest())

    def _discard(self) -> None:
        """The service has no way to delete blocks: it drops them a week after the last one came (Put Block)."""


def _content_settings(path: str, md5: bytes | None) -> ContentSettings:
    return ContentSettings(content_type=content_type(path), content_md5=bytearray(md5) if md5 else None)


class AzureStore(Store):
    """The blobs of a container under a prefix."""

    def __init__(self, destination: str) -> None:
        """Take ``wasbs://container@account.blob.core.windows.net/path`` or ``abfss://container@account.dfs…``.

        Raises:
            StoreError: if the address or a setting can't be used; nothing is asked of the service yet.
        """
        parts = urlsplit(destination)
        container, _, host = parts.netloc.rpartition("@")
        if not container or "." not in host:
            raise StoreError(
                f"ARTIFACTS_DESTINATION is {destination}; use {parts.scheme}://CONTAINER@ACCOUNT."
                f"{'dfs' if parts.scheme == 'abfss' else 'blob'}.core.windows.net/PATH"
            )
        self._container, self._root = container, parts.path.strip("/")
        self._service = _make_client(f"https://{host.replace('.dfs.', '.blob.', 1)}")
        self._client = self._service.get_container_client(container)
        self._delegation_lock = threading.Lock()
        self._delegation: tuple[Any, datetime] | None = None
        self.lane = Lane()

    def _key(self, path: str) -> str:
        return f"{self._root}/{path}".strip("/")

    def _folder(self, path: str) -> str:
        key = self._key(path)
        return f"{key}/" if key else ""

    def blob(self, path: str) -> Any:
        return self._client.get_blob_client(self._key(path))

    @contextlib.contextmanager
    def explained(self, right: str) -> Iterator[None]:
        """Turn the library's errors into the store's; ``right`` is the data action that the call takes."""
        try:
            yield
        except HttpResponseError as error:
            raise self._explain(error, right) from None
        except AzureError as error:
            where = urlsplit(self._service.url).netloc
            raise StoreError(f"The artifact store at {where} can't be used: {type(error).__name__}") from None

    def _explain(self, error: HttpResponseError, right: str) -> StoreError:
        """Say what an answer means; its text is left out where it could repeat a signature."""
        code = getattr(error, "error_code", None)
        code = str(getattr(code, "value", code) or "")
        if code in BAD_CREDENTIALS:
            return Denied(f"The artifact store {BAD_CREDENTIALS[code]}")
        if code in {"ContainerNotFound", "ContainerBeingDeleted"}:
            return StoreError(
                f"There is no container {self._container}; create it, or correct ARTIFACTS_DESTINATION ({code})"
            )
        if code == "InvalidBlockList":
            return Conflict("Another upload to the same name finished meanwhile; send the artifact again.")
        if error.status_code in {404, 412, 416}:
            return NotFound("There is no such artifact, or it was replaced by another version meanwhile.")
        if code in DAMAGED:
            return Damaged(f"What arrived at the artifact store isn't what was sent ({code}). Nothing was stored.")
        if error.status_code == 507:
            return Full("The artifact store has no room left.")
        if isinstance(error, ClientAuthenticationError) and error.status_code is None:
            return Denied(
                "The server has no Azure credentials that can be used; set AZURE_STORAGE_CONNECTION_STRING, "
                "AZURE_STORAGE_ACCESS_KEY, a service principal, or give it a managed identity"
            )
        if error.status_code in {401, 403}:
            return Denied(
                f"The server's account may not {right} on the container {self._container} ({code}); "
                "give it the role Storage Blob Data Contributor there"
            )
        return StoreError(f"The artifact store answered {code or error.status_code or type(error).__name__}")

    def look(self, path: str) -> tuple[Stat, bytes | None]:
        """Return what is known of a blob, and its stored MD5 if it has one."""
        with self.explained(READ):
            found = self.blob(path).get_blob_properties()
        if (found.metadata or {}).get("hdi_isfolder") == "true":  # a folder of Data Lake Storage is a blob too
            raise NotFound("This is a folder, not an artifact.")
        md5 = found.content_settings.content_md5
        return Stat(int(found.size), _tag(found.etag), found.last_modified), bytes(md5) if md5 else None

    def stat(self, path: str) -> Stat:
        return self.look(path)[0]

    def open(self, path: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> Source:
        return AzureSource(self, path, start, stop, etag)

    def create(self, path: str, size: int | None = None) -> AzureSink:
        return AzureSink(self, path, size)

    def list(self, path: str) -> Iterator[Entry]:
        folder = self._folder(path)
        entries: dict[str, Entry] = {}
        with self.explained(READ):
            for item in self._client.walk_blobs(name_starts_with=folder, delimiter="/"):
                if isinstance(item, BlobPrefix):
                    name = item.name[len(folder) : -1]
                    entries[name] = Entry(name, True)
                else:
                    name = item.name[len(folder) :]
                    entries.setdefault(name, Entry(name, False, int(item.size)))
        yield from sorted((entry for entry in entries.values() if entry.name), key=lambda entry: entry.name)

    def delete(self, path: str) -> None:
        if not path:
            raise Denied("The root of the artifact store isn't deleted.")
        with self.explained(READ):
            names = [item.name for item in self._client.list_blobs(name_starts_with=self._folder(path))]
        # The deepest first: Data Lake Storage's folders are blobs too, and go only when they are empty.
        for name in [*sorted(names, reverse=True), self._key(path)]:
            with contextlib.suppress(NotFound), self.explained(DELETE):
                self._client.delete_blob(name, delete_snapshots="include")

    def check(self) -> None:
        # Each of these says whether it is allowed, and changes nothing: a blob that isn't there, and a write on the
        # condition that it is.
        path = f".gatehouse-check-{secrets.token_hex(8)}"
        with self.explained(READ):
            next(iter(self._client.list_blobs(name_starts_with=self._key(path))), None)
        self.delete(path)
        with contextlib.suppress(NotFound):
            self.open(path).close()
        with contextlib.suppress(NotFound), self.explained(WRITE):
            self._client.upload_blob(
                self._key(path), b"", etag="0x0", match_condition=MatchConditions.IfNotModified, overwrite=True
            )
            self.delete(path)  # by a store that knows no conditions

    def _signature(self, path: str, seconds: int, permission: BlobSasPermissions, **headers: str) -> str:
        now = datetime.now(timezone.utc)
        expiry = now + timedelta(seconds=seconds)
        credential = self._service.credential
        if key := getattr(credential, "account_key", None):
            signer = {"account_key": key}
        elif hasattr(credential, "get_token"):
            signer = {"user_delegation_key": self._delegation_key(now, expiry)}
        else:
            raise CannotSign("A shared access signature can't sign others; send the bytes through the server.")
        signature: str = generate_blob_sas(
            account_name=str(self._service.account_name),
            container_name=self._container,
            blob_name=self._key(path),
            permission=permission,
            # Clocks differ (https://learn.microsoft.com/azure/storage/common/storage-sas-overview, best practices).
            start=now - timedelta(minutes=15),
            expiry=expiry,
            protocol="https" if self._service.url.startswith("https:") else None,
            **signer,
            **headers,
        )
        return signature

    def _delegation_key(self, now: datetime, expiry: datetime) -> Any:
        """Return a key that signs in the identity's name; kept while it outlives what it signs."""
        with self._delegation_lock:
            if self._delegation is None or self._delegation[1] < expiry:
                until = max(expiry, now + timedelta(hours=6))
                try:
                    with self.explained(DELEGATE):
                        key = self._service.get_user_delegation_key(now - timedelta(minutes=15), until)
                except Denied:
                    raise CannotSign(
                        f"The server's identity may not {DELEGATE}; give it the role Storage Blob Delegator on the "
                        "account, "
                        "or send the bytes through the server."
                    ) from None
                self._delegation = (key, until)
            return self._delegation[0]

    def sign_download(self, path: str, seconds: int) -> SignedUrl:
        name = quote(path.rpartition("/")[2], safe="")
        token = self._signature(
            path,
            seconds,
            BlobSasPermissions(read=True),
            content_type="application/octet-stream",
            content_disposition=f"attachment; filename*=UTF-8''{name}",
        )
        return SignedUrl(f"{self.blob(path).url}?{token}", {})

    def begin_multipart(self, path: str, parts: int, seconds: int) -> Multipart:
        if not 1 <= parts <= MOST_SIGNED:
            raise CannotSign(f"1 to {MOST_SIGNED} parts can be signed, not {parts}; send larger ones.")
        upload = secrets.token_hex(16)
        token = self._signature(path, seconds, BlobSasPermissions(create=True, write=True))
        address = self.blob(path).url
        urls = []
        for number in range(1, parts + 1):
            block = quote(base64.b64encode(_block_id(upload, number).encode()).decode(), safe="")
            urls.append(SignedUrl(f"{address}?comp=block&blockid={block}&{token}", {}))
        return Multipart(upload, urls)

    def complete_multipart(self, path: str, upload_id: str, etags: Sequence[str]) -> None:
        if not re.fullmatch("[0-9a-f]{32}", upload_id):
            raise NotFound("There is no such upload.")
        self.join(path, [_block_id(upload_id, number) for number in range(1, len(etags) + 1)])

    def join(self, path: str, blocks: Sequence[str], size: int = 0, md5: bytes | None = None) -> Stat:
        """Put the blocks, in order, under the blob's name."""
        with self.explained(WRITE):
            answer = self.blob(path).commit_block_list(
                list(blocks), content_settings=_content_settings(path, md5), validate_content=True
            )
        return Stat(size, _tag(answer["etag"]), answer["last_modified"])

    def abort_multipart(self, path: str, upload_id: str) -> None:
        """Leave the blocks to the service, which drops them within a week: the name may hold an artifact already."""
