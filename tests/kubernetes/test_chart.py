"""deploy/chart as a library of objects: what values make, what they can't, and that everything is said and used."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gatehouse.policy.reader import parse
from gatehouse.start import settings
from local.chart_schema import CHART, ELSEWHERE, PAGE, SCHEMA, contradictions, page, rows, schema, text
from local.proxy_binary import ROOT
from tests.kubernetes.charts import (
    EXAMPLES,
    LEAST,
    containers,
    helm,
    merged,
    program,
    rendered,
    schemas,
    template,
    variables,
)

HERE = Path(__file__).parent
SERVER = ("Deployment", "gate-gatehouse")
#: Everything that can be switched on, so that each template renders.
EVERYTHING: dict[str, Any] = yaml.safe_load((HERE / "everything.yaml").read_text())


def test_the_schema_and_the_page_are_made_of_the_values_and_the_settings() -> None:
    assert text() == SCHEMA.read_text(), "run: python -m local.chart_schema"
    assert page() == PAGE.read_text(), "run: python -m local.chart_schema"


def test_every_setting_of_the_container_has_one_place_in_the_values() -> None:
    words = schema()["properties"]["settings"]["properties"]
    for setting in settings.TABLE:
        placed = "type" in words[setting.name] or "anyOf" in words[setting.name] or "enum" in words[setting.name]
        assert placed == (not setting.secret and setting.name not in ELSEWHERE), setting.name


SAMPLES: tuple[object, ...] = (
    *("auto", "yes", "true", True, False, 0, 1, 4, 9, 10, 64, 65, 3600, 3601, 70000),
    *("https://a.example.com", "https://a/b", "Prod", "staging"),
)


@pytest.mark.parametrize(
    "setting", [one for one in settings.TABLE if not one.secret and one.name not in ELSEWHERE], ids=lambda one: one.name
)
def test_the_schema_takes_what_the_container_takes(setting: settings.Setting) -> None:
    """What the schema lets through, the container takes, and the other way round; wider is only what needs a look at the machine."""
    words = schema()["properties"]["settings"]["properties"][setting.name]
    taken = []
    for sample in SAMPLES:
        as_text = str(sample).lower() if isinstance(sample, bool) else str(sample)
        try:
            setting.parse(as_text)
            by_container = True
        except settings.Invalid:
            by_container = False
        by_schema = jsonschema.Draft7Validator(words).is_valid(sample)
        if by_schema:
            taken.append(sample)
        # A text "4" is a number elsewhere in the list; places are read by the container's own grammar.
        if isinstance(sample, str) and setting.parse in {
            settings.parse_locations,
            settings.parse_issuers,
            settings.parse_names,
            settings.parse_text,
        }:
            continue
        if isinstance(sample, str) or by_schema:
            assert by_schema == by_container, f"{setting.name}={sample!r}"
    assert taken, f"{setting.name}: the schema refuses everything"


@pytest.mark.parametrize("strict", [[], ["--strict"]])
def test_helm_finds_nothing_to_say(strict: list[str]) -> None:
    done = helm("lint", str(CHART), *strict, "--values", str(CHART / "examples" / "google.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_examples_make_objects_that_kubernetes_knows(file: Path) -> None:
    _conform(file)


def test_everything_at_once_makes_objects_that_kubernetes_knows() -> None:
    _conform(merged(LEAST, EVERYTHING))
    _conform(merged(LEAST, merged(EVERYTHING, {"autoscaling": {"enabled": False}})))


def _conform(values: Path | dict[str, Any]) -> None:
    done = template(values)
    assert done.returncode == 0, done.stderr
    location = f"{schemas()}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = [program("kubeconform"), "-strict", "-summary", "-schema-location", location]
    found = subprocess.run(command, input=done.stdout, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Skipped: 0" in found.stdout


def test_kubeconform_would_find_a_wrong_word() -> None:
    wrong = {"extraContainers": [{"name": "beside", "imagee": "beside"}]}
    with pytest.raises(AssertionError, match="imagee"):
        _conform(merged(LEAST, wrong))


def test_every_value_is_said_in_words_and_used() -> None:
    templates = "\n".join(file.read_text() for file in (CHART / "templates").rglob("*.*"))
    for name, _, words in rows(schema(), yaml.safe_load((CHART / "values.yaml").read_text())):
        assert len(words) > 3, f"{name} has no comment in values.yaml"
        last = name.rpartition(".")[2]
        assert re.search(rf"\.{re.escape(last)}\b", templates), f"no template reads {name}"


def test_every_value_makes_a_difference() -> None:
    """Not by its name in a template, but by what comes out: each thing of EVERYTHING, alone, changes the objects."""
    whole = template(merged(merged(LEAST, EVERYTHING), {"secrets": {"generate": False}}))
    assert whole.returncode == 0, whole.stderr
    for key in EVERYTHING:
        if key in {"settings", "mlflow", "secrets", "replicaCount"}:  # they have tests of their own
            continue
        without = merged(merged(LEAST, EVERYTHING), {"secrets": {"generate": False}})
        del without[key]
        if key == "metrics":
            del without["serviceMonitor"]  # which it would contradict
        done = template(without)
        assert done.returncode == 0, f"{key}: {done.stderr}"
        assert done.stdout != whole.stdout, f"{key} changes nothing"


#: What can't be, and a word of the sentence that says so. Each of `contradictions()` has one.
CONTRADICTIONS: list[dict[str, Any]] = yaml.safe_load((HERE / "contradictions.yaml").read_text())


@pytest.mark.parametrize("one", CONTRADICTIONS, ids=lambda one: str(one["says"])[:40])
def test_values_that_contradict_each_other_are_refused_with_a_sentence(one: dict[str, Any]) -> None:
    done = template(merged(LEAST, one["values"]))
    assert done.returncode != 0
    assert one["says"] in done.stderr


def test_each_sentence_was_tried() -> None:
    for _, _, words in contradictions():
        assert any(one["says"] in words for one in CONTRADICTIONS), words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"settings": {"WORKER": 2}}, "WORKER"),
        ({"settings": {"WORKERS": "many"}}, "WORKERS"),
        ({"settings": {"SHUTDOWN_TIMEOUT": 0}}, "SHUTDOWN_TIMEOUT"),
        ({"settings": {"OAUTH2_PROXY_CLIENT_SECRET": "shown"}}, "a secret belongs into secrets.existingSecret"),
        ({"settings": {"BACKEND_STORE_URI": "postgresql://a/b"}}, "the value mlflow.backendStoreUri gives it"),
        ({"settings": {"OAUTH2_PROXY_HTPASSWD_FILE": "/a"}}, "such users have no e-mail address"),
        ({"replicas": 3}, "replicas"),
        ({"mlflow": {"backendStoreUri": "mysql://a/b"}}, "/mlflow/backendStoreUri"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
    ],
)
def test_what_isnt_a_value_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    done = template(merged(LEAST, values))
    assert done.returncode != 0
    assert words in done.stderr


def test_pods_are_restricted() -> None:
    objects = rendered(merged(LEAST, {**EVERYTHING, "extraContainers": [], "extraInitContainers": []}))
    seen = 0
    for where, container, spec in containers(objects):
        seen += 1
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}, where
        assert security["readOnlyRootFilesystem"], where
        assert security["allowPrivilegeEscalation"] is False, where
        assert spec["securityContext"]["runAsNonRoot"], where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert spec["enableServiceLinks"] is False, where
    assert seen == 6  # the server, the migration with its backup, the check, the collection, the test


def test_the_service_reaches_the_servers_pods_alone() -> None:
    objects = rendered(merged(LEAST, {"garbageCollection": {"enabled": True}}))
    wanted = objects["Service", "gate-gatehouse"]["spec"]["selector"]
    jobs = {
        ("Job", "gate-gatehouse-migrate"): ("template",),
        ("CronJob", "gate-gatehouse-gc"): ("jobTemplate", "spec", "template"),
    }
    for job, path in jobs.items():
        pod = objects[job]["spec"]
        for key in path:
            pod = pod[key]
        assert not wanted.items() <= pod["metadata"]["labels"].items()
    assert wanted.items() <= objects[SERVER]["spec"]["template"]["metadata"]["labels"].items()


def test_either_the_values_or_the_autoscaler_have_the_replicas() -> None:
    assert rendered(merged(LEAST, {"replicaCount": 3}))[SERVER]["spec"]["replicas"] == 3
    assert "replicas" not in rendered(merged(LEAST, {"autoscaling": {"enabled": True}}))[SERVER]["spec"]


def test_a_pod_has_the_time_to_end_that_its_requests_have() -> None:
    for extra, grace in (({}, 32), ({"settings": {"SHUTDOWN_TIMEOUT": 100}, "preStopSeconds": 10}, 112)):
        pod = rendered(merged(LEAST, extra))[SERVER]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == grace
        shutdown = variables(pod["containers"][0])["SHUTDOWN_TIMEOUT"]
        assert grace > int(str(shutdown)) + pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_the_startup_probe_waits_as_long_as_the_container() -> None:
    pod = rendered(merged(LEAST, {"settings": {"STARTUP_TIMEOUT": 300}}))[SERVER]["spec"]["template"]["spec"]
    probe = pod["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] > 300


def test_the_databases_parts_make_a_uri_that_the_container_takes() -> None:
    objects = rendered(merged(LEAST, EVERYTHING))
    for where, container, _ in containers(objects):
        if container["name"] not in {"gatehouse", "migrate", "gc", "backup"}:
            continue
        uri = variables(container)["BACKEND_STORE_URI"]
        assert (
            uri == "postgresql://ml%20flow@db.example.com:5432/mlflow?options=-csearch_path%3Da%20b&sslmode=verify-full"
        ), where
        settings.parse_database(uri)
        assert [one for one in container["env"] if one["name"] == "PGPASSWORD"], where
    server = variables(objects["Deployment", "gate"]["spec"]["template"]["spec"]["containers"][0])
    assert server["JOB_ENVIRONMENT"] == "PGPASSWORD,OPENAI_API_KEY"


def test_a_unix_sockets_folder_is_a_host_too() -> None:
    done = rendered(CHART / "examples" / "google.yaml")
    uri = variables(done[SERVER]["spec"]["template"]["spec"]["containers"][0])["BACKEND_STORE_URI"]
    assert uri == "postgresql://mlflow@/mlflow?host=%2Fcloudsql%2Fmy-project%3Aeurope-west1%3Amlflow"
    settings.parse_database(uri)


def test_pods_of_the_cluster_may_name_the_service() -> None:
    server = rendered(merged(LEAST, {"settings": {"MLFLOW_SERVER_ALLOWED_HOSTS": ["a.example.com"]}}))[SERVER]
    hosts = str(variables(server["spec"]["template"]["spec"]["containers"][0])["MLFLOW_SERVER_ALLOWED_HOSTS"]).split(
        ","
    )
    assert {
        "gate-gatehouse",
        "gate-gatehouse.mlflow.svc:80",
        "gate-gatehouse.mlflow.svc.cluster.local",
        "a.example.com",
    } <= set(hosts)


def test_secrets_are_in_secrets_alone() -> None:
    values = merged(LEAST, {"secrets": {"values": {"OAUTH2_PROXY_CLIENT_SECRET": "not-to-be-seen"}}})
    for (kind, name), one in rendered(values).items():
        assert kind == "Secret" or "not-to-be-seen" not in yaml.safe_dump(one), f"{kind}/{name}"


def test_a_changed_secret_starts_new_pods_and_a_changed_policy_does_not() -> None:
    def pod(**values: Any) -> Any:
        return rendered(merged(LEAST, values))[SERVER]["spec"]["template"]

    assert pod(secrets={"values": {"A": "1"}}) != pod(secrets={"values": {"A": "2"}})
    policies = [{"policy": {"default": role}} for role in ("viewer", "editor")]
    assert pod(accessPolicy=policies[0]) == pod(accessPolicy=policies[1])


def test_generated_secrets_are_what_the_container_takes() -> None:
    from base64 import b64decode, urlsafe_b64decode

    secret = rendered(LEAST)["Secret", "gate-gatehouse-generated"]
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    values = {name: b64decode(value) for name, value in secret["data"].items()}
    assert len(values["OAUTH2_PROXY_COOKIE_SECRET"]) == 32
    assert len(urlsafe_b64decode(values["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"])) == 32  # a Fernet key
    assert b"+" not in values["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"]
    assert len(values["MLFLOW_CRYPTO_KEK_PASSPHRASE"]) >= 32
    assert set(values) <= set(settings.SECRETS)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_a_policy_in_an_example_is_one(file: Path) -> None:
    policy = rendered(file).get(("ConfigMap", "gate-gatehouse-access"))
    if policy:
        parse(policy["data"]["access.yaml"].encode(), "production", file.name)


def test_the_page_names_every_example() -> None:
    told = (ROOT / "docs" / "kubernetes.md").read_text()
    for file in EXAMPLES:
        assert f"examples/{file.name}" in told, file.name
