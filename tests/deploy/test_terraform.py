"""Terraform's module: what the real Terraform makes of it, by the real provider's schema, is what the tool wants, setting by setting.

The provider can't be had here: one of the tests' own stands for it (terraform/provider), with the schema that
HashiCorp publishes in CDK for Terraform's package (terraform/extract.py). It reaches no cloud, and nothing was applied.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import plan
from deploy.config import Config, load
from deploy.observe import State
from deploy.resources import account, bucket, database, images, project, secrets, service
from deploy.resources.project import Project
from local.go_program import build, digest
from tests.deploy.conftest import DEV, NUMBER, PROJECT, ROOT, Tool, image
from tests.support import missing

HERE = Path(__file__).parent / "terraform"
VERSION = "6.50.0"

#: An environment with all that the files in deploy/environments leave out.
FULL: dict[str, Any] = DEV | {
    "names": {"sql": "another", "bucket": "a-bucket-of-ones-own"},
    "labels": {"team": "ml"},
    "kms_key": "projects/demo-project/locations/europe-west1/keyRings/r/cryptoKeys/k",
    "sql": {"network": "default", "subnet": "default", "flags": {"max_connections": "100"}, "version": "POSTGRES_17"},
    "service": {
        "cpu": 2, "memory": "2Gi", "http2": False, "direct_transfers": True, "min_instances": 1, "max_instances": 2, "timeout": 900,
        "ingress": "internal", "startup_timeout": 61, "concurrency": 7, "egress": "all-traffic",
    },
    "public_url": "https://mlflow.example.com",
    "housekeeping": {},
    "monitoring": {"emails": ["a@example.com"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run Terraform in a copy of `deploy`, where `terraform init` found the provider in a mirror of the tests' own."""
    program = shutil.which("terraform")
    if program is None:
        missing("terraform", "install Terraform 1.9 or newer")
    folder, sources = tmp_path_factory.mktemp("terraform"), HERE / "provider"
    name = f"terraform-provider-google_v{VERSION}"
    pins = digest([sources / "go.mod", sources / "go.sum", sources / "main.go"])
    built = build(name, ".", sources, ROOT / ".build" / f"terraform-provider-{pins}" / name, lambda _: None)
    # As Terraform calls this machine.
    system = json.loads(subprocess.run([str(program), "version", "-json"], capture_output=True, check=True).stdout)[
        "platform"
    ]
    place = folder / "mirror" / "registry.terraform.io" / "hashicorp" / "google" / VERSION / system
    place.mkdir(parents=True)
    shutil.copy(built, place / name)
    (folder / "rc").write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{folder}/mirror"\n  }}\n}}\n'
    )
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("__pycache__", ".terraform*"))
    environ = os.environ | {
        "TF_CLI_CONFIG_FILE": str(folder / "rc"), "TF_SCHEMA": str(HERE / "schema.json"), "TF_PROJECT_NUMBER": NUMBER,
        "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1",
    }  # fmt: skip

    def terraform(where: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(program), *arguments], cwd=folder / "deploy" / where, env=environ, capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    top = folder / "deploy" / "terraform" / "top"
    top.mkdir()
    (top / "main.tf").write_text(
        'variable "file" {}\nmodule "it" {\n  source         = "./.."\n  file           = var.file\n  service_exists = true\n}\n'
        'output "url" {\n  value = module.it.url\n}\n'
    )
    terraform("terraform/top", "init", "-backend=false", "-no-color")
    return terraform


