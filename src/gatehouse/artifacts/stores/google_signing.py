"""Signed URLs of Google Cloud Storage, with or without a private key, and the uploads in parts that they are for.

Cloud Run's credentials have no private key. There the service's own account signs by the IAM Credentials API
(``signBlob``), one call for each URL, for which it needs the right to sign as itself
(cloud.google.com/storage/docs/access-control/signed-urls). google-cloud-storage puts the URLs together; it is loaded by
the first one, and costs 0.3 s and 7 MiB then (docs/decisions/0016). Uploads in parts are the XML API's "multipart
uploads" (cloud.google.com/storage/docs/multipart-uploads): nothing is under the object's name before they are
completed.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import google.auth.credentials
import requests
from google.auth import exceptions as auth_errors
from google.auth import iam
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import service_account

from gatehouse.artifacts.stores.base import CannotSign, Denied, Multipart, NotFound, SignedUrl, StoreError, content_type

#: What signBlob asks for; the scopes that a storage client narrows its tokens to don't suffice (IAM Credentials API).
SCOPE = "https://www.googleapis.com/auth/iam"
#: signBlob calls at once, of all uploads together.
SIGNERS = 16
#: Seconds for all URLs of one upload. oauth2-proxy gives up on an answer after 30.
SIGN_LIMIT_S = 20.0
#: Seconds for one request to Google.
REQUEST_LIMIT_S = 10.0
ROLE = "roles/iam.serviceAccountTokenCreator"
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class BadUpload(StoreError):
    """The parts don't make an artifact: one is missing, too small, or isn't what the client says it is."""

    status = 400
    code = "INVALID_PARAMETER_VALUE"


class GoogleSigning:
    """Signs URLs for the objects of one bucket, and begins and ends uploads in parts.

    Args:
        session: what sends the server's requests, with its credentials.
        endpoint: the address of the XML API, without a trailing slash.
        bucket: the bucket's name.
    """

    def __init__(
        self, session: AuthorizedSession, bucket: str, endpoint: str = "https://storage.googleapis.com"
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._bucket = bucket
        self._pool = ThreadPoolExecutor(SIGNERS, "sign")
        self._lock = threading.Lock()
        self._signer: Any = None

    def check(self) -> None:
        """Sign something that nobody gets.

        Raises: as ``download``.
        """
        self._sign_all([("gatehouse-check", "PUT", {})], 1)

    def download(self, name: str, seconds: int, generation: str) -> SignedUrl:
        """Return a URL that downloads one version of an object.

        Raises:
            CannotSign: if the server's account can't sign, or not now; the message names what is missing.
        """
        # An HTML artifact that somebody opens in a browser must not run there, on whichever site.
        query = {"generation": generation, "response-content-disposition": "attachment"}
        return self._sign_all([(name, "GET", query)], seconds)[0]

    def begin(self, name: str, parts: int, seconds: int) -> Multipart:
        """Begin an upload and return a URL for each part.

        Nothing is begun unless a URL can be signed, and nothing stays if not all can.

        Raises: as ``download``, Denied if the account may not upload, and StoreError if the bucket can't be reached.
        """
        self.check()
        kind = content_type(name)
        answer = self._xml("POST", name, {"uploads": ""}, "storage.multipartUploads.create", kind=kind)
        upload_id = _text(answer, "UploadId")
        wanted = [(name, "PUT", {"partNumber": str(n), "uploadId": upload_id}) for n in range(1, parts + 1)]
        try:
            return Multipart(upload_id, self._sign_all(wanted, seconds))
        except BaseException:
            with contextlib.suppress(StoreError):  # the reason why is on its way already
                self.abort(name, upload_id)
            raise

    def complete(self, name: str, upload_id: str, etags: Sequence[str]) -> None:
        """Put the parts, in order, under the object's name.

        Raises:
            NotFound: if there is no such upload of this object.
            BadUpload: if the bucket doesn't take the parts.
        """
        root = ElementTree.Element("CompleteMultipartUpload")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = etag
        body = ElementTree.tostring(root)
        self._xml("POST", name, {"uploadId": upload_id}, "storage.objects.create", body=body)

    def abort(self, name: str, upload_id: str) -> None:
        """Throw an upload and its parts away; one that isn't there is no error."""
        with contextlib.suppress(NotFound):
            self._xml("DELETE", name, {"uploadId": upload_id}, "storage.multipartUploads.abort")

    def interrupted(self, prefix: str, before: datetime.datetime) -> Iterator[tuple[str, str, int]]:
        """Yield (object's name, upload id, bytes uploaded) of each upload begun before a time and never ended."""
        marker: dict[str, str] = {}
        while True:
            page = self._xml("GET", "", {"uploads": "", "prefix": prefix, **marker}, "storage.multipartUploads.list")
            for upload in page.iter(f"{_XML}Upload"):
                if datetime.datetime.fromisoformat(_text(upload, "Initiated").replace("Z", "+00:00")) < before:
                    name, upload_id = _text(upload, "Key"), _text(upload, "UploadId")
                    yield name, upload_id, self._uploaded(name, upload_id)
            if _text(page, "IsTruncated") != "true":
                return
            marker = {"key-marker": _text(page, "NextKeyMarker"), "upload-id-marker": _text(page, "NextUploadIdMarker")}

    def _uploaded(self, name: str, upload_id: str) -> int:
        total, after = 0, "0"
        while True:
            query = {"uploadId": upload_id, "part-number-marker": after}
            try:
                page = self._xml("GET", name, query, "storage.multipartUploads.listParts")
            except NotFound:
                return total  # it ended meanwhile
            total += sum(int(_text(part, "Size")) for part in page.iter(f"{_XML}Part"))
            if _text(page, "IsTruncated") != "true":
                return total
            after = _text(page, "NextPartNumberMarker")

    def _xml(
        self,
        method: str,
        name: str,
        query: Mapping[str, str],
        permission: str,
        body: bytes = b"",
        kind: str = "application/xml",
    ) -> ElementTree.Element:
        """Send one request of the XML API as the server; ``permission`` is what it takes."""
        url = f"{self._endpoint}{self._resource(name)}?{_query(query)}"
        try:
            answer = self._session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": kind},
                timeout=REQUEST_LIMIT_S,
                allow_redirects=False,
            )
        except (requests.RequestException, auth_errors.GoogleAuthError) as error:
            raise _unreachable(error) from error
        if answer.status_code in {401, 403}:
            raise Denied(f"The server's account lacks {permission} on gs://{self._bucket}: grant it there.")
        if answer.status_code == 404:
            raise NotFound("There is no such upload.")
        if answer.status_code == 400:
            raise BadUpload(f"Cloud Storage doesn't take this upload: {_reason(answer.text)}.")
        if not answer.ok:
            raise StoreError(f"Cloud Storage answered {answer.status_code}; try again.")
        # From Cloud Storage, over TLS; and the parser opens nothing outside of the text.
        return ElementTree.fromstring(answer.text) if answer.text else ElementTree.Element("none")  # noqa: S314

    def _sign_all(self, wanted: Sequence[tuple[str, str, dict[str, str]]], seconds: int) -> list[SignedUrl]:
        """Sign a URL for each (object's name, method, query), side by side."""
        signer = self._signing_credentials()
        futures: list[Future[str]] = [self._pool.submit(self._sign, signer, *item, seconds) for item in wanted]
        done, pending = wait(futures, SIGN_LIMIT_S, FIRST_EXCEPTION)
        for future in pending:
            future.cancel()
        for future in done:
            if error := future.exception():
                raise _cannot_sign(error, signer.signer_email) from None
        if pending:
            raise CannotSign(
                f"Signing {len(wanted)} URLs took longer than {SIGN_LIMIT_S:.0f} s: use larger parts "
                "(MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE)."
            )
        return [SignedUrl(future.result(), {}) for future in futures]

    def _resource(self, name: str) -> str:
        return f"/{self._bucket}/{quote(name, safe='/-_.~')}" if name else f"/{self._bucket}"

    def _sign(self, signer: Any, name: str, method: str, query: Mapping[str, str], seconds: int) -> str:
        """Return a URL with a V4 signature."""
        url: str = (
            _client()
            .bucket(self._bucket)
            .blob(name)
            .generate_signed_url(
                version="v4",
                method=method,
                expiration=datetime.timedelta(seconds=seconds),
                query_parameters=dict(query),
                api_access_endpoint=self._endpoint,
                credentials=signer,
            )
        )
        return url

    def _signing_credentials(self) -> Any:
        """Return what signs: the credentials themselves if they can, else IAM in the name of their account."""
        with self._lock:
            if self._signer is None:
                self._signer = self._find_signer()
            return self._signer

    def _find_signer(self) -> Any:
        credentials = self._session.credentials
        if isinstance(credentials, google.auth.credentials.Signing):
            return credentials
        if isinstance(credentials, google.auth.credentials.Scoped):
            credentials = credentials.with_scopes([SCOPE])
        session = requests.Session()
        session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=SIGNERS))
        request = functools.partial(Request(session), timeout=REQUEST_LIMIT_S)
        try:
            # Only a first token tells a metadata server's account; an anonymous or a person's credentials have none.
            if not isinstance(credentials, google.auth.credentials.AnonymousCredentials) and not credentials.valid:
                credentials.refresh(request)
        except auth_errors.GoogleAuthError as error:
            raise _no_signature(error) from error
        email = getattr(credentials, "service_account_email", None)
        if not email or "@" not in email:
            raise CannotSign("The server's credentials are those of no service account, and only these can sign URLs.")
        signer = iam.Signer(request, credentials, email)
        return service_account.Credentials(signer, email, token_uri="unused")  # noqa: S106 - it never fetches a token


