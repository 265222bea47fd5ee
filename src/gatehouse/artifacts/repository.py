"""MLflow's artifact repository over our own store: listing and deleting, and what the server itself reads and writes.

Registered in the server's process alone (:func:`register`), for what lies below ARTIFACTS_DESTINATION: as an entry
point of the package it would also change what a client of somebody else's ``gs://`` does (docs/decisions/0009).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path

from gatehouse.artifacts import boundary, paths
from gatehouse.artifacts.stores.base import PIECE, Full, Store, StoreError
from gatehouse.upstream import workspaces
from gatehouse.upstream.artifacts import register_repository, repository_of_scheme


class MlflowStoreError(MlflowException):  # type: ignore[misc]  # MLflow is untyped
    """A store's error in MLflow's own form, with the very status that the layer answers too."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error), error_code=getattr(databricks_pb2, error.code))
        self._status = error.status

    def get_http_status_code(self) -> int:
        return self._status


@contextmanager
def told() -> Iterator[None]:
    """Turn a store's error, or a bad path, into MLflow's."""
    try:
        yield
    except StoreError as error:
        raise MlflowStoreError(error) from error
    except paths.BadPath as error:
        raise MlflowException(str(error), error_code=databricks_pb2.INVALID_PARAMETER_VALUE) from None


class StoreRepository(ArtifactRepository):  # type: ignore[misc]  # MLflow is untyped
    """A folder of the store.

    Args:
        artifact_uri: the folder's address, at or below ARTIFACTS_DESTINATION.
        open_store: returns the store, the same one each time; it is opened by the first who needs it.
        root: the folder's path in the store.
    """

    def __init__(self, artifact_uri: str, open_store: Callable[[], Store], root: str, **options: Any) -> None:
        super().__init__(artifact_uri, **options)
        self._open_store = open_store
        self._root = root

    @property
    def store(self) -> Store:
        """The store."""
        return self._open_store()

    def path(self, relative: str | None) -> str:
        """Return the path in the store of a path in this folder."""
        return boundary.check(paths.check(posixpath.join(self._root, relative or "")))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        verify_artifact_path(artifact_path)
        local = Path(local_file)
        with told(), local.open("rb") as file:
            sink = self.store.create(self.path(posixpath.join(artifact_path or "", local.name)), local.stat().st_size)
            try:
                while piece := file.read(PIECE):
                    sink.write(piece)
                sink.commit()
            except BaseException:
                sink.abort()
                raise

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for folder, _, names in os.walk(local_dir):
            below = os.path.relpath(folder, local_dir)
            target = posixpath.normpath(posixpath.join(artifact_path or "", below))
            for name in names:
                self.log_artifact(os.path.join(folder, name), None if target == "." else target)  # noqa: PTH118

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        with told():
            folder = self.path(path)
            return [
                FileInfo(posixpath.join(path or "", entry.name), entry.is_folder, entry.size)
                for entry in self.store.list(folder)
                if not boundary.hides(folder, entry.name)
            ]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        with told():
            source = self.store.open(self.path(remote_file_path))
            try:
                with Path(local_path).open("wb") as file:
                    while piece := source.read():
                        file.write(piece)
            except OSError as error:
                raise Full(f"The server's own disk: {error.strerror}.") from error
            finally:
                source.close()

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        with told():
            folder = self.path(artifact_path)
            if not folder and workspaces.enabled():
                raise paths.BadPath("Invalid path: the whole store holds other workspaces' artifacts too.")
            self.store.delete(folder)


def register(
    destination: str, open_store: Callable[[], Store], repository: type[StoreRepository] = StoreRepository
) -> None:
    """Let MLflow, in this process, use the store for what lies at or below ``destination``, and for nothing else."""
    scheme = urlsplit(destination).scheme
    others = repository_of_scheme(scheme)

    def make(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
        options = {"tracking_uri": tracking_uri, "registry_uri": registry_uri}
        if artifact_uri == destination or artifact_uri.startswith(destination + "/"):
            root = paths.check(artifact_uri[len(destination) :].lstrip("/"))
            return repository(artifact_uri, open_store, root, **options)
        return others(artifact_uri, **options)

    register_repository(scheme, make)
