"""How MLflow's handlers find, check and label artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType


def is_served(root: str) -> bool:
    """Return whether artifacts below this address go through the server (``mlflow-artifacts:``)."""
    from mlflow.server import handlers

    return bool(handlers._is_servable_proxied_run_artifact_root(root))


def path_in_store(root: str, path: str) -> str:
    """Return the path below ARTIFACTS_DESTINATION of a path below an address for which :func:`is_served` holds."""
    from mlflow.server import handlers

    return str(handlers._get_proxied_run_artifact_destination_path(root, path))


def trace_location(trace: Any) -> str:
    """Return the address of the artifacts of a trace (``mlflow.entities.TraceInfo``)."""
    from mlflow.server import handlers

    return str(handlers.get_artifact_uri_for_trace(trace))


def check_attachment(path: str) -> None:
    """Refuse the name of a trace's attachment as MLflow does.

    Raises:
        MlflowException: with INVALID_PARAMETER_VALUE.
    """
    from mlflow.store.artifact.artifact_repo import _validate_attachment_path

    _validate_attachment_path(path)


def media_type(path: str) -> str:
    """Return the media type that MLflow serves an artifact as."""
    from mlflow.utils.mime_type_utils import _guess_mime_type

    return str(_guess_mime_type(path))


def content_disposition(name: str) -> str:
    """Return the Content-Disposition with which MLflow has a file saved (RFC 6266)."""
    from mlflow.server.handlers import _content_disposition_attachment

    return str(_content_disposition_attachment(name))


def unsupported_multipart() -> str:
    """Return the words by which MLflow's client knows that an upload in parts isn't to be had."""
    from mlflow.exceptions import _UnsupportedMultipartUploadException

    return str(_UnsupportedMultipartUploadException.MESSAGE)


def repository_of_scheme(scheme: str) -> Callable[..., Any]:
    """Return what MLflow makes artifact repositories of a scheme with (a class, or a function that was registered).

    Raises:
        KeyError: if MLflow has none.
    """
    from mlflow.store.artifact import artifact_repository_registry

    found: Callable[..., Any] = artifact_repository_registry._artifact_repository_registry._registry[scheme]
    return found


def register_repository(scheme: str, make: Callable[..., Any]) -> None:
    """Let MLflow, in this process, make artifact repositories of a scheme with ``make``.

    Args:
        make: takes the address, ``tracking_uri`` and ``registry_uri``.
    """
    from mlflow.store.artifact import artifact_repository_registry

    artifact_repository_registry._artifact_repository_registry.register(scheme, make)


def guard_repositories(check: Callable[[str], None]) -> Callable[[], None]:
    """Let MLflow, in this process, make no artifact repository before ``check`` has seen its address.

    MLflow makes all of them in one place, also those that ``runs:`` and ``models:`` lead to.

    Args:
        check: raises what the caller shall hear.

    Returns:
        What takes the guard off again.
    """
    from mlflow.store.artifact import artifact_repository_registry

    registry = artifact_repository_registry._artifact_repository_registry
    make = type(registry).get_artifact_repository.__get__(registry)

    def guarded(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
        check(str(artifact_uri))
        return make(artifact_uri, tracking_uri, registry_uri)

    registry.get_artifact_repository = guarded
    return lambda: vars(registry).pop("get_artifact_repository", None)


def when_repositories_are_there(then: Callable[[], None]) -> None:
    """Call ``then`` once this process has imported what makes MLflow's artifact repositories, before its first use."""
    import sys
    from importlib.abc import MetaPathFinder
    from importlib.machinery import PathFinder

    name = "mlflow.store.artifact.artifact_repository_registry"
    if name in sys.modules:
        then()
        return

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
            if fullname != name:
                return None
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is None or spec.loader is None:
                return spec
            sys.meta_path.remove(self)
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())


def guard_served(check: Callable[[str], None]) -> None:
    """Let MLflow's handlers, in this process, take no address for one of this server before ``check`` has seen it.

    Args:
        check: raises what the caller shall hear.
    """
    from mlflow.server import handlers

    is_served_by_mlflow = handlers._is_servable_proxied_run_artifact_root

    def guarded(run_artifact_root: str) -> Any:
        check(str(run_artifact_root))
        return is_served_by_mlflow(run_artifact_root)

    handlers._is_servable_proxied_run_artifact_root = guarded
