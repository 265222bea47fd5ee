"""Artifacts in a bucket of Google Cloud Storage, by its JSON API (https://cloud.google.com/storage/docs/json_api/v1).

google-auth signs the requests in, and requests sends them. google-cloud-storage is of no help here: its uploads of
bytes as they come send a request for each chunk of 40 MiB that they keep, and its downloads are either whole or a
request a chunk.

Checksums are CRC32C on the way in and out. A small upload carries its own, so the store refuses what was damaged; a
large one is compared with the store's answer, and what differs is deleted again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import google.auth
import google_crc32c
import requests
import urllib3
from google.auth import exceptions as auth_errors
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession

from gatehouse.artifacts.stores.base import (
    PIECE,
    Damaged,
    Denied,
    Entry,
    Multipart,
    NotFound,
    SignedUrl,
    Sink,
    Source,
    Stat,
    Store,
    StoreError,
    content_type,
)

if TYPE_CHECKING:
    from gatehouse.artifacts.stores.google_signing import GoogleSigning

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: Seconds to connect, and seconds without a byte.
TIMEOUT = (10, 60)
#: Seconds that the store may take for a large upload after its last byte.
ANSWER_S = 300
#: Seconds in which a request that is safe to repeat is repeated; the client's own patience goes on from there.
RETRY_S = 5
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
#: Uploads up to this size are kept and sent in one request; also the chunks of an upload of unknown size (a multiple of
#: 256 KiB, as the API wants it).
SMALL = 2 * 1024 * 1024
#: Times that a broken download is taken up again without a byte of progress.
RESUMES = 3
DELETES_AT_ONCE = 8
CONNECTIONS = 64


def credentials() -> Any:
    """Return the server's own credentials: GOOGLE_ACCOUNT_JSON_BASE64, or the application default ones.

    Raises:
        StoreError: if there are none, or they can't be read.
    """
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return AnonymousCredentials()
    try:
        if key := os.environ.get("GOOGLE_ACCOUNT_JSON_BASE64"):
            from google.oauth2 import service_account

            info = json.loads(base64.b64decode("".join(key.split()), validate=True))
            return service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])
        return google.auth.default(scopes=[SCOPE])[0]
    except (auth_errors.GoogleAuthError, ValueError, OSError) as error:
        kind = type(error).__name__  # its text can show the key's content
        raise StoreError(
            f"The server has no usable Google credentials ({kind}): run it as a service account, or set "
            "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_ACCOUNT_JSON_BASE64."
        ) from None


class GoogleStore(Store):
    """The objects below a prefix of a bucket; ``destination`` is ``gs://BUCKET/PREFIX``.

    STORAGE_EMULATOR_HOST is the address of an emulator, as in Google's own libraries.
    """

    def __init__(self, destination: str) -> None:
        url = urlsplit(destination)
        self.bucket = url.netloc
        self._prefix = f"{url.path.strip('/')}/".lstrip("/")
        self._base = (os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com").rstrip("/")
        self._objects = f"{self._base}/storage/v1/b/{quote(self.bucket, safe='')}/o"
        self._upload = f"{self._base}/upload/storage/v1/b/{quote(self.bucket, safe='')}/o"
        self.session = AuthorizedSession(credentials())
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)

    def name(self, path: str) -> str:
        """Return the object's name of an artifact."""
        return self._prefix + path

    def _url(self, path: str) -> str:
        return f"{self._objects}/{quote(self.name(path), safe='')}"

    def request(self, method: str, url: str, right: str, path: str, **options: Any) -> requests.Response:
        """Send a request that is safe to repeat, for as long as RETRY_S; return its answer, a success.

        Args:
            right: the permission that it needs, for the error.

        Raises:
            StoreError: as the answer, or its absence, means.
        """
        deadline = time.monotonic() + RETRY_S
        wait = 0.2
        while True:
            try:
                answer: requests.Response = self.session.request(method, url, timeout=TIMEOUT, **options)
                if answer.ok or answer.status_code == 308:
                    return answer
                problem = self._problem(answer, right, path)
                again = answer.status_code in _TRANSIENT
            except (requests.RequestException, auth_errors.GoogleAuthError) as error:
                problem = self._unreachable(error)
                again = not isinstance(error, auth_errors.RefreshError)
            wait *= 1 + random.random()  # noqa: S311 - spreads the load
            if not again or time.monotonic() + wait > deadline:
                raise problem
            time.sleep(wait)

    def _problem(self, answer: requests.Response, right: str, path: str) -> StoreError:
        """Return what an answer that is no success means."""
        status = answer.status_code
        with contextlib.suppress(requests.RequestException):
            answer.content  # noqa: B018 - read to its end, the connection can be used again
        answer.close()
        if status in {401, 403}:
            return Denied(
                f"The artifact store refuses: the server's account needs the permission {right} on gs://{self.bucket} "
                "(the role roles/storage.objectUser has all that are needed)."
            )
        if status == 404 and not path:
            return StoreError(f"There is no bucket gs://{self.bucket}: create it, or correct ARTIFACTS_DESTINATION.")
        if status in {404, 412}:
            return NotFound(f"No such artifact, or no longer: {path!r}")
        if status == 400 and right == "storage.objects.create":
            return Damaged(f"The artifact store didn't take {path!r}: it, or its checksum, was damaged on the way.")
        return StoreError(f"The artifact store gs://{self.bucket} answered {status}. Try again later.")

    def _unreachable(self, error: Exception) -> StoreError:
        if isinstance(error, auth_errors.RefreshError):
            return Denied("The server's Google credentials are refused: they are expired, revoked or disabled.")
        return StoreError(f"The artifact store gs://{self.bucket} can't be reached ({type(error).__name__}).")

    def stat(self, path: str) -> Stat:
        fields = {"fields": "size,generation,updated"}
        return _stat(self.request("GET", self._url(path), "storage.objects.get", path, params=fields).json())

    def open(self, path: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> Source:
        return _GoogleSource(self, path, start, stop, etag)

    def read_from(self, path: str, start: int, stop: int | None, generation: str | None) -> requests.Response:
        """Return the answer whose body is an object's bytes as they are stored, from ``start`` to ``stop``."""
        params = {"alt": "media", **({"generation": generation} if generation else {})}
        headers = {"Accept-Encoding": "gzip"}  # or the store would unpack what was stored packed
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        return self.request(
            "GET", self._url(path), "storage.objects.get", path, params=params, headers=headers, stream=True
        )

    def create(self, path: str, size: int | None = None) -> Sink:
        return _Chunked(self, path) if size is None or size <= SMALL else _Streamed(self, path, size)

    def put_whole(self, path: str, data: bytes, crc: bytes) -> Stat:
        """Store a small artifact in one request; the store itself compares the checksum."""
        about = {"name": self.name(path), "contentType": content_type(path), "crc32c": base64.b64encode(crc).decode()}
        mark = secrets.token_hex(16)
        head = f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps(about)}\r\n"
        body = b"%b--%b\r\nContent-Type: %b\r\n\r\n%b\r\n--%b--\r\n" % (
            head.encode(),
            mark.encode(),
            content_type(path).encode(),
            data,
            mark.encode(),
        )
        headers = {"Content-Type": f"multipart/related; boundary={mark}"}
        params = {"uploadType": "multipart"}
        answer = self.request(
            "POST", self._upload, "storage.objects.create", path, params=params, headers=headers, data=body
        )
        return self.verified(path, answer, len(data), crc)

    def begin(self, path: str) -> str:
        """Begin an upload; return the address that takes its bytes. Unfinished, it is forgotten within a week."""
        about = {"name": self.name(path), "contentType": content_type(path)}
        params = {"uploadType": "resumable", "name": self.name(path)}
        answer = self.request("POST", self._upload, "storage.objects.create", path, params=params, json=about)
        return answer.headers["Location"]

    def cancel(self, upload: str) -> None:
        """Forget an upload now."""
        with contextlib.suppress(requests.RequestException, auth_errors.GoogleAuthError):
            self.session.delete(upload, timeout=TIMEOUT)

    def verified(self, path: str, answer: requests.Response, size: int, crc: bytes) -> Stat:
        """Return what was stored; what isn't what was sent is deleted again.

        Raises:
            Damaged: if it isn't.
        """
        found = answer.json()
        if int(found["size"]) != size or base64.b64decode(found["crc32c"]) != crc:
            params = {"generation": found["generation"]}
            self.request("DELETE", self._url(path), "storage.objects.delete", path, params=params)
            raise Damaged(f"{path!r} was damaged on its way to the artifact store. Nothing was stored.")
        return _stat(found)

    def list(self, path: str) -> Iterator[Entry]:
        prefix = self.name(f"{path}/" if path else "")
        for page in self._pages(prefix, {"delimiter": "/", "fields": "items(name,size),prefixes,nextPageToken"}):
            found = [Entry(name[len(prefix) : -1], is_folder=True) for name in page.get("prefixes", ())]
            # An object with the folder's own name is what the console makes for an empty folder.
            found += [
                Entry(item["name"][len(prefix) :], False, int(item["size"]))
                for item in page.get("items", ())
                if item["name"] != prefix
            ]
            yield from sorted(found, key=lambda entry: entry.name)

    def _pages(self, prefix: str, params: dict[str, str]) -> Iterator[dict[str, Any]]:
        token = None
        while True:
            asked = {"prefix": prefix, **params, **({"pageToken": token} if token else {})}
            page = self.request("GET", self._objects, "storage.objects.list", "", params=asked).json()
            yield page
            token = page.get("nextPageToken")
            if not token:
                return

    def delete(self, path: str) -> None:
        if not path:
            raise Denied("The root of the artifact store can't be deleted.")
        self._delete_object(self.name(path))
        with ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
            for page in self._pages(self.name(f"{path}/"), {"fields": "items(name),nextPageToken"}):
                for _ in pool.map(self._delete_object, [item["name"] for item in page.get("items", ())]):
                    pass

    def _delete_object(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            self.request("DELETE", f"{self._objects}/{quote(name, safe='')}", "storage.objects.delete", name)

    @cached_property
    def _signing(self) -> GoogleSigning:
        from gatehouse.artifacts.stores.google_signing import GoogleSigning

        return GoogleSigning(self.session, self.bucket, self._base)

    def check_signing(self) -> None:
        self._signing.check()

    def sign_download(self, path: str, seconds: int) -> SignedUrl:
        # Clients fetch ranges side by side: all of them of one version.
        return self._signing.download(self.name(path), seconds, self.stat(path).etag)

    def begin_multipart(self, path: str, parts: int, seconds: int) -> Multipart:
        return self._signing.begin(self.name(path), parts, seconds)

    def complete_multipart(self, path: str, upload_id: str, etags: Sequence[str]) -> None:
        self._signing.complete(self.name(path), upload_id, etags)

    def abort_multipart(self, path: str, upload_id: str) -> None:
        self._signing.abort(self.name(path), upload_id)

    def sweep(self, before: datetime, dry_run: bool) -> Iterator[tuple[str, int]]:
        for name, upload_id, size in self._signing.interrupted(self._prefix, before):
            if not dry_run:
                self._signing.abort(name, upload_id)
            yield name.removeprefix(self._prefix), size

    def check(self) -> None:
        # Each of these says whether it is allowed, and changes nothing: an object that isn't there, an upload that is
        # cancelled. testIamPermissions would be one request, and wrong where a condition of IAM names the prefix.
        probe = f".gatehouse-check-{secrets.token_hex(8)}"
        self.request(
            "GET", self._objects, "storage.objects.list", "", params={"prefix": self._prefix, "maxResults": "1"}
        )
        self.cancel(self.begin(probe))
        with contextlib.suppress(NotFound):
            self.stat(probe)
        self._delete_object(self.name(probe))


def _checksum() -> Any:
    return google_crc32c.Checksum()  # type: ignore[no-untyped-call]


def _stat(found: dict[str, Any]) -> Stat:
    # The generation changes with the content, and only with it.
    return Stat(int(found["size"]), str(found["generation"]), datetime.fromisoformat(found["updated"]))


class _GoogleSource(Source):
    """A download, taken up again where its connection breaks; a whole one is compared with the object's checksum."""

    def __init__(self, store: GoogleStore, path: str, start: int, stop: int | None, etag: str | None) -> None:
        self._store = store
        self._path = path
        self._answer = store.read_from(path, start, stop, etag)
        headers = self._answer.headers
        part = headers.get("Content-Range")  # bytes 0-9/1234
        length = int(headers["Content-Length"])
        size = int(part.rpartition("/")[2]) if part else length
        modified = parsedate_to_datetime(headers["Last-Modified"]).astimezone(timezone.utc)
        self.stat = Stat(size, headers["X-Goog-Generation"], modified)
        self._position = start
        self._stop = start + length
        hashes = dict(item.strip().split("=", 1) for item in headers.get("X-Goog-Hash", "").split(",") if "=" in item)
        self._expected = base64.b64decode(hashes["crc32c"]) if length == size and "crc32c" in hashes else None
        self._crc = _checksum()
        self._resumes = RESUMES

    def read(self) -> bytes:
        while True:
            try:
                data = bytes(self._answer.raw.read(PIECE, decode_content=False))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                data, problem = b"", self._store._unreachable(error)
            else:
                problem = StoreError(f"The artifact store ended {self._path!r} too early.")
            if data:
                break
            if self._position == self._stop:
                return b""
            if self._resumes == 0:
                raise problem
            self._resumes -= 1
            self._answer.close()
            self._answer = self._store.read_from(self._path, self._position, self._stop, self.stat.etag)
        self._resumes = RESUMES
        self._position += len(data)
        self._crc.update(data)
        # Before the last piece goes out, so that a damaged download never looks complete.
        if self._position == self._stop and self._expected not in {None, self._crc.digest()}:
            raise Damaged(f"{self._path!r} was damaged in the artifact store, or on the way from it.")
        return data

    def close(self) -> None:
        self._answer.close()


class _Chunked(Sink):
    """An upload that is kept until SMALL; one that turns out to be larger goes in chunks of that size."""

    def __init__(self, store: GoogleStore, path: str) -> None:
        self._store = store
        self._path = path
        self._crc = _checksum()
        self._kept = bytearray()
        self._sent = 0
        self._upload = ""

    def write(self, data: bytes) -> None:
        self._crc.update(data)
        self._kept += data
        while len(self._kept) > SMALL:  # the last chunk is never empty
            self._upload = self._upload or self._store.begin(self._path)
            self._send(bytes(self._kept[:SMALL]), "*")
            del self._kept[:SMALL]

    def _send(self, chunk: bytes, total: str) -> requests.Response:
        headers = {"Content-Range": f"bytes {self._sent}-{self._sent + len(chunk) - 1}/{total}"}
        # Sent twice, a chunk of the same range is taken once.
        answer = self._store.request(
            "PUT", self._upload, "storage.objects.create", self._path, headers=headers, data=chunk
        )
        self._sent += len(chunk)
        if total == "*" and answer.headers.get("Range") != f"bytes=0-{self._sent - 1}":
            raise StoreError("The artifact store took a part of a chunk only. Send the artifact again.")
        return answer

    def commit(self) -> Stat:
        if not self._upload:
            return self._store.put_whole(self._path, bytes(self._kept), self._crc.digest())
        size = self._sent + len(self._kept)
        answer = self._send(bytes(self._kept), str(size))
        return self._store.verified(self._path, answer, size, self._crc.digest())

    def abort(self) -> None:
        if self._upload:
            self._store.cancel(self._upload)


class _Cancelled(Exception):
    """The upload was given up by whoever asked for it."""


class _Body:
    """The body of the one request of a large upload: pieces as they come; its length is known before they do."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: queue.Queue[bytes | None] = queue.Queue(2)
        self._cancelled = False

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None and not self._cancelled:
            yield piece
        if self._cancelled:
            raise _Cancelled

    def put(self, piece: bytes | None, failed: Future[requests.Response]) -> None:
        """Hand a piece over, unless the request has ended."""
        while not failed.done():
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=1)
                return

    def cancel(self) -> None:
        self._cancelled = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()
        self._pieces.put_nowait(None)


class _Streamed(Sink):
    """A large upload of known size: one request, sent by a thread of its own while the bytes come in.

    The last piece is held back until the commit, so that the store can't have all of it before.
    """

    def __init__(self, store: GoogleStore, path: str, size: int) -> None:
        self._store = store
        self._path = path
        self._size = size
        self._taken = 0
        self._crc = _checksum()
        self._held = b""
        self._upload = store.begin(path)
        self._body = _Body(size)
        self._answer: Future[requests.Response] = Future()
        threading.Thread(target=self._run, name="upload", daemon=True).start()

    def _run(self) -> None:
        try:
            # Never repeated, for the bytes are gone: a session of its own, which doesn't renew a token and send again.
            with requests.Session() as session:
                self._answer.set_result(session.put(self._upload, data=self._body, timeout=(TIMEOUT[0], ANSWER_S)))
        except BaseException as error:
            self._answer.set_exception(error)

    def write(self, data: bytes) -> None:
        self._crc.update(data)
        self._taken += len(data)
        if self._held:
            self._body.put(self._held, self._answer)
        self._held = data
        if self._answer.done():
            self._finished()
            raise StoreError("The artifact store ended the upload early. Send the artifact again.")

    def _finished(self) -> requests.Response:
        """Return the answer to the upload, a success."""
        try:
            answer = self._answer.result()
        except (requests.RequestException, OSError) as error:
            raise self._store._unreachable(error) from error
        if not answer.ok:
            raise self._store._problem(answer, "storage.objects.create", self._path)
        return answer

    def commit(self) -> Stat:
        if self._taken != self._size:
            raise Damaged(f"{self._path!r} has {self._taken} bytes, and {self._size} were announced.")
        self._body.put(self._held, self._answer)
        self._body.put(None, self._answer)
        return self._store.verified(self._path, self._finished(), self._size, self._crc.digest())

    def abort(self) -> None:
        self._held = b""
        self._body.cancel()
        with contextlib.suppress(BaseException):
            self._answer.exception(timeout=5)
        self._store.cancel(self._upload)
