"""MLflow's side of signed URLs: uploads in parts and downloads that go straight to the bucket, by choice.

What MLflow's clients (3.17) do with the answers decides these:

* An upload falls back to the server if the message of a refusal begins with MLflow's own words for "unsupported".
* A download falls back if the answer names no size. A refusal would end it, unless the client was told by its
  environment to try: ``/server-info`` says only what the server can do, and it is asked before anybody knows.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from mlflow.entities.multipart_upload import CreateMultipartUploadResponse, MultipartUploadCredential
from mlflow.entities.presigned_download import PresignedDownloadUrlResponse
from mlflow.environment_variables import MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, NOT_IMPLEMENTED
from mlflow.store.artifact.artifact_repo import MultipartDownloadMixin, MultipartUploadMixin

from gatehouse.artifacts import paths
from gatehouse.artifacts.repository import StoreRepository, told
from gatehouse.artifacts.stores.base import CannotSign
from gatehouse.public.discovery import DIRECT_FROM_BYTES
from gatehouse.upstream.artifacts import unsupported_multipart

if TYPE_CHECKING:
    from mlflow.entities.multipart_upload import MultipartUploadPart

#: Of one upload: Cloud Storage's limit and S3's (cloud.google.com/storage/quotas).
MAX_PARTS = 10_000
#: Seconds that the URLs of an upload are good for: a client can't ask for fresh ones. MLflow gives them an hour as
#: well.
UPLOAD_S = 3600
#: The longest that a download's URL may be good for, whatever MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS says: half a
#: day.
MAX_DOWNLOAD_S = 12 * 3600
#: What stores call uploads and parts; it travels in URLs and in XML.
_TOKEN = re.compile(r'[A-Za-z0-9._~+/="-]{0,1024}')

_logger = logging.getLogger(__name__)


class DirectRepository(StoreRepository, MultipartUploadMixin, MultipartDownloadMixin):  # type: ignore[misc]  # MLflow is untyped
    """A folder of a store whose clients may be sent straight to the bucket."""

    def create_multipart_upload(
        self, local_file: str, num_parts: int = 1, artifact_path: str | None = None
    ) -> CreateMultipartUploadResponse:
        """Begin an upload; the client gets a URL for each part."""
        if not 1 <= num_parts <= MAX_PARTS:
            raise MlflowException(f"num_parts must be from 1 to {MAX_PARTS}.", INVALID_PARAMETER_VALUE)
        with told():
            path = self._target(local_file, artifact_path)
            try:
                upload = self.store.begin_multipart(path, num_parts, UPLOAD_S)
            except CannotSign as error:
                _logger.warning("an upload goes through the server, not straight to the bucket: %s", error)
                text = f"{unsupported_multipart()}. {error}"
                raise MlflowException(text, NOT_IMPLEMENTED) from None
        credentials = [
            MultipartUploadCredential(url=part.url, part_number=number, headers=part.headers)
            for number, part in enumerate(upload.parts, 1)
        ]
        return CreateMultipartUploadResponse(upload_id=upload.upload_id, credentials=credentials)

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: list[MultipartUploadPart], artifact_path: str | None = None
    ) -> None:
        """Put the parts under the artifact's name."""
        ordered = sorted(parts, key=lambda part: part.part_number)
        if not parts or [part.part_number for part in ordered] != [*range(1, min(len(parts), MAX_PARTS) + 1)]:
            raise MlflowException("The parts must be numbered from 1, without a gap.", INVALID_PARAMETER_VALUE)
        etags = [part.etag or "" for part in ordered]
        _check_tokens(upload_id, *etags)
        with told():
            self.store.complete_multipart(self._target(local_file, artifact_path), upload_id, etags)

    def abort_multipart_upload(self, local_file: str, upload_id: str, artifact_path: str | None = None) -> None:
        """Throw the parts away."""
        _check_tokens(upload_id)
        with told():
            self.store.abort_multipart(self._target(local_file, artifact_path), upload_id)

    def get_download_presigned_url(self, artifact_path: str, expiration: int = 300) -> PresignedDownloadUrlResponse:
        """Return a signed URL, or the server's own where that is quicker or nothing can be signed."""
        seconds = max(1, min(expiration, MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS.get(), MAX_DOWNLOAD_S))
        with told():
            path = self.path(paths.from_client(artifact_path))
            size = self.store.stat(path).size
            if size >= DIRECT_FROM_BYTES:
                try:
                    signed = self.store.sign_download(path, seconds)
                    return PresignedDownloadUrlResponse(url=signed.url, headers=signed.headers, file_size=size)
                except CannotSign as error:
                    _logger.warning("a download goes through the server, not straight from the bucket: %s", error)
        through_the_server = f"{os.environ.get('PUBLIC_URL', '')}/api/2.0/mlflow-artifacts/artifacts/{quote(path)}"
        return PresignedDownloadUrlResponse(url=through_the_server, headers={}, file_size=None)

    def _target(self, local_file: str, artifact_path: str | None) -> str:
        """Return an upload's path in the store from what clients send:

        the file's path on *their* machine, and a folder.
        """
        name = re.split(r"[/\\]", local_file)[-1]
        if not name:
            raise paths.BadPath("Invalid path: it names no file.")
        return self.path(paths.from_client(posixpath.join(artifact_path or "", name)))


def _check_tokens(*tokens: str) -> None:
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise MlflowException("The name of the upload, or of a part, is malformed.", INVALID_PARAMETER_VALUE)