@pytest.fixture(params=["dev", "staging", "prod", "full"])
def planned(
    request: pytest.FixtureRequest, run: Callable[..., str], tmp_path: Path
) -> tuple[Config, dict[str, Any], str]:
    """An environment, what Terraform plans for its file (address → values), and the URL."""
    name = request.param
    file = tmp_path / f"{name}.yaml"
    given = FULL if name == "full" else yaml.safe_load((ROOT / "deploy" / "environments" / f"{name}.yaml").read_text())
    if "access_policy" in given:
        given["access_policy"] = str(ROOT / "deploy" / "policies" / "prod.yaml")
    if "bucket" in given:
        given["bucket"]["lifecycle"] = os.path.relpath(ROOT / "deploy" / "lifecycle-long.json", tmp_path)
    file.write_text(yaml.safe_dump(given | {"project": PROJECT}))
    run("terraform/top", "plan", "-no-color", f"-out={tmp_path}/plan", f"-var=file={file}")
    shown = json.loads(run("terraform/top", "show", "-json", f"{tmp_path}/plan"))["planned_values"]
    (module,) = shown["root_module"]["child_modules"]
    found = {
        r["address"].removeprefix("module.it."): r["values"] for r in module["resources"] if r["mode"] == "managed"
    }
    return load(str(file), {}), found, shown["outputs"]["url"]["value"]


