"""Every private name of other packages that Gatehouse relies on:

where it is used, for what, and whether it is still so.

``python -m gatehouse.upstream.names`` looks each of them up in what is installed and prints what is missing or has
changed; ``make upstream-check MLFLOW=3.16.0`` does so beside another release of MLflow. What a name's signature can't
tell (what it does) is held by the tests that are named.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """One private name.

    Attributes:
        where: ``module:attribute`` or ``module:Class.attribute``.
        use: what it is needed for.
        guard: the test that fails when it does something else.
        parameters: that it must take, in this order from the first on; None if it isn't called.
    """

    where: str
    use: str
    guard: str
    parameters: tuple[str, ...] | None = None

    def problem(self) -> str | None:
        """Return what is wrong with the name in the installed packages, or None."""
        module, _, path = self.where.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            return f"is gone ({error})"
        if self.parameters is None:
            return None
        given = tuple(inspect.signature(found).parameters)
        if given[: len(self.parameters)] != self.parameters:
            return f"takes ({', '.join(given)}), not ({', '.join(self.parameters)}, …)"
        return None


_CONTRACT = "tests/upstream/test_names.py"
_SCHEMA = "tests/database/test_schema.py"
_STORE = "tests/database/test_tracking_store.py"
_WRITES = "tests/database/test_writes.py"
_MATRIX = "tests/artifacts/test_matrix.py"
_SQL = "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore."
_HANDLERS = "mlflow.server.handlers:"

NAMES = (
    Name(_HANDLERS + "_get_tracking_store", "the store of MLflow's handlers", _STORE, ("backend_store_uri",)),
    Name(_HANDLERS + "_get_model_registry_store", "the registry of MLflow's handlers", _STORE, ("registry_store_uri",)),
    Name(_HANDLERS + "_tracking_store_registry.register", "our store instead of MLflow's", _STORE, ("scheme",)),
    Name(
        _HANDLERS + "_is_servable_proxied_run_artifact_root",
        "which artifacts we serve",
        _MATRIX,
        ("run_artifact_root",),
    ),
    Name(
        _HANDLERS + "_get_proxied_run_artifact_destination_path",
        "where an artifact is in the store",
        _MATRIX,
        ("proxied_artifact_root", "relative_path"),
    ),
    Name(_HANDLERS + "_content_disposition_attachment", "the header of a download", _MATRIX, ("filename",)),
    Name(_HANDLERS + "get_artifact_uri_for_trace", "where a trace's artifacts are", _MATRIX, ("trace_info",)),
    Name(_HANDLERS + "HANDLERS", "the message class of each request", "tests/access/test_people.py"),
    Name(
        _HANDLERS + "_reject_conflicting_field_aliases",
        "a field under both of its names is refused",
        "tests/access/test_people.py",
        ("request_json", "message_descriptor"),
    ),
    Name(
        "mlflow.server.otel_api:_convert_otlp_json_ids_to_base64",
        "spans in JSON",
        "tests/access/test_stamping.py",
        ("body",),
    ),
    Name("mlflow.store.artifact.artifact_repo:_validate_attachment_path", "names of attachments", _MATRIX, ("path",)),
    Name("mlflow.utils.mime_type_utils:_guess_mime_type", "an artifact's media type", _MATRIX, ("file_path",)),
    Name(
        "mlflow.store.artifact.artifact_repository_registry:_artifact_repository_registry._registry",
        "our repositories instead of MLflow's",
        "tests/artifacts/test_object_stores.py",
    ),
    Name(
        "mlflow.store.artifact.artifact_repository_registry:_artifact_repository_registry.get_artifact_repository",
        "no repository for a foreign address",
        "tests/artifacts/test_addresses.py",
        ("artifact_uri", "tracking_uri", "registry_uri"),
    ),
    Name(
        "mlflow.exceptions:_UnsupportedMultipartUploadException.MESSAGE",
        "the words by which the client falls back to the server",
        "tests/artifacts/test_direct.py",
    ),
    Name(
        "mlflow.utils.validation:_validate_metric",
        "which metrics are refused",
        _STORE,
        ("key", "value", "timestamp", "step", "path"),
    ),
    Name("mlflow.utils.validation:_validate_metric_name", "which names are refused", _WRITES, ("name",)),
    Name("mlflow.utils.name_utils:_generate_random_name", "the name of a run that comes without one", _WRITES, ()),
    Name(_SQL + "_log_metrics_once", "overridden: metrics in three statements", _STORE, ("self", "run_id", "metrics")),
    Name(_SQL + "_get_run", "a run's row", _STORE, ("self", "session", "run_uuid", "eager")),
    Name(_SQL + "_check_run_is_active", "no metrics for deleted runs", _STORE, ("self", "run")),
    Name(_SQL + "_get_run_inputs", "a run's datasets", _STORE, ("self", "session", "run_uuids")),
    Name(_SQL + "_get_model_inputs", "a run's model inputs", _STORE, ("self", "run_id", "session")),
    Name(_SQL + "_get_model_outputs", "a run's model outputs", _STORE, ("self", "run_id", "session")),
    Name(_SQL + "_get_deleted_runs", "`gatehouse gc`", "tests/artifacts/test_gc.py", ("self", "older_than")),
    Name(_SQL + "_get_deleted_logged_models", "`gatehouse gc`", "tests/artifacts/test_gc.py", ("self", "older_than")),
    Name(
        _SQL + "_initialize_store_state",
        "`gatehouse gc` looks at all workspaces",
        "tests/teams/test_gc.py",
        ("self",),
    ),
    Name(_SQL + "_get_or_create_engine", "one pool for two stores", "tests/teams/test_entering.py", ("db_uri",)),
    Name(
        "mlflow.store.db.utils:_get_managed_session_maker",
        "sessions of the store of workspaces",
        "tests/teams/test_entering.py",
        ("SessionMaker", "db_type"),
    ),
    Name(
        _HANDLERS + "_get_workspace_scoped_repo_path_if_enabled",
        "where a workspace's artifacts are",
        "tests/teams/test_artifacts.py",
        ("artifact_path",),
    ),
    Name("mlflow.utils.workspace_context:_WORKSPACE", "the request's workspace", "tests/teams/test_artifacts.py"),
    Name(
        "mlflow.utils.workspace_context:set_server_request_workspace",
        "the request's workspace, found by the gate",
        "tests/teams/test_entering.py",
        ("workspace",),
    ),
    Name(
        "mlflow.server.workspace_helpers:_get_workspace_store",
        "which workspaces there are",
        "tests/teams/test_entering.py",
        ("workspace_uri",),
    ),
    Name(
        "mlflow.tracking:_workspace.registry._get_workspace_store_registry",
        "our store of workspaces instead of MLflow's",
        "tests/teams/test_entering.py",
        (),
    ),
    Name("mlflow.webhooks.delivery:_webhook_cache", "webhooks apart by workspace", "tests/teams/test_webhooks.py"),
    Name("mlflow.store.db.utils:_get_alembic_config", "where the migrations are", _SCHEMA, ("db_url",)),
    Name(
        "alembic.script:ScriptDirectory._upgrade_revs",
        "which migrations are missing",
        _SCHEMA,
        ("self", "destination", "current_rev"),
    ),
    Name(
        "mlflow.server.jobs.utils:_launch_job_execution_runner",
        "the job runner: the supervisor starts the same module",
        "tests/start/test_jobs.py",
        ("env_map", "server_proc_pid"),
    ),
)

#: Variables that MLflow keeps private, and the constant or the declaration that holds each name.
VARIABLES = {
    "_MLFLOW_SERVER_FILE_STORE": "mlflow.server.constants:BACKEND_STORE_URI_ENV_VAR",
    "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE": "mlflow.server.constants:READ_REPLICA_BACKEND_STORE_URI_ENV_VAR",
    "_MLFLOW_SERVER_REGISTRY_STORE": "mlflow.server.constants:REGISTRY_STORE_URI_ENV_VAR",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow.server.constants:ARTIFACT_ROOT_ENV_VAR",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "mlflow.server.constants:ARTIFACTS_DESTINATION_ENV_VAR",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "mlflow.server.constants:SERVE_ARTIFACTS_ENV_VAR",
    "_MLFLOW_SGI_NAME": "mlflow.environment_variables:_MLFLOW_SGI_NAME",
    "_MLFLOW_SERVER_BOOT_ID": "mlflow.environment_variables:_MLFLOW_SERVER_BOOT_ID",
    "_MLFLOW_IN_JOB_EXECUTOR": "mlflow.environment_variables:_MLFLOW_IN_JOB_EXECUTOR",
    "_MLFLOW_HUEY_STORAGE_PATH": "mlflow.server.constants:HUEY_STORAGE_PATH_ENV_VAR",
    "_MLFLOW_SERVER_UP_TIME": "mlflow.server.constants:MLFLOW_SERVER_UP_TIME",
}


def variable_problem(name: str, where: str) -> str | None:
    """Return what is wrong with a private variable's name, or None."""
    module, _, attribute = where.partition(":")
    found = getattr(importlib.import_module(module), attribute, None)
    value = getattr(found, "name", found)
    return None if value == name else f"is {value!r} there ({where})"


def problems() -> list[str]:
    """Return a line for each name that is gone or has changed, with the test that holds what it does."""
    lines = [f"{name.where} {what}; it is for {name.use} ({name.guard})" for name in NAMES if (what := name.problem())]
    lines += [
        f"{name} {what} ({_CONTRACT})" for name, where in VARIABLES.items() if (what := variable_problem(name, where))
    ]
    return lines


def main() -> int:
    """Print the problems, or how many names are as they were; return 1 if there are problems."""
    found = problems()
    from mlflow.version import VERSION

    total = len(NAMES) + len(VARIABLES)
    for line in found:
        print(line)
    print(f"MLflow {VERSION}: {total - len(found)} of {total} private names are as Gatehouse knows them")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
