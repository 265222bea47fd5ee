"""From an empty project to a service and back, with the real gcloud on the emulated APIs."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
import yaml

from tests.deploy import snapshot
from tests.deploy.conftest import ACCOUNT, CLIENT_ID, CLIENT_SECRET, PROJECT, ROOT, TIMEOUT_S, URL, Tool, image
from tests.deploy.emulator import Emulator
from tests.deploy.emulator.core import Call


def values(cloud: Emulator) -> list[bytes]:
    """Return every secret value that the cloud holds, and the passwords in them."""
    found = [version["data"] for secret in cloud.secrets.all.values() for version in secret.versions]
    found += [
        password.encode()
        for instance in cloud.sql.instances.values()
        for password in instance.users.values()
        if password
    ]
    return found


def test_a_plan_of_an_empty_project_changes_nothing_and_names_the_redirect_uri(tool: Tool) -> None:
    result = tool.good("plan")
    assert tool.cloud.writes == []
    assert f"{URL}/oauth2/callback" in result.out
    assert f"https://console.cloud.google.com/auth/clients/create?project={PROJECT}" in result.out
    assert "database $7.67" in result.out  # what dev costs, idle


def test_apply_makes_everything_and_a_second_apply_writes_nothing(straight: Tool, deployed: Tool) -> None:
    cloud = straight.cloud
    service = cloud.run.services["mlflow-dev"].meta
    assert service["status"]["traffic"][0]["percent"] == 100
    assert service["metadata"]["annotations"]["run.googleapis.com/invoker-iam-disabled"] == "True"
    password = cloud.sql.instances["mlflow-dev"].users["mlflow"].encode()
    assert b":" + password + b"@" in cloud.secrets.value("mlflow-dev-database-url", "1")
    assert cloud.storage.buckets[f"{PROJECT}-mlflow-dev"].meta["versioning"] == {"enabled": True}
    assert len(cloud.secrets.value("mlflow-dev-cookie-secret", "1")) == 32
    assert not straight.refused()
    result = deployed.apply()
    assert deployed.cloud.writes == []
    assert "Nothing to do" in result.out


def test_the_service_account_has_the_rights_it_needs_and_no_others(deployed: Tool) -> None:
    cloud, member = deployed.cloud, f"serviceAccount:{ACCOUNT}"
    given = [
        (b["role"], b.get("condition", {}).get("expression", ""))
        for b in cloud.project.policy.bindings
        if member in b["members"]
    ]
    condition = (
        f'resource.name == "projects/{PROJECT}/instances/mlflow-dev" && resource.service == "sqladmin.googleapis.com"'
    )
    assert given == [("roles/cloudsql.client", condition)]
    for bucket in cloud.storage.buckets.values():
        assert [b["role"] for b in bucket.policy.bindings if member in b["members"]] == ["roles/storage.objectUser"]
    for secret in cloud.secrets.all.values():
        assert [b["role"] for b in secret.policy.bindings] == ["roles/secretmanager.secretAccessor"]


def test_direct_transfers_give_the_account_the_right_to_sign_as_itself_and_nothing_else(deployed: Tool) -> None:
    cloud = deployed.cloud
    assert not [policy for policy in cloud.iam.policies.values() if policy.bindings]
    deployed.configure(service={"direct_transfers": True})
    deployed.apply()
    bindings = [{"role": "roles/iam.serviceAccountTokenCreator", "members": [f"serviceAccount:{ACCOUNT}"]}]
    assert {name: policy.bindings for name, policy in cloud.iam.policies.items()} == {ACCOUNT: bindings}
    template = cloud.run.services["mlflow-dev"].meta["spec"]["template"]
    assert {"name": "DIRECT_TRANSFERS", "value": "true"} in template["spec"]["containers"][0]["env"]
    assert "roles/iam" not in str(cloud.project.policy.bindings)
    before = len(cloud.writes)
    assert "Nothing to do" in deployed.apply().out
    assert len(cloud.writes) == before


def test_every_resource_that_can_have_labels_has_them(deployed: Tool) -> None:
    cloud, labels = deployed.cloud, {"app": "gatehouse", "environment": "dev"}
    assert all(secret.meta["labels"] == labels for secret in cloud.secrets.all.values())
    assert cloud.storage.buckets[f"{PROJECT}-mlflow-dev"].meta["labels"] == labels
    assert cloud.sql.instances["mlflow-dev"].meta["settings"]["userLabels"] == labels
    assert cloud.registry.repositories["europe-west1/mlflow-dev"].meta["labels"] == labels
    assert labels.items() <= cloud.run.services["mlflow-dev"].meta["metadata"]["labels"].items()
    assert labels.items() <= cloud.run.jobs["mlflow-dev-schema"]["metadata"]["labels"].items()


def test_killed_after_every_write_in_turn_the_end_is_the_same(straight: Tool, tool: Tool) -> None:
    """`kill -9` of the tool and its gclouds as soon as a write has taken effect, once for each write that there is."""
    cloud = tool.cloud
    killed_at: set[tuple[str, str]] = set()
    # One step at a time: with more, a write could take effect that is never the last.
    arguments = ("apply", "--yes", "--no-smoke", "--parallel=1", "--oauth-client", str(tool.client_file()))
    while True:
        process = tool.start(*arguments)

        def kill(call: Call, process: subprocess.Popen[str] = process) -> None:
            if (call.method, call.path) not in killed_at:
                killed_at.add((call.method, call.path))
                cloud.after_write = None
                os.killpg(process.pid, signal.SIGKILL)

        cloud.after_write = kill
        out, err = process.communicate(timeout=TIMEOUT_S)
        if process.returncode != -signal.SIGKILL:
            break
        assert len(killed_at) < 80, f"it makes no headway: {killed_at}"
    assert process.returncode == 0, out + err + tool.refused()
    assert killed_at >= {(request.method, request.path.split("?")[0]) for request in straight.cloud.writes}
    assert len(killed_at) >= 25
    assert snapshot.take(cloud) == snapshot.take(straight.cloud)
    password = cloud.sql.instances["mlflow-dev"].users["mlflow"].encode()
    assert b":" + password + b"@" in cloud.secrets.value("mlflow-dev-database-url", "1")


def test_no_secret_is_in_any_argument_output_or_file(deployed: Tool) -> None:
    deployed.good("plan")
    deployed.good("plan", "--json")
    deployed.run("status")
    deployed.good("rotate", "cookie", "--no-smoke")
    deployed.good("rotate", "database", "--no-smoke")
    deployed.cloud.denied.add("run.services.update")
    deployed.configure(service={"concurrency": 7})
    deployed.run("apply", "--yes", "--no-smoke")  # an error, too
    seen = deployed.record.read_bytes() + "".join(deployed.printed).encode()
    for path in deployed.home.rglob("*"):
        if path.is_file() and path != deployed.client_file():
            seen += path.read_bytes()
    found = values(deployed.cloud)
    assert len(found) >= 8
    assert CLIENT_SECRET.encode() in found
    for value in found:
        assert value not in seen
    assert CLIENT_ID.encode() in seen  # the search does find what is there


def printed_commands(tool: Tool) -> list[str]:
    """Return the commands that the plan prints, but for the smoke tests."""
    lines = tool.good("plan").out.split("(run them at the top of the repository):\n\n")[1].split("\n\n")[0].splitlines()
    return [line for line in lines if not line.startswith(("export ", "python -m deploy smoke"))]


def test_the_printed_commands_work_when_pasted(straight: Tool, tool: Tool) -> None:
    """Each command in bash, by the gcloud of this machine started anew each time: the result is what `apply` makes."""
    commands = printed_commands(tool)
    assert len(commands) >= 20
    for command in commands:
        _paste(tool, command, PATH=os.environ["PATH"])
    assert snapshot.take(tool.cloud) == snapshot.take(straight.cloud)


def test_the_printed_commands_of_production_work(tool: Tool) -> None:
    """With all that differs from dev:

    a protected standby database, a warm instance, a private network, an access policy.
    """
    (tool.home / "policy.yaml").write_text("default: viewer\nroles: {admin: [user:owner@example.com]}\n")
    production = yaml.safe_load((ROOT / "deploy" / "environments" / "prod.yaml").read_text())
    production["bucket"]["lifecycle"] = str(ROOT / "deploy" / "lifecycle-long.json")
    production |= {"project": PROJECT, "image": image("1"), "access_policy": "policy.yaml", "namespace": "dev"}
    production["sql"] |= {"network": "default", "subnet": "default"}
    tool.configure(**production)
    for command in printed_commands(tool):
        _paste(tool, command)
    assert tool.cloud.sql.instances["mlflow-dev"].meta["settings"]["deletionProtectionEnabled"] is True
    assert "Nothing to do" in tool.good("plan").out
    assert not tool.refused()


def test_the_printed_commands_of_a_release_work(deployed: Tool) -> None:
    deployed.configure(image=image("2"), service={"memory": "2Gi"}, sql={"tier": "db-g1-small"})
    commands = printed_commands(deployed)
    assert [command.split()[1:4] for command in commands[-3:]] == [
        ["run", "deploy", "mlflow-dev"],
        ["run", "services", "update-traffic"],
        ["run", "services", "update-traffic"],
    ]
    for command in commands:
        _paste(deployed, command)
    assert "Nothing to do" in deployed.good("plan").out
    assert not deployed.refused()


def _paste(tool: Tool, command: str, **environment: str) -> None:
    settings = {
        "OAUTH2_PROXY_CLIENT_ID": CLIENT_ID,
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "1",
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=tool.environment() | settings | environment,
        cwd=ROOT,
        input=f"{CLIENT_SECRET}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}\n{tool.refused()}"


def test_an_empty_project_asks_three_questions(tool: Tool) -> None:
    result = tool.good("apply", "--no-smoke", answers=f"{CLIENT_ID}\n{CLIENT_SECRET}\ny\n")
    assert result.out.count("OAuth client id") == 1
    assert result.out.count("redirect URI") == 1
    assert tool.cloud.secrets.value("mlflow-dev-oauth-client-secret", "1").decode() == CLIENT_SECRET
    tool.cloud.requests.clear()
    tool.good("apply", "--no-smoke")
    assert tool.cloud.writes == []


def test_what_the_cloud_learns_of_late_is_waited_for(tool: Tool) -> None:
    """APIs, service accounts and rights that are not known everywhere at once; operations that take a while."""
    cloud = tool.cloud
    cloud.project.slow, cloud.iam.lag, cloud.sql.polls = True, 2, 2
    tool.apply()
    refusals = [r.answer for r in cloud.requests if r.status >= 400]
    assert any("has not been used in project" in answer for answer in refusals)
    assert any(f"Service account {ACCOUNT} does not exist" in answer for answer in refusals)
    assert any("Permission denied on secret" in r.answer for r in cloud.requests)
    assert cloud.run.services["mlflow-dev"].meta["status"]["conditions"][0]["status"] == "True"


def test_nothing_happens_without_a_yes(tool: Tool) -> None:
    result = tool.run("apply", "--no-smoke", answers=f"{CLIENT_ID}\n{CLIENT_SECRET}\nn\n")
    assert result.code == 1
    assert tool.cloud.writes == []


def test_what_somebody_changed_by_hand_is_seen_and_set_right(deployed: Tool) -> None:
    cloud = deployed.cloud
    cloud.storage.buckets[f"{PROJECT}-mlflow-dev"].meta["versioning"]["enabled"] = False
    cloud.secrets.all["mlflow-dev-cookie-secret"].policy.bindings.clear()
    cloud.sql.instances["mlflow-dev"].meta["settings"]["ipConfiguration"]["sslMode"] = "ALLOW_UNENCRYPTED_AND_ENCRYPTED"
    result = deployed.good("plan")
    assert "versioning: false → true" in result.out
    assert "ssl mode: ALLOW_UNENCRYPTED_AND_ENCRYPTED → ENCRYPTED_ONLY" in result.out
    assert "right to read mlflow-dev-cookie-secret" in result.out
    deployed.apply()
    assert cloud.storage.buckets[f"{PROJECT}-mlflow-dev"].meta["versioning"]["enabled"] is True
    assert "Nothing to do" in deployed.apply().out


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        ("run.managed.requireInvokerIam", "exception for the project"),
        ("sql.restrictPublicIp", "set sql/network and sql/subnet"),
    ],
)
def test_an_organisations_policy_is_explained(tool: Tool, constraint: str, told: str) -> None:
    tool.cloud.project.constraints[constraint] = {"enforce": True}
    result = tool.run("apply", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))
    assert result.code == 1
    assert told in result.out


def test_a_bucket_name_of_somebody_elses_is_explained(tool: Tool) -> None:
    tool.cloud.storage.held_by_others.add(f"{PROJECT}-mlflow-dev")
    result = tool.run("plan")
    assert result.code == 77
    assert "set names/bucket" in result.err