def one(block: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the one block that there must be."""
    (found,) = block
    return found


def bucket_of(values: dict[str, Any]) -> bucket.Bucket:
    rules = []
    names = {
        "num_newer_versions": "numNewerVersions",
        "days_since_noncurrent_time": "daysSinceNoncurrentTime",
        "age": "age",
    }
    for rule in values["lifecycle_rule"]:
        condition = {names[key]: value for key, value in one(rule["condition"]).items() if value not in (None, [])}
        rules.append({"action": {k: v for k, v in one(rule["action"]).items() if v}, "condition": condition})
    return bucket.Bucket(
        location=values["location"].lower(),
        uniform_access=values["uniform_bucket_level_access"],
        public_access_prevention=values["public_access_prevention"],
        versioning=one(values["versioning"])["enabled"],
        lifecycle=bucket.canonical(rules),
        key=one(values["encryption"])["default_kms_key_name"] if values["encryption"] else "",
        labels=values["labels"],
    )


def server_of(values: dict[str, Any]) -> database.Server:
    settings = one(values["settings"])
    backup, network = one(settings["backup_configuration"]), one(settings["ip_configuration"])
    assert values["deletion_protection"] == settings["deletion_protection_enabled"]
    return database.Server(
        version=values["database_version"],
        region=values["region"],
        edition=settings["edition"].lower(),
        tier=settings["tier"],
        storage_gb=settings["disk_size"],
        storage_grows=settings["disk_autoresize"],
        availability=settings["availability_type"].lower(),
        backup_start=backup["start_time"] if backup["enabled"] else "",
        backups=one(backup["backup_retention_settings"])["retained_backups"],
        backup_location=backup["location"],
        point_in_time_recovery=backup["point_in_time_recovery_enabled"],
        deletion_protection=settings["deletion_protection_enabled"],
        connector_enforcement=settings["connector_enforcement"],
        ssl_mode=network["ssl_mode"],
        network=network["private_network"] or "",
        public_address=network["ipv4_enabled"],
        authorized_networks=tuple(network["authorized_networks"]),
        flags={flag["name"]: flag["value"] for flag in settings["database_flags"]},
        key=values["encryption_key_name"] or "",
        labels=settings["user_labels"],
    )


#: Of a service, what is a release's: Terraform ignores it, or Cloud Run has it so by itself.
RELEASED = {
    "image", "env", "secrets", "sql_instances", "revision_labels", "session_affinity", "vpc_connector", "custom_audiences", "command",
    "arguments", "address", "least_of_service",
}  # fmt: skip


def probe(block: dict[str, Any]) -> str:
    period = block["period_seconds"]
    return f"{one(block['http_get'])['path']} every {period}s for {period * block['failure_threshold']}s"


def service_of(values: dict[str, Any]) -> dict[str, Any]:
    template = one(values["template"])
    container = one(template["containers"])
    resources, access = one(container["resources"]), template["vpc_access"]
    interface = one(access[0]["network_interfaces"]) if access else {}
    return {
        "cpu": resources["limits"]["cpu"],
        "memory": resources["limits"]["memory"],
        "cpu_boost": resources["startup_cpu_boost"],
        "cpu_always": not resources["cpu_idle"],
        "concurrency": template["max_instance_request_concurrency"],
        "min_instances": one(template["scaling"])["min_instance_count"],
        "max_instances": one(template["scaling"])["max_instance_count"],
        "timeout": int(template["timeout"].rstrip("s")),
        "execution_environment": template["execution_environment"].removeprefix("EXECUTION_ENVIRONMENT_").lower(),
        "http2": one(container["ports"])["name"] == "h2c",
        "startup_probe": probe(one(container["startup_probe"])),
        "liveness_probe": probe(one(container["liveness_probe"])),
        "ingress": {
            "INGRESS_TRAFFIC_ALL": "all",
            "INGRESS_TRAFFIC_INTERNAL_ONLY": "internal",
            "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER": "internal-and-cloud-load-balancing",
        }[values["ingress"]],
        "network": " ".join(
            [interface["network"], interface["subnetwork"], access[0]["egress"].lower().replace("_", "-")]
        )
        if access
        else "",
        "key": template["encryption_key"] or "",
        "labels": values["labels"],
        "invoker_check": not values["invoker_iam_disabled"],
        "containers": len(template["containers"]),
    }


def address(step: plan.Step) -> str:
    """Return the resource of the module that stands for a step of the tool's plan."""
    of_secrets = {f"right/{key}": f'google_secret_manager_secret_iam_member.read["{key}"]' for key in secrets.SECRETS}
    fixed = {
        "account": "google_service_account.service",
        "build": "google_service_account.build[0]",
        "build/bucket": "google_storage_bucket.builds[0]",
        "build/bucket/settings": "google_storage_bucket.builds[0]",
        "right/build": "google_storage_bucket_iam_member.builds[0]",
        "right/push": "google_artifact_registry_repository_iam_member.push[0]",
        "repository": "google_artifact_registry_repository.images",
        "sql": "google_sql_database_instance.server",
        "sql/database": "google_sql_database.mlflow",
        "bucket": "google_storage_bucket.artifacts",
        "bucket/settings": "google_storage_bucket.artifacts",
        "right/sql": "google_project_iam_member.database",
        "right/bucket": "google_storage_bucket_iam_member.artifacts",
        "right/sign": "google_service_account_iam_member.sign[0]",
        "deploy": "google_cloud_run_v2_service.service[0]",
    } | of_secrets
    if step.key in fixed:
        return fixed[step.key]
    kind, _, key = step.key.partition("/")
    assert kind == "secret", f"{step.key}: the module has nothing for it"
    return f'google_secret_manager_secret.secret["{key}"]'


def test_the_module_makes_what_the_tool_makes_setting_by_setting(planned: tuple[Config, dict[str, Any], str]) -> None:
    config, found, url = planned
    made = plan.make(config, State(project=Project(NUMBER)), image("1"))
    steps = [step for step in made.steps if step.key != "apis" and not plan.of_a_release(step)]
    service_step = next(step for step in made.steps if step.key == "deploy")
    apis = {f'google_project_service.api["{api}"]' for api in project.apis(config)}
    assert {address(step) for step in [*steps, service_step]} | apis == set(found)
    assert url == made.url

    assert bucket_of(found["google_storage_bucket.artifacts"]) == bucket.wanted(config, config.lifecycle)
    if config.settings.image == "cloudbuild":
        build_bucket = bucket_of(found["google_storage_bucket.builds[0]"])
        assert build_bucket == bucket.wanted(config, bucket.BUILD_LIFECYCLE, versioning=False)
        assert found["google_storage_bucket.builds[0]"]["name"] == config.names.build_bucket
    assert server_of(found["google_sql_database_instance.server"]) == database.wanted(config)
    for name, purpose in (("service", ""), ("build[0]", "build")):
        values = found[f"google_service_account.{name}"]
        assert account.Account(values["display_name"], values["description"]) == account.wanted(config, purpose)
    repository = found["google_artifact_registry_repository.images"]
    there = {
        "format": repository["format"],
        "dockerConfig": {"immutableTags": one(repository["docker_config"])["immutable_tags"]},
    }
    assert not images.difference(config, there | {"labels": repository["labels"]}).changes
    for secret in secrets.wanted(config):
        values = found[f'google_secret_manager_secret.secret["{secret.key}"]']
        (replica,) = one(one(values["replication"])["user_managed"])["replicas"]
        assert values["secret_id"] == config.names.secret(secret.key)
        assert secrets.Container(replica["location"], values["labels"]) == secrets.Container(
            config.region, config.labels
        )

    wanted = service.wanted(config, NUMBER, "client", image("1"), dict.fromkeys(secrets.SECRETS, "1"))
    values = service_of(found["google_cloud_run_v2_service.service[0]"])
    assert set(values) | RELEASED | {"service_account"} == {field.name for field in dataclasses.fields(service.Service)}
    assert values == {key: getattr(wanted, key) for key in values}


def test_the_rights_are_those_of_the_tool(planned: tuple[Config, dict[str, Any], str]) -> None:
    """Role, member and condition of each grant, as the tool's commands give it."""
    config, found, _ = planned
    made = plan.make(config, State(project=Project(NUMBER)), image("1"))
    for step in made.steps:
        if not step.key.startswith("right/"):
            continue
        values, flags = (
            found[address(step)],
            dict(part[2:].split("=", 1) for part in step.argv if part.startswith("--")),
        )
        assert (values["role"], values["member"]) == (flags["role"], flags["member"])
        if "condition" in flags:
            given = one(values["condition"])
            assert f"title={given['title']},expression={given['expression']}" == flags["condition"]
        else:
            assert not values.get("condition")


def test_what_a_release_sets_is_not_terraforms() -> None:
    """Else each `terraform apply` would take the release back."""
    text = (ROOT / "deploy" / "terraform" / "main.tf").read_text()
    service_block = text[text.index('resource "google_cloud_run_v2_service"') :]
    ignored = re.search(r"ignore_changes = \[(.*?)\]\n  \}", service_block, re.DOTALL)
    assert ignored is not None
    container = "template[0].containers[0]"
    assert {
        f"{container}.image",
        f"{container}.env",
        f"{container}.volume_mounts",
        "template[0].volumes",
        "traffic",
    } <= {part.strip() for part in ignored[1].split(",")}


def test_the_module_is_formatted_and_the_example_is_valid(run: Callable[..., str]) -> None:
    run("terraform", "fmt", "-check", "-recursive", "-no-color", ".")
    run("terraform/examples/prod", "init", "-backend=false", "-no-color")
    assert "Success" in run("terraform/examples/prod", "validate", "-no-color")


# Releases on top of it
# ---------------------------------------------------------------------------------------------------------------------


def test_release_makes_nothing_that_is_terraforms(tool: Tool) -> None:
    result = tool.here("release", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))
    assert result.code == 1
    assert "database server mlflow-dev" in result.out
    assert "is Terraform's" in result.out
    assert "terraform apply" in result.err
    assert tool.cloud.writes == []


def test_release_fills_what_terraform_made(deployed: Tool) -> None:
    """Containers of secrets without a version, a server without the user, no service: then as after any apply."""
    cloud = deployed.cloud
    cloud.run.services.clear()
    cloud.run.revisions.clear()
    cloud.run.jobs.clear()
    cloud.sql.instances["mlflow-dev"].users.pop("mlflow")
    for secret in cloud.secrets.all.values():
        secret.versions.clear()
        secret.meta.pop("annotations", None)
    deployed.here_good("release", "--yes", "--no-smoke", "--oauth-client", str(deployed.client_file()))
    assert cloud.run.services["mlflow-dev"].meta["status"]["traffic"][0]["percent"] == 100
    made = {request.method.rsplit(".", 1)[1] for request in cloud.writes}
    assert made == {"addVersion", "patch", "insert", "create", "run"}
    assert "Nothing to do" in deployed.here_good("plan").out
