"""Cloud Storage as far as fake-gcs-server isn't: it looks at signatures, and knows the XML API's uploads in parts.

It stands where storage.googleapis.com is, in front of the real fake-gcs-server, which keeps the objects. The check of a
signature is written from the documentation (cloud.google.com/storage/docs/authentication/canonical-requests), not from
the library that signs.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import http.server
import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.artifacts.google_server import GoogleServer
from tests.client.googleapis import ACCOUNT, STORAGE, Google

BUCKET = "artifacts"
XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
MIN_PART = 5 * 1024 * 1024  # of all parts but the last (cloud.google.com/storage/quotas)


class Refused(Exception):
    """The request isn't signed, or not so."""


@dataclass
class Upload:
    """An upload in parts: its object, the time at which it was begun, and part number → (entity tag, file)."""

    name: str
    begun: str
    parts: dict[int, tuple[str, Path]] = field(default_factory=dict)


class SignedBucket:
    """Answers for one bucket.

    Args:
        port: that of fake-gcs-server.
        key: the account's public key.
    """

    def __init__(self, port: int, account: str, key: rsa.RSAPublicKey, folder: Path) -> None:
        self.port = port
        self.account = account
        self.key = key
        self.folder = folder
        self.uploads: dict[str, Upload] = {}
        #: (method, path, bytes of the body) of each request that came by a signed URL.
        self.signed: list[tuple[str, str, int]] = []
        self._numbers = itertools.count(1)

    def __call__(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path, _, query = request.path.partition("?")
        body = self.folder / f"body{next(self._numbers)}"
        size = _receive(request, body)
        try:
            try:
                # The address of a resumable upload is a secret by itself.
                session = path.startswith("/upload/") and "upload_id=" in query
                if not session and not request.headers.get("Authorization", "").startswith("Bearer "):
                    self.verify(request.command, path, query, request.headers["Host"])
                    self.signed.append((request.command, unquote(path), size))
                    if request.headers.get("X-Goog-User-Project"):
                        raise Refused("a header that wasn't signed")
            except (Refused, KeyError, ValueError, InvalidSignature) as reason:
                _answer(request, 403, f"<Error><Code>SignatureDoesNotMatch</Code><Message>{reason!r}</Message></Error>")
                return
            options = dict(parse_qsl(query, keep_blank_values=True))
            name = unquote(path).removeprefix(f"/{BUCKET}").lstrip("/")
            if options.keys() & {"uploads", "uploadId"} and "uploadType" not in options:
                self._in_parts(request, name, options, body)
            else:
                self._forward(request, body)
        finally:
            body.unlink(missing_ok=True)

    def verify(self, method: str, path: str, query: str, host: str) -> None:
        """Raise unless the URL has a good V4 signature of the account, for this very request, now."""
        pairs = parse_qsl(query, keep_blank_values=True)
        options = dict(pairs)
        signature = bytes.fromhex(options["X-Goog-Signature"])
        if options["X-Goog-Algorithm"] != "GOOG4-RSA-SHA256" or options["X-Goog-SignedHeaders"] != "host":
            raise Refused("another algorithm, or other headers")
        who, _, scope = options["X-Goog-Credential"].partition("/")
        stamp = options["X-Goog-Date"]
        if who != self.account or scope != f"{stamp[:8]}/auto/storage/goog4_request":
            raise Refused("another account or scope")
        made = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%S%z")
        age = (datetime.datetime.now(datetime.timezone.utc) - made).total_seconds()
        if age > int(options["X-Goog-Expires"]):
            raise Refused("expired")
        canonical_query = "&".join(
            sorted(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs if k != "X-Goog-Signature")
        )
        canonical = "\n".join([method, path, canonical_query, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"])
        text = "\n".join(
            ["GOOG4-RSA-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()],
        )
        self.key.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())

    def _in_parts(
        self, request: http.server.BaseHTTPRequestHandler, name: str, options: dict[str, str], body: Path
    ) -> None:
        """Answer the XML API's uploads in parts (cloud.google.com/storage/docs/xml-api/post-object-multipart)."""
        upload_id = options.get("uploadId", "")
        upload = self.uploads.get(upload_id)
        if request.command == "GET" and "uploads" in options:
            rows = "".join(
                f"<Upload><Key>{escape(u.name)}</Key><UploadId>{n}</UploadId><Initiated>{u.begun}</Initiated></Upload>"
                for n, u in self.uploads.items()
                if u.name.startswith(options.get("prefix", ""))
            )
            _answer(request, 200, _xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{rows}"))
        elif "uploads" in options:
            upload_id = f"upload-{next(self._numbers)}"
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            self.uploads[upload_id] = Upload(name, now)
            _answer(request, 200, _xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>"))
        elif upload is None or upload.name != name:
            _answer(request, 404, "<Error><Code>NoSuchUpload</Code></Error>")
        elif request.command == "PUT":
            tag = f'"{hashlib.md5(body.read_bytes(), usedforsecurity=False).hexdigest()}"'
            kept = body.rename(self.folder / f"part{next(self._numbers)}")
            upload.parts[int(options["partNumber"])] = tag, kept
            _answer(request, 200, "", {"ETag": tag})
        elif request.command == "GET":
            rows = "".join(
                f"<Part><PartNumber>{n}</PartNumber><Size>{path.stat().st_size}</Size></Part>"
                for n, (_, path) in upload.parts.items()
            )
            _answer(request, 200, _xml("ListPartsResult", f"<IsTruncated>false</IsTruncated>{rows}"))
        elif request.command == "DELETE":
            del self.uploads[upload_id]
            _answer(request, 204, "")
        else:
            self._complete(request, upload_id, upload, body.read_text())

    def _complete(self, request: http.server.BaseHTTPRequestHandler, upload_id: str, upload: Upload, xml: str) -> None:
        named = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>(.*?)</ETag>", xml.replace("&quot;", '"'))
        parts = [upload.parts.get(int(number)) for number, _ in named]
        if not all(part and part[0] == tag for part, (_, tag) in zip(parts, named, strict=True)):
            _answer(request, 400, "<Error><Code>InvalidPart</Code><Message>one isn't there</Message></Error>")
            return
        files = [part[1] for part in parts if part]
        if any(path.stat().st_size < MIN_PART for path in files[:-1]):
            _answer(request, 400, "<Error><Code>EntityTooSmall</Code><Message>a part is too small</Message></Error>")
            return
        whole = self.folder / f"whole{next(self._numbers)}"
        with whole.open("wb") as target:
            for path in files:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, target)
        connection = self._connect()
        with whole.open("rb") as source:
            target_path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(upload.name, safe='')}"
            headers = {"Content-Length": str(whole.stat().st_size), "Content-Type": "application/octet-stream"}
            connection.request("POST", target_path, source, headers)
        done = connection.getresponse()
        done.read()
        assert done.status == 200, done.status
        whole.unlink()
        del self.uploads[upload_id]
        _answer(request, 200, _xml("CompleteMultipartUploadResult", '<ETag>"composed"</ETag>'))

    def _forward(self, request: http.server.BaseHTTPRequestHandler, body: Path) -> None:
        """Hand a request on to fake-gcs-server, and its answer back."""
        connection = self._connect()
        kept = {k: v for k, v in request.headers.items() if k.lower() not in {"transfer-encoding", "connection"}}
        kept["Content-Length"] = str(body.stat().st_size)
        with body.open("rb") as source:
            connection.request(request.command, request.path, source, kept)
        answer = connection.getresponse()
        request.send_response(answer.status)
        length = answer.headers.get("Content-Length")
        for name, value in answer.headers.items():
            if name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                # fake-gcs-server sends uploads on to where it was asked itself: here, without TLS.
                request.send_header(name, value.replace(f"http://{STORAGE}", f"https://{STORAGE}"))
        if length is None:
            request.send_header("Connection", "close")
        request.end_headers()
        if request.command != "HEAD":
            shutil.copyfileobj(answer, request.wfile)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)


def _receive(request: http.server.BaseHTTPRequestHandler, target: Path) -> int:
    """Write a request's body to a file; return its size."""
    with target.open("wb") as file:
        if "chunked" in request.headers.get("Transfer-Encoding", ""):
            while size := int(request.rfile.readline(), 16):
                file.write(request.rfile.read(size))
                request.rfile.readline()
            request.rfile.readline()
        left = int(request.headers.get("Content-Length") or 0)
        while left:
            piece = request.rfile.read(min(left, 1 << 20))
            if not piece:
                raise ConnectionError("the body ended early")
            file.write(piece)
            left -= len(piece)
        return file.tell()


def _xml(tag: str, content: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><{tag} xmlns="{XMLNS}">{content}</{tag}>'


def _answer(
    request: http.server.BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str] | None = None
) -> None:
    body = text.encode()
    request.send_response(status)
    for name, value in (
        (headers or {}) | {"Content-Type": "application/xml", "Content-Length": str(len(body))}
    ).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@contextlib.contextmanager
def signed_google(folder: Path) -> Iterator[tuple[Google, SignedBucket]]:
    """Run Google's endpoints with a bucket, ``artifacts``, behind storage.googleapis.com, kept by fake-gcs-server."""
    server = GoogleServer()
    google = Google(folder, lambda **_: "")
    try:
        google.bucket = SignedBucket(server.port, ACCOUNT, google.key.public_key(), folder)
        yield google, google.bucket
    finally:
        google.stop()
        server.kill()
