"""What each environment comes to: whole command lines, compared without running any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deploy import cost, plan
from deploy.config import Config, load
from deploy.observe import State
from deploy.plan import Plan
from deploy.resources import service
from deploy.resources.images import INPUTS
from deploy.resources.project import Project
from tests.deploy.conftest import DEV, NUMBER, ROOT, image


def config(name: str = "dev", **changes: object) -> Config:
    environ = {"DEPLOY_PROJECT": "demo-project"} | {
        f"DEPLOY_{key}": yaml.safe_dump(value) for key, value in changes.items()
    }
    return load(name, environ)


def planned(settings: Config, state: State | None = None) -> Plan:
    return plan.make(settings, state or State(project=Project(NUMBER)), image("1"))


def command(made: Plan, key: str) -> tuple[str, ...]:
    return next(step.argv for step in made.steps if step.key == key)


def test_prod_is_protected() -> None:
    made = planned(config("prod"))
    database = command(made, "sql")
    assert "--deletion-protection" in database
    assert "--availability-type=regional" in database
    assert "--retained-backups-count=30" in database
    assert "--enable-point-in-time-recovery" in database
    assert "--min-instances=1" in command(made, "deploy")


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_the_database_lets_nobody_in_but_connectors(name: str) -> None:
    database = command(planned(config(name)), "sql")
    assert {"--connector-enforcement=REQUIRED", "--ssl-mode=ENCRYPTED_ONLY", "--edition=enterprise"} <= set(database)
    assert not [part for part in database if part.startswith("--authorized-networks") or "password" in part]


def test_a_private_database_has_no_public_address_and_the_service_reaches_its_network() -> None:
    made = planned(config(SQL_NETWORK="default", SQL_SUBNET="default"))
    assert "--no-assign-ip" in command(made, "sql")
    assert "--network=projects/demo-project/global/networks/default" in command(made, "sql")
    assert {"--network=default", "--subnet=default", "--vpc-egress=private-ranges-only"} <= set(command(made, "deploy"))


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_the_bucket_is_private_in_every_environment(name: str) -> None:
    made = planned(config(name))
    for key in ("bucket", "bucket/settings"):
        assert {"--uniform-bucket-level-access", "--public-access-prevention"} <= set(command(made, key))
    assert "--versioning" in command(made, "bucket/settings")


def test_dev_costs_nothing_idle_but_the_database_its_storage_and_cents() -> None:
    parts = cost.estimate(config("dev"))
    assert parts["warm instances"] == 0
    assert parts["database"] + parts["database storage"] == pytest.approx(730 * 0.0105 + 10 * 0.17, abs=0.01)
    assert sum(parts.values()) - parts["database"] - parts["database storage"] < 1
    assert "not checked against the live pages" in cost.summary(config("dev"))


def test_prod_says_what_its_warm_instance_and_its_standby_cost() -> None:
    dev, prod = cost.estimate(config("dev")), cost.estimate(config("prod"))
    assert prod["warm instances"] > 0
    assert prod["database"] == pytest.approx(2 * 730 * (2 * 0.0413 + 7.5 * 0.007), abs=0.01)
    assert sum(prod.values()) > 10 * sum(dev.values())


def test_the_service_is_deployed_with_these_flags() -> None:
    assert command(planned(config()), "deploy") == (
        "gcloud",
        "run",
        "deploy",
        "mlflow-dev",
        f"--image={image('1')}",
        "--service-account=mlflow-dev@demo-project.iam.gserviceaccount.com",
        "--set-cloudsql-instances=demo-project:europe-west1:mlflow-dev",
        "--set-env-vars=^|^PUBLIC_URL=https://mlflow-dev-123456789012.europe-west1.run.app"
        "|ARTIFACTS_DESTINATION=gs://demo-project-mlflow-dev/artifacts"
        "|OAUTH2_PROXY_CLIENT_ID=${OAUTH2_PROXY_CLIENT_ID}"
        "|OAUTH2_PROXY_EMAIL_DOMAINS=example.com"
        "|OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES=https://mlflow-dev-123456789012.europe-west1.run.app"
        ",32555940559.apps.googleusercontent.com"
        "|APP_ENV=dev|GOOGLE_CLOUD_PROJECT=demo-project|WORKERS=1|STARTUP_TIMEOUT=120"
        "|MLFLOW_SERVER_ALLOWED_HOSTS=mlflow-dev-123456789012.europe-west1.run.app"
        ",candidate---mlflow-dev-123456789012.europe-west1.run.app"
        "|MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=4|MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=1|READ_CONNECTIONS=1|HTTP2=true",
        "--set-secrets=BACKEND_STORE_URI=mlflow-dev-database-url:1"
        ",OAUTH2_PROXY_CLIENT_SECRET=mlflow-dev-oauth-client-secret:1"
        ",OAUTH2_PROXY_COOKIE_SECRET=mlflow-dev-cookie-secret:1"
        ",MLFLOW_CRYPTO_KEK_PASSPHRASE=mlflow-dev-kek-passphrase:1"
        ",MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=mlflow-dev-webhook-key:1",
        "--cpu=1",
        "--memory=1Gi",
        "--concurrency=40",
        "--min-instances=default",
        "--max-instances=1",
        "--timeout=300",
        "--execution-environment=gen2",
        "--cpu-boost",
        "--use-http2",
        "--startup-probe=httpGet.path=/ping,initialDelaySeconds=0,periodSeconds=5,timeoutSeconds=4,failureThreshold=24",
        "--liveness-probe=httpGet.path=/gatehouse/ready,periodSeconds=10,timeoutSeconds=6,failureThreshold=3",
        "--ingress=all",
        "--update-labels=app=gatehouse,environment=dev",
        "--no-invoker-iam-check",
        "--region=europe-west1",
        "--project=demo-project",
    )


def test_no_value_of_a_setting_can_break_out_of_its_list() -> None:
    settings = config(SERVICE_ENV={"MLFLOW_A": "x|PUBLIC_URL=evil", "MLFLOW_B": "1;2,3"})
    (flag,) = [part for part in command(planned(settings), "deploy") if part.startswith("--set-env-vars=")]
    delimiter = flag.removeprefix("--set-env-vars=^")[0]
    pairs = flag.removeprefix(f"--set-env-vars=^{delimiter}^").split(delimiter)
    assert "MLFLOW_A=x|PUBLIC_URL=evil" in pairs
    assert "MLFLOW_B=1;2,3" in pairs


def test_a_server_that_refuses_gclouds_tokens_is_not_told_to_take_them() -> None:
    """The server ends with 78 if it has both."""
    values = service.environment(config(SERVICE_ENV={"GCLOUD_TOKENS": "false"}), NUMBER, "client")
    assert values["GCLOUD_TOKENS"] == "false"
    assert "32555940559" not in values["OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES"]


def test_another_identity_provider_gets_no_audience_of_gclouds() -> None:
    values = service.environment(config(OAUTH_ISSUER="https://login.example.com"), NUMBER, "client")
    assert values["OAUTH2_PROXY_PROVIDER"] == "oidc"
    assert values["OAUTH2_PROXY_OIDC_ISSUER_URL"] == "https://login.example.com"
    assert "32555940559" not in values["OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES"]


def test_a_domain_of_ones_own_is_the_public_url_and_the_services_own_address_still_works() -> None:
    settings = config(PUBLIC_URL="https://mlflow.example.com")
    values = service.environment(settings, NUMBER, "client")
    assert values["PUBLIC_URL"] == planned(settings).url == "https://mlflow.example.com"
    own = f"mlflow-dev-{NUMBER}.europe-west1.run.app"
    assert values["OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES"].split(",")[:2] == [
        "https://mlflow.example.com",
        f"https://{own}",
    ]
    assert values["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",") == [
        "mlflow.example.com",
        own,
        f"candidate---{own}",
    ]


def test_an_access_policy_is_mounted_from_a_secret(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("default: viewer\nroles: {admin: [user:a@example.com]}\n")
    path = tmp_path / "dev.yaml"
    path.write_text(yaml.safe_dump(DEV | {"access_policy": "policy.yaml"}))
    made = planned(load(str(path), {}))
    assert any(
        "/etc/gatehouse/access/policy.yaml=mlflow-dev-access-policy:1" in part for part in command(made, "deploy")
    )
    assert any("ACCESS_POLICY=/etc/gatehouse/access/policy.yaml" in part for part in command(made, "deploy"))


def test_steps_wait_for_what_they_need_and_for_nothing_else() -> None:
    made = planned(config())
    needs = {step.key: set(step.needs) for step in made.steps}
    order = [step.key for step in made.steps]
    assert all(order.index(need) < order.index(key) for key in order for need in needs[key])
    assert needs["sql"] == {"apis"}
    assert needs["bucket"] == set()
    assert needs["sql/user"] == {"sql", "sql/database", "secret/database-url"}
    assert needs["right/cookie-secret"] == {"account", "secret/cookie-secret"}


def test_commands_name_their_project() -> None:
    """A command that took gcloud's default project would reach another project's resources."""
    made = planned(config())
    for step in made.steps:
        named = "--project=demo-project" in step.argv or step.argv[:2] == ("gcloud", "projects")
        assert step.argv[:1] != ("gcloud",) or named, step.argv
    assert command(made, "right/sql")[3] == "demo-project"


def test_the_images_tag_covers_all_that_the_dockerfile_copies() -> None:
    """A source that is missing from the tag's digest would be changed without a new image."""
    text = (ROOT / "Dockerfile").read_text()
    # The tool gives the build no arguments, so their defaults are what counts.
    for name, default in re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE):
        text = text.replace(f"${{{name}}}", default)
    lines = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    copied = [source for line in lines if not line[0].startswith("--from") for source in line]
    assert "start.sh" in copied
    for source in copied:
        assert any(source == known or source.startswith(f"{known}/") for known in INPUTS), source
