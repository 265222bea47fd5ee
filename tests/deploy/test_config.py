"""An environment's file: defaults, names that follow, variables that override, and every problem at once with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.config import HERE, SCHEMA, ConfigError, load
from tests.deploy.conftest import DEV


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "dev.yaml"
    path.write_text(yaml.safe_dump(DEV | changes))
    return path


def problems(folder: Path, environ: dict[str, str] | None = None, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(str(write(folder, **changes)), environ or {})
    return caught.value.problems


def test_names_follow_from_the_namespace(tmp_path: Path) -> None:
    names = load(str(write(tmp_path)), {}).names
    assert (names.service, names.sql, names.bucket) == ("mlflow-dev", "mlflow-dev", "demo-project-mlflow-dev")
    assert names.secret("cookie-secret") == "mlflow-dev-cookie-secret"


def test_each_name_can_be_set(tmp_path: Path) -> None:
    names = load(str(write(tmp_path, names={"service": "tracking", "bucket": "ml-artifacts"})), {}).names
    assert (names.service, names.bucket, names.sql) == ("tracking", "ml-artifacts", "mlflow-dev")


def test_every_problem_is_told_at_once_with_its_path(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        region="Europe",
        sql={"tier": "huge", "flavour": "sweet"},
        service={"max_instances": 0},
        oauth={"email_domains": ["@example"]},
    )
    paths = [line.split(":")[0] for line in found]
    assert sorted(paths) == [
        "oauth/email_domains/0",
        "region",
        "service/max_instances",
        "sql/flavour",
        "sql/tier",
    ]


def test_what_is_missing_is_told_with_its_meaning(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    with pytest.raises(ConfigError) as caught:
        load(str(path), {})
    assert any(line.startswith("project: is missing. The Google Cloud project's id") for line in caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "path", "told"),
    [
        ({"names": {"service": "m" * 40}}, "names/service", "must fit in 63 characters"),
        ({"names": {"sql": "m" * 70}}, "names/sql", "a socket's path has at most 107"),
        ({"names": {"bucket": "google-things"}}, "names/bucket", "refuses names"),
        ({"service": {"min_instances": 3}}, "service/min_instances", "not be more than"),
        ({"service": {"memory": "256Mi"}}, "service/memory", "512Mi"),
        ({"service": {"env": {"PUBLIC_URL": "x"}}}, "service/env/PUBLIC_URL", "set by the deploy tool"),
        ({"service": {"env": {"MY_PASSWORD": "x"}}}, "service/env/MY_PASSWORD", "looks like a secret"),
        ({"sql": {"tier": "db-custom-3-4096"}}, "sql/tier", "even number of CPUs"),
        ({"sql": {"network": "default"}}, "sql/subnet", "is missing"),
        ({"service": {"max_instances": 9}}, "sql/tier", "allows 22 connections"),
        ({"access_policy": "nowhere.yaml"}, "access_policy", "cannot be read"),
    ],
)
def test_what_could_never_work_is_refused(tmp_path: Path, changes: dict[str, Any], path: str, told: str) -> None:
    (line,) = problems(tmp_path, **changes)
    assert line.startswith(f"{path}: ")
    assert told in line


def test_variables_override_the_file(tmp_path: Path) -> None:
    environ = {
        "DEPLOY_SQL_TIER": "db-g1-small",
        "DEPLOY_SERVICE_MAX_INSTANCES": "1",
        "DEPLOY_OAUTH_EMAIL_DOMAINS": "[a.org, b.org]",
    }
    config = load(str(write(tmp_path)), environ)
    assert config.sql["tier"] == "db-g1-small"
    assert config.service["max_instances"] == 1
    assert config.oauth["email_domains"] == ["a.org", "b.org"]


def test_a_variable_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, {"DEPLOY_SQL_TEIR": "db-g1-small"})
    assert line.startswith("DEPLOY_SQL_TEIR: no such setting")


def test_an_unknown_environment_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="Environments here: dev, prod, staging"):
        load("nowhere", {})


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_the_environments_that_ship_are_valid_and_hold_no_secret(name: str) -> None:
    config = load(name, {"DEPLOY_PROJECT": "demo-project"})
    assert config.environment == name
    assert "secret" not in (HERE / "environments" / f"{name}.yaml").read_text().lower()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
