"""An environment's file: defaults, names that follow, variables that override, and every problem at once with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy import settings
from deploy.config import HERE, ROOT, ConfigError, load
from deploy.resources import service
from gatehouse.policy.identity import Identity
from gatehouse.policy.reader import parse
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
        ({"service": {"cpu": 4, "memory": "1Gi"}}, "service/memory", "takes 2048Mi to 16384Mi"),
        ({"service": {"cpu": 1, "memory": "8Gi"}}, "service/memory", "takes 512Mi to 4096Mi"),
        ({"service": {"network": "default"}}, "service/network and service/subnet", "one needs the other"),
        ({"service": {"egress": "all-traffic"}}, "service/egress", "needs service/network"),
        ({"service": {"ingress": "internal"}}, "service/ingress", "set public_url"),
        (
            {"service": {"network": "projects/host-project/global/networks/n", "subnet": "s"}},
            "service/subnet",
            "full name",
        ),
        (
            {"kms_key": "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"},
            "kms_key",
            "is not in europe-west1",
        ),
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
    assert config.sql.tier == "db-g1-small"
    assert config.service.max_instances == 1
    assert config.oauth.email_domains == ["a.org", "b.org"]


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


def test_the_schema_is_the_settings_and_takes_the_environments_that_ship() -> None:
    """Write it anew with `python -m deploy.settings`."""
    assert settings.SCHEMA_FILE.read_text(encoding="utf-8") == settings.text()
    validator = jsonschema.Draft202012Validator(settings.schema())
    validator.check_schema(settings.schema())
    for path in sorted((HERE / "environments").glob("*.yaml")):
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def wrong(folder: Path, **changes: Any) -> list[str]:
    """Return the paths that pydantic finds fault with, after the schema did too."""
    data = DEV | changes
    found = {"/".join(map(str, e.absolute_path)) for e in VALIDATOR.iter_errors(data)}
    assert found
    return sorted(line.split(":")[0] for line in problems(folder, **changes))


VALIDATOR = jsonschema.Draft202012Validator(settings.schema())


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"service": {"cpu": 3}}, "service/cpu"),
        ({"service": {"timeout": "300"}}, "service/timeout"),
        ({"service": {"http2": "yes"}}, "service/http2"),
        ({"service": {"max_instances": 101}}, "service/max_instances"),
        ({"service": {"env": {"lower": "x"}}}, "service/env/lower"),
        ({"service": {"ingress": "some"}}, "service/ingress"),
        ({"sql": {"availability": "both"}}, "sql/availability"),
        ({"labels": {"Team": "x"}}, "labels/Team"),
        ({"oauth": {"email_domains": []}}, "oauth/email_domains"),
        ({"kms_key": "my-key"}, "kms_key"),
    ],
)
def test_the_schema_and_the_tool_refuse_the_same(tmp_path: Path, changes: dict[str, Any], path: str) -> None:
    assert wrong(tmp_path, **changes) == [path]


def test_prods_policy_lets_all_look_and_the_pipeline_and_two_people_write() -> None:
    """As the server reads it, with the APP_ENV that the service gets."""
    config = load("prod", {"DEPLOY_PROJECT": "demo-project"})
    app_env = service.environment(config, "1", "id")["APP_ENV"]
    assert config.policy is not None
    policy = parse(config.policy.encode(), app_env)
    people = {"alice@example.com": "admin", "bob@example.com": "editor", "carol@example.com": "viewer"}
    accounts = {
        "pipeline@my-project.iam.gserviceaccount.com": "editor",
        "other@my-project.iam.gserviceaccount.com": "none",
    }
    for email, role in (people | accounts).items():
        assert str(policy.role_of(Identity(email, "subject"))) == role
    assert {email.split("@")[1] for email in people | accounts} == set(config.oauth.email_domains)


POLICY = "default: viewer\nroles: {admin: [user:a@example.com]}\n"


@pytest.mark.parametrize(
    ("name", "policy", "told"),
    [
        (
            "prod",
            "environments: {production: {default: viewer, roles: {admin: [user:a@b.org]}}}",
            "no section for APP_ENV=prod",
        ),
        ("production", "environments: {prod: {default: viewer, roles: {admin: [user:a@b.org]}}}", "(there are: prod)"),
        ("dev", "roles: {boss: [user:a@b.org]}", "boss"),
        ("dev", "roles: [", "isn't YAML"),
    ],
)
def test_a_policy_that_the_server_would_refuse_is_refused(tmp_path: Path, name: str, policy: str, told: str) -> None:
    (tmp_path / "access.yaml").write_text(POLICY + policy if policy.startswith("env") else policy)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(DEV | {"access_policy": "access.yaml"}))
    with pytest.raises(ConfigError) as caught:
        load(str(path), {})
    assert any(line.startswith("access_policy: access.yaml") and told in line for line in caught.value.problems)


def test_the_documents_section_deploys_as_prod(tmp_path: Path) -> None:
    example = (ROOT / "docs" / "access.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "access.yaml").write_text(example)
    path = tmp_path / "prod.yaml"
    path.write_text(yaml.safe_dump(DEV | {"access_policy": "access.yaml"}))
    assert load(str(path), {}).policy == example
