"""The emulator refuses what Google refuses; a test on it can fail."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.conftest import NUMBER, PROJECT
from tests.deploy.emulator import Emulator

RUN = "europe-west1-run.googleapis.com"


def ask(cloud: Emulator, host: str, method: str, target: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    """Send one request, with every API enabled."""
    cloud.project.enabled |= {
        f"{name}.googleapis.com" for name in ("run", "iam", "secretmanager", "sqladmin", "artifactregistry")
    }
    reply = cloud.answer(host, method, target, {}, json.dumps(body).encode() if body is not None else b"")
    return reply.status, json.loads(reply.data or b"{}")


def secret(cloud: Emulator, name: str = "one", **body: Any) -> tuple[int, dict[str, Any]]:
    target = f"/v1/projects/{PROJECT}/secrets?secretId={name}"
    return ask(cloud, "secretmanager.googleapis.com", "POST", target, {"replication": {"automatic": {}}} | body)


def instance(cloud: Emulator, **changes: Any) -> tuple[int, dict[str, Any]]:
    settings = {"tier": "db-f1-micro", "edition": "ENTERPRISE"} | changes.pop("settings", {})
    body = {"name": "db", "region": "europe-west1", "databaseVersion": "POSTGRES_16", "settings": settings} | changes
    return ask(cloud, "sqladmin.googleapis.com", "POST", f"/sql/v1beta4/projects/{PROJECT}/instances", body)


def test_a_method_that_google_does_not_describe_is_no_method(cloud: Emulator) -> None:
    status, answer = ask(cloud, "secretmanager.googleapis.com", "POST", f"/v1/projects/{PROJECT}/passwords")
    assert status == 404
    assert "describes no such method" in answer["error"]["message"]
    assert cloud.unknown()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"secretText": "x"}, 'Unknown name "secretText"'),
        ({"labels": ["a"]}, "expected an object"),
        ({"replication": {"userManaged": {"replicas": {}}}}, "expected a list"),
        ({"ttl": 5}, "TYPE_STRING"),
    ],
)
def test_a_body_that_the_description_does_not_allow_is_refused(
    cloud: Emulator, body: dict[str, Any], told: str
) -> None:
    status, answer = secret(cloud, **body)
    assert status == 400
    assert told in answer["error"]["message"]


def test_an_unknown_query_parameter_is_refused(cloud: Emulator) -> None:
    status, _ = ask(cloud, "secretmanager.googleapis.com", "GET", f"/v1/projects/{PROJECT}/secrets?limit=3")
    assert status == 400


def test_a_name_is_taken_once(cloud: Emulator) -> None:
    assert secret(cloud)[0] == 200
    status, answer = secret(cloud)
    assert (status, answer["error"]["status"]) == (409, "ALREADY_EXISTS")


def test_another_project_is_out_of_reach(cloud: Emulator) -> None:
    assert ask(cloud, "secretmanager.googleapis.com", "GET", "/v1/projects/another/secrets")[0] == 403


def test_an_api_must_be_enabled(cloud: Emulator) -> None:
    reply = cloud.answer("secretmanager.googleapis.com", "GET", f"/v1/projects/{PROJECT}/secrets", {}, b"")
    assert reply.status == 403
    assert b"SERVICE_DISABLED" in reply.data


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Db"}, "Invalid instance name"),
        ({"name": "d" * 90}, "at most 98"),
        ({"region": "europe-west99"}, "or it may not exist"),
        ({"databaseVersion": "MYSQL_8_0"}, "databaseVersion"),
        ({"settings": {"tier": "db-huge"}}, "Invalid Tier"),
        ({"settings": {"edition": "ENTERPRISE_PLUS"}}, "Invalid Tier"),
        ({"settings": {"ipConfiguration": {"ipv4Enabled": False}}}, "At least one of Public IP or Private IP"),
    ],
)
def test_a_database_that_could_not_be_is_refused(cloud: Emulator, changes: dict[str, Any], told: str) -> None:
    status, answer = instance(cloud, **changes)
    assert status in {400, 403}
    assert told in answer["error"]["message"]


def test_the_quota_of_databases_is_kept(cloud: Emulator) -> None:
    cloud.sql.quota_of_instances = 0
    status, answer = instance(cloud)
    assert status == 403
    assert "quota" in answer["error"]["message"]


def test_a_busy_database_takes_no_second_operation(cloud: Emulator) -> None:
    cloud.sql.polls = 3
    assert instance(cloud)[0] == 200
    status, answer = ask(
        cloud,
        "sqladmin.googleapis.com",
        "POST",
        f"/sql/v1beta4/projects/{PROJECT}/instances/db/databases",
        {"name": "x"},
    )
    assert status == 409
    assert "already in progress" in answer["error"]["message"]


def test_a_policy_with_an_old_tag_is_refused(cloud: Emulator) -> None:
    policy = {"etag": "b2xk", "bindings": [{"role": "roles/owner", "members": ["user:a@example.com"]}]}
    target = f"/v1/projects/{PROJECT}:setIamPolicy"
    status, answer = ask(cloud, "cloudresourcemanager.googleapis.com", "POST", target, {"policy": policy})
    assert (status, answer["error"]["status"]) == (409, "ABORTED")


def test_a_service_account_that_does_not_exist_gets_no_rights(cloud: Emulator) -> None:
    secret(cloud)
    member = f"serviceAccount:nobody@{PROJECT}.iam.gserviceaccount.com"
    policy = {"bindings": [{"role": "roles/secretmanager.secretAccessor", "members": [member]}]}
    target = f"/v1/projects/{PROJECT}/secrets/one:setIamPolicy"
    status, answer = ask(cloud, "secretmanager.googleapis.com", "POST", target, {"policy": policy})
    assert status == 400
    assert "does not exist" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("container", "told"),
    [
        ({"env": [{"name": "PORT", "value": "1"}]}, "reserved environment names: PORT"),
        ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "duplicate names"),
        ({"resources": {"limits": {"memory": "256Mi"}}}, "Total memory < 512 Mi"),
        ({"image": "x"}, "service account of the service's own"),
    ],
)
def test_a_service_that_cloud_run_refuses_is_refused(cloud: Emulator, container: dict[str, Any], told: str) -> None:
    metadata = {"annotations": {"run.googleapis.com/execution-environment": "gen2"}}
    body = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": NUMBER},
        "spec": {"template": {"metadata": metadata, "spec": {"containers": [container]}}},
    }
    status, answer = ask(cloud, RUN, "POST", f"/apis/serving.knative.dev/v1/namespaces/{PROJECT}/services", body)
    assert status == 400
    assert told in answer["error"]["message"]