@functools.cache
def _client() -> Any:
    """Return a client of google-cloud-storage that only puts URLs together:

    it sends nothing, and has no credentials.
    """
    from google.cloud.storage import Client

    return Client(project="unused", credentials=google.auth.credentials.AnonymousCredentials())


def _cannot_sign(error: BaseException, email: str) -> CannotSign:
    """Return what an error of signing means; its own text may name more than whoever asked should know."""
    text = str(error)
    if "SERVICE_DISABLED" in text:
        fix = "gcloud services enable iamcredentials.googleapis.com"
        return CannotSign(f"The IAM Service Account Credentials API is off in the server's project: {fix}.")
    if re.search(r"PERMISSION_DENIED|\"code\": 40[34]|ACCESS_TOKEN_SCOPE", text):
        return CannotSign(f"{email} lacks iam.serviceAccounts.signBlob: grant it {ROLE} on itself.")
    return _no_signature(error)


def _no_signature(error: BaseException) -> CannotSign:
    # The way through the server needs none, so a client needn't wait until this is over.
    return CannotSign(f"Google's IAM can't be reached, or doesn't answer ({type(error).__name__}).")


def _unreachable(error: BaseException) -> StoreError:
    return StoreError(f"Cloud Storage can't be reached, or doesn't answer ({type(error).__name__}); try again.")


def _query(pairs: Mapping[str, str]) -> str:
    """Return the pairs in one form: sorted, with all encoded that may be."""
    return "&".join(sorted(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs.items()))


def _reason(text: str) -> str:
    """Return the code and the message of an error of the XML API."""
    found = [re.search(f"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message")]
    return ": ".join(match[1] for match in found if match) or "no reason given"


def _text(element: ElementTree.Element, tag: str) -> str:
    return element.findtext(f"{_XML}{tag}") or ""
