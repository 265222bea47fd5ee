"""After the first deploy: status, rotation, backups, logs, doctor, and taking it down."""

from __future__ import annotations

import copy
import json

import pytest

from tests.deploy import snapshot
from tests.deploy.conftest import ACCOUNT, CLIENT_SECRET, PROJECT, URL, Tool, image
from tests.deploy.emulator.run import Pretended
from tests.deploy.test_release import runtime, served_image


def states(tool: Tool, secret: str) -> list[str]:
    """Return the states of a secret's versions, oldest first."""
    return [version["state"] for version in tool.cloud.secrets.all[secret].versions]


def test_status_tells_what_runs_and_that_all_is_well(deployed: Tool) -> None:
    deployed.good("backup")
    result = deployed.good("status", "--json")
    told = json.loads(result.out)
    assert told["url"] == URL
    assert told["image"] == image("1")
    assert told["problems"] == []
    assert told["secrets"]["mlflow-dev-cookie-secret"] == {"serving": "1", "enabled": ["1"], "days": 0}
    assert told["backups"][0]["status"] == "SUCCESSFUL"
    assert told["schema"].startswith("up to date with 1 (the serving release)")
    assert told["monthly_cost"]["database"] > 0
    assert not deployed.cloud.writes[1:]  # the backup's alone


def test_status_tells_rights_that_are_missing_or_too_wide(deployed: Tool) -> None:
    cloud, member = deployed.cloud, f"serviceAccount:{ACCOUNT}"
    cloud.secrets.all["mlflow-dev-cookie-secret"].policy.bindings.clear()
    cloud.project.policy.bindings.append({"role": "roles/editor", "members": [member]})
    cloud.project.policy.bindings.append({"role": "roles/cloudsql.client", "members": [member]})
    result = deployed.run("status")
    assert result.code == 1
    assert "missing: roles/secretmanager.secretAccessor on mlflow-dev-cookie-secret" in result.out
    assert f"too wide: {ACCOUNT} has roles/editor on the whole project" in result.out
    assert "may connect to every database of the project" in result.out
    assert "no good backup of the last two days" in result.out


def test_status_of_nothing(tool: Tool) -> None:
    assert "nothing serves: python -m deploy apply" in tool.run("status").out


def test_a_rotated_cookie_secret_serves_before_the_old_one_is_disabled(deployed: Tool) -> None:
    old = deployed.cloud.secrets.value("mlflow-dev-cookie-secret", "1")
    deployed.good("rotate", "cookie", "--no-smoke")
    assert states(deployed, "mlflow-dev-cookie-secret") == ["DISABLED", "ENABLED"]
    assert deployed.cloud.secrets.value("mlflow-dev-cookie-secret", "2") != old
    assert runtime(deployed).launched[-1].environment["OAUTH2_PROXY_COOKIE_SECRET"].encode() != old
    methods = [request.method.rsplit(".", 1)[1] for request in deployed.cloud.writes]
    assert methods.index("addVersion") < methods.index("replaceService") < methods.index("disable")
    deployed.cloud.requests.clear()
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert deployed.cloud.writes == [], result.out


def test_a_rotated_database_password_is_the_users_and_the_services(deployed: Tool) -> None:
    old = deployed.cloud.sql.instances["mlflow-dev"].users["mlflow"]
    deployed.good("rotate", "database", "--no-smoke")
    new = deployed.cloud.sql.instances["mlflow-dev"].users["mlflow"]
    assert new != old
    assert f":{new}@" in runtime(deployed).launched[-1].environment["BACKEND_STORE_URI"]
    assert states(deployed, "mlflow-dev-database-url") == ["DISABLED", "ENABLED"]


def test_a_new_oauth_client_is_taken_from_its_file(deployed: Tool) -> None:
    path = deployed.home / "new.json"
    path.write_text(
        json.dumps(
            {
                "web": {
                    "client_id": "999-new.apps.googleusercontent.com",
                    "client_secret": "GOCSPX-another-one",
                }
            }
        )
    )
    deployed.good("rotate", "oauth", "--no-smoke", "--oauth-client", str(path))
    environment = runtime(deployed).launched[-1].environment
    assert environment["OAUTH2_PROXY_CLIENT_SECRET"] == "GOCSPX-another-one" != CLIENT_SECRET
    assert environment["OAUTH2_PROXY_CLIENT_ID"] == "999-new.apps.googleusercontent.com"
    deployed.cloud.requests.clear()
    result = deployed.good("apply", "--yes", "--no-smoke")
    assert deployed.cloud.writes == [], result.out


def test_a_rotation_that_fails_leaves_the_old_secret_and_password_serving(deployed: Tool) -> None:
    old = deployed.cloud.sql.instances["mlflow-dev"].users["mlflow"]
    deployed.extra["MLFLOW_TRACKING_TOKEN"] = "e30.e30.c2ln"
    result = deployed.run("rotate", "database")  # nothing answers, so the smoke test fails
    assert result.code == 1
    assert "keeps all the traffic with version 1" in result.err
    assert deployed.cloud.sql.instances["mlflow-dev"].users["mlflow"] == old
    assert states(deployed, "mlflow-dev-database-url") == ["ENABLED", "DISABLED"]
    assert served_image(deployed) == image("1")


def test_backup_lists_backups_and_says_how_to_restore(deployed: Tool) -> None:
    result = deployed.good("backup")
    identity = deployed.cloud.sql.instances["mlflow-dev"].backups[0]["id"]
    assert f"python -m deploy restore {deployed.file} --backup {identity}" in result.out


