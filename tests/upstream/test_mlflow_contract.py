"""What Gatehouse relies on in MLflow without a promise from it: a new release that changes it fails here first."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

import tomllib
from mlflow.server import constants, handlers
from mlflow.store.db import utils

from gatehouse.start import mlflow_app
from gatehouse.start.settings import load
from local.proxy_binary import ROOT


def test_the_installed_mlflow_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = {
        requirement
        for requirement in project["project"]["optional-dependencies"]["server"]
        if requirement.startswith("mlflow")
    }
    assert pins == {f"mlflow=={version('mlflow')}"}
    for name in ("server.in", "server.txt", "dev.txt"):
        assert re.search(
            rf"^mlflow=={re.escape(version('mlflow'))}\b", (ROOT / "requirements" / name).read_text(), re.M
        ), name


def test_the_private_variables_still_have_these_names() -> None:
    settings = load(
        {"BACKEND_STORE_URI": "sqlite:////x.db", "ARTIFACTS_DESTINATION": "gs://b", "PUBLIC_URL": "https://h"}
    )
    names = set(mlflow_app.environment(settings))
    assert {
        constants.BACKEND_STORE_URI_ENV_VAR,
        constants.REGISTRY_STORE_URI_ENV_VAR,
        constants.ARTIFACT_ROOT_ENV_VAR,
        constants.ARTIFACTS_DESTINATION_ENV_VAR,
        constants.SERVE_ARTIFACTS_ENV_VAR,
    } <= names
    from mlflow import environment_variables

    declared = {value.name for value in vars(environment_variables).values() if hasattr(value, "name")}
    own = {name for name in names if not name.startswith("_MLFLOW_SERVER_") or name == "_MLFLOW_SERVER_BOOT_ID"}
    assert own - {"DO_NOT_TRACK", "OPENBLAS_NUM_THREADS"} <= declared


def test_the_stores_are_still_opened_by_these_functions() -> None:
    assert inspect.signature(handlers._get_tracking_store).parameters["backend_store_uri"].default is None
    assert inspect.signature(handlers._get_model_registry_store).parameters["registry_store_uri"].default is None


def test_the_schema_is_still_made_from_the_first_tables_and_all_migrations() -> None:
    source = inspect.getsource(utils._initialize_tables)
    assert "InitialBase.metadata.create_all(engine)" in source
    assert "_upgrade_db(engine)" in source
    assert (
        "render_as_batch=True"
        in (ROOT / inspect.getfile(utils))
        .with_name("utils.py")
        .parent.joinpath("..", "db_migrations", "env.py")
        .read_text()
    )
