"""The definitions for other hosts: by Amazon's own description of its API, and by the container's own settings."""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import botocore.validate

from gatehouse.start import settings
from gatehouse.start.verdicts import PREFIX, PROXY, Verdict
from local.proxy_binary import ROOT

HOSTS = ROOT / "deploy" / "hosts"
#: What the store's own libraries read.
OTHERS = {"AWS_DEFAULT_REGION"}


def fitting(given: dict[str, str]) -> dict[str, Any]:
    """Check that the container takes these variables; return what it makes of its own."""
    known = {setting.name for setting in settings.TABLE} | set(settings.SECRETS) | OTHERS
    known |= {PREFIX + key.upper() for key, row in PROXY.items() if row.verdict is Verdict.WORKS}
    assert set(given) <= known
    return vars(settings.load({"BACKEND_STORE_URI": "postgresql://u@h/d", **given}))


def test_the_task_of_ecs_is_one_by_amazons_own_description() -> None:
    task = json.loads((HOSTS / "ecs-task.json").read_text())
    model = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    report = botocore.validate.ParamValidator().validate(task, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    (container,) = task["containerDefinitions"]
    values = fitting({one["name"]: one["value"] for one in container["environment"]})
    assert values["shutdown_timeout"] < container["stopTimeout"]
    assert {mount["sourceVolume"] for mount in container["mountPoints"]} == {one["name"] for one in task["volumes"]}
    assert {one["name"] for one in container["secrets"]} <= set(settings.SECRETS)


def test_a_wrong_word_in_the_task_would_be_found() -> None:
    model = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    validator = botocore.validate.ParamValidator()
    assert validator.validate({"family": "a", "containerDefinitions": [{"nam": "a"}]}, model.input_shape).has_errors()


def test_the_container_app_names_nothing_that_isnt_there() -> None:
    properties = json.loads((HOSTS / "container-app.json").read_text())["properties"]
    (container,) = properties["template"]["containers"]
    plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    values = fitting(plain)
    assert values["shutdown_timeout"] < properties["template"]["terminationGracePeriodSeconds"]
    referred = {one["secretRef"] for one in container["env"] if "secretRef" in one}
    assert referred == {one["name"] for one in properties["configuration"]["secrets"]}
    assert {one["name"] for one in container["env"] if "secretRef" in one} <= set(settings.SECRETS)
    assert {probe["httpGet"]["port"] for probe in container["probes"]} == {
        properties["configuration"]["ingress"]["targetPort"]
    }