def test_migrate_backs_up_first(deployed: Tool) -> None:
    deployed.good("migrate")
    methods = [request.method for request in deployed.cloud.writes]
    assert methods.index("sql.backupRuns.insert") < methods.index("run.namespaces.jobs.run")


def test_logs_show_the_newest_last(deployed: Tool) -> None:
    deployed.cloud.logs.write("first", service="mlflow-dev")
    deployed.cloud.logs.write("second", service="mlflow-dev")
    lines = deployed.good("logs").out.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["first", "second"]
    assert '"mlflow-dev"' in deployed.cloud.logs.filters[-1]


def test_doctor_finds_what_stands_in_the_way(tool: Tool) -> None:
    tool.cloud.project.billing = False
    tool.cloud.project.constraints["run.managed.requireInvokerIam"] = {"enforce": True}
    result = tool.run("doctor")
    assert result.code == 1
    assert "✗ billing: no billing account is linked" in result.out
    assert f"https://console.cloud.google.com/billing/linkedaccount?project={PROJECT}" in result.out
    assert "✗ policy run.managed.requireInvokerIam: forbids" in result.out
    assert "✗ APIs: not enabled: artifactregistry.googleapis.com" in result.out
    assert "✓ connections: at most" in result.out
    assert tool.cloud.writes == []


def test_destroy_takes_what_it_promised_and_keeps_the_data(deployed: Tool) -> None:
    before = snapshot.take(deployed.cloud)
    result = deployed.good("destroy", answers="dev\n")
    after, cloud = snapshot.take(deployed.cloud), deployed.cloud
    assert after["services"] == {}
    assert after["jobs"] == []
    assert after["accounts"] == []
    assert list(after["repositories"]) == ["europe-west1/shared"]  # another's
    assert after["buckets"] == before["buckets"]
    assert after["sql"] == before["sql"]
    assert sorted(cloud.secrets.all) == [
        "mlflow-dev-database-url",
        "mlflow-dev-kek-passphrase",
        "mlflow-dev-webhook-key",
    ]
    assert not [b for b in cloud.project.policy.bindings if ACCOUNT in str(b)]
    assert "= stays: database server mlflow-dev" in result.out
    assert "= stays: bucket gs://demo-project-mlflow-dev" in result.out


def test_the_repository_that_promoted_images_live_in_stays(deployed: Tool) -> None:
    """Another environment's service, or another project's Cloud Run, would start no instance any more."""
    cloud, place = deployed.cloud, "europe-west1/mlflow-dev"
    other = copy.deepcopy(cloud.run.services["mlflow-dev"])
    other.meta["metadata"]["name"] = "mlflow-prod"
    container = other.meta["spec"]["template"]["spec"]["containers"][0]
    container["image"] = f"europe-west1-docker.pkg.dev/{PROJECT}/mlflow-dev/gatehouse@sha256:{'0' * 64}"
    cloud.run.services["mlflow-prod"] = other
    result = deployed.here("destroy", "--data", "--confirm", "dev")
    assert result.code == 0, result.text
    assert "used by the service mlflow-prod (what was promoted lives here)" in result.out
    assert place in cloud.registry.repositories
    del cloud.run.services["mlflow-prod"]
    deployed.here_good("destroy", "--data", "--confirm", "dev")
    assert place not in cloud.registry.repositories


def test_after_destroy_apply_comes_back_with_the_data(deployed: Tool) -> None:
    password = deployed.cloud.sql.instances["mlflow-dev"].users["mlflow"]
    deployed.good("destroy", "--confirm", "dev")
    deployed.apply()
    assert deployed.cloud.sql.instances["mlflow-dev"].users["mlflow"] == password
    assert f":{password}@" in runtime(deployed).launched[-1].environment["BACKEND_STORE_URI"]


def test_destroy_with_data_leaves_nothing(deployed: Tool) -> None:
    deployed.cloud.storage.buckets[f"{PROJECT}-mlflow-dev"].objects["artifacts/1/model"] = b"model"
    deployed.good("destroy", "--data", "--confirm", "dev")
    after = snapshot.take(deployed.cloud)
    assert [after[key] for key in ("services", "jobs", "accounts", "secrets", "buckets", "sql")] == [
        {},
        [],
        [],
        {},
        {},
        {},
    ]


def test_destroy_wants_the_name(deployed: Tool) -> None:
    before = snapshot.take(deployed.cloud)
    assert deployed.run("destroy", answers="prod\n").code == 1
    assert deployed.run("destroy", "--confirm", "yes").code == 1
    assert snapshot.take(deployed.cloud) == before
    assert deployed.cloud.writes == []


def test_a_protected_database_is_not_destroyed(tool: Tool) -> None:
    tool.configure(sql={"deletion_protection": True})
    tool.apply()
    tool.cloud.requests.clear()
    result = tool.run("destroy", "--data", "--confirm", "dev")
    assert result.code == 1
    assert f"gcloud sql instances patch mlflow-dev --no-deletion-protection --project={PROJECT}" in result.err
    assert tool.cloud.writes == []


@pytest.mark.parametrize("command", ["status", "rollback", "migrate"])
def test_commands_on_an_empty_project_say_what_to_do(tool: Tool, command: str) -> None:
    result = tool.run(command)
    assert "apply" in result.text or "nothing serves" in result.text
    assert "Traceback" not in result.text


def test_a_container_that_never_started_is_no_success(tool: Tool) -> None:
    pretended = tool.cloud.run.runtime
    assert isinstance(pretended, Pretended)
    pretended.broken.add("gatehouse:1")
    result = tool.run("apply", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))
    assert result.code == 1
    assert "failed the configured startup probe checks" in result.out
    pretended.broken.clear()
    tool.apply()
