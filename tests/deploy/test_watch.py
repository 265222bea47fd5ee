"""Day 2: housekeeping on a schedule, alerts, uptime check, dashboard, the audit log's store, the budget."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.config import load
from deploy.resources import watch
from tests.deploy.conftest import ACCOUNT, NUMBER, PROJECT, REGION, Tool, image
from tests.deploy.test_apply import _paste, printed_commands

EMAILS = ["a@example.com", "b@example.com"]
ACCOUNT_OF_BILLING = "012345-567890-ABCDEF"
WATCHED: dict[str, Any] = {
    "housekeeping": {"older_than": "90d"},
    "monitoring": {"emails": EMAILS, "budget": {"billing_account": ACCOUNT_OF_BILLING, "usd": 50}},
}
ALERTS = {"audit", "backup", "connections", "errors", "latency", "restarts", "uptime"}


@pytest.fixture(scope="module")
def watched_once(tmp_path_factory: pytest.TempPathFactory, straight: Tool, gcloud_folder: Any) -> Any:
    """A deployment to which the printed commands of `plan` added all that watches, in bash."""
    from tests.deploy.conftest import new_cloud, tool_for

    folder = tmp_path_factory.mktemp("watched")
    with new_cloud(folder / "cloud") as cloud:
        cloud.adopt(straight.cloud)
        tool = tool_for(cloud, folder / "home", gcloud_folder)
        tool.configure(**WATCHED)
        for command in printed_commands(tool):
            _paste(tool, command)
        yield tool


@pytest.fixture
def watched(tool: Tool, watched_once: Tool) -> Tool:
    """A copy of that deployment."""
    tool.cloud.adopt(watched_once.cloud)
    tool.configure(**WATCHED)
    return tool


def names(tool: Tool, collection: str) -> list[str]:
    return sorted(name.rsplit("/", 1)[-1] for name in tool.cloud.watch.documents if f"/{collection}/" in name)


def test_the_printed_commands_make_what_watches(watched_once: Tool) -> None:
    """Pasted into bash, by the real gcloud; what they make is what apply wants."""
    cloud = watched_once.cloud
    assert "Nothing to do" in watched_once.here_good("plan").out
    assert not watched_once.refused()
    channels = sorted(document["name"] for document in cloud.watch.of("notificationChannels"))
    alerts = {policy["userLabels"]["alert"]: policy for policy in cloud.watch.of("alertPolicies")}
    assert set(alerts) == ALERTS
    assert all(sorted(policy["notificationChannels"]) == channels for policy in alerts.values())
    assert len(channels) == 2
    (clock,) = cloud.watch.of("jobs")
    assert clock["schedule"] == "0 4 * * 0"
    assert clock["httpTarget"]["uri"].endswith("/jobs/mlflow-dev-gc:run")
    assert cloud.run.job_policies["mlflow-dev-gc"].bindings == [
        {"role": "roles/run.invoker", "members": [f"serviceAccount:{ACCOUNT}"]}
    ]
    (sink,) = cloud.watch.of("sinks")
    assert sink["destination"].endswith(f"projects/{PROJECT}/locations/{REGION}/buckets/mlflow-dev-audit")
    (check,) = cloud.watch.of("uptimeCheckConfigs")
    assert check["monitoredResource"]["labels"]["host"] == f"mlflow-dev-{NUMBER}.{REGION}.run.app"
    (budget,) = cloud.watch.of("budgets")
    assert budget["amount"]["specifiedAmount"]["units"] == "50"


def test_the_housekeeping_job_has_what_gc_needs(watched_once: Tool) -> None:
    template = watched_once.cloud.run.jobs["mlflow-dev-gc"]["spec"]["template"]
    container = template["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["gatehouse", "gc", "--delete", "--older-than=90d"]
    assert container["image"] == image("1")
    env = {variable["name"]: variable for variable in container["env"]}
    assert env["ARTIFACTS_DESTINATION"]["value"] == f"gs://{PROJECT}-mlflow-dev/artifacts"
    # Whatever rotations come in between.
    assert env["BACKEND_STORE_URI"]["valueFrom"]["secretKeyRef"]["key"] == "latest"


def test_what_differs_is_told_and_set_right_and_what_is_taken_out_goes(watched: Tool) -> None:
    documents = watched.cloud.watch.documents
    by_alert = {policy["userLabels"]["alert"]: policy for policy in watched.cloud.watch.of("alertPolicies")}
    by_alert["errors"]["conditions"][0]["conditionThreshold"]["thresholdValue"] = 0.99
    by_alert["latency"]["enabled"] = False
    del documents[by_alert["restarts"]["name"]]
    (clock,) = watched.cloud.watch.of("jobs")
    clock["schedule"] = "0 0 1 1 *"
    (store,) = watched.cloud.watch.of("buckets")
    store["retentionDays"] = 1
    (board,) = watched.cloud.watch.of("dashboards")
    board["gridLayout"]["widgets"].pop()
    (check,) = watched.cloud.watch.of("uptimeCheckConfigs")
    check["monitoredResource"]["labels"]["host"] = "another.example.com"
    (metric,) = watched.cloud.watch.of("metrics")
    metric["filter"] = "severity=ERROR"
    told = watched.here("plan").out
    for line in (
        "thresholdValue: 0.99 → 0.05",
        "schedule: 0 0 1 1 * → 0 4 * * 0",
        "retentionDays: 1 → 400",
        "host: another",
    ):
        assert line in told
    assert "missing: alert: an instance ended by itself" in watched.here("status").out
    watched.here_good("apply", "--yes", "--no-smoke")
    watched.cloud.requests.clear()
    assert "Nothing to do" in watched.here_good("apply", "--yes", "--no-smoke").out
    assert watched.cloud.writes == []
    # Fewer people, then nothing at all: what nobody wants any more goes, the alerts before those whom they reach.
    watched.configure(monitoring={"emails": EMAILS[:1]})
    watched.here_good("apply", "--yes", "--no-smoke")
    assert len(names(watched, "notificationChannels")) == 1
    assert names(watched, "jobs") == []
    watched.configure()
    watched.here_good("apply", "--yes", "--no-smoke")
    assert names(watched, "alertPolicies") == names(watched, "notificationChannels") == names(watched, "sinks") == []
    assert "mlflow-dev-audit" in watched.here("plan").out  # the log that is kept
    assert "Nothing to do" in watched.here_good("plan").out
    # And again: a store that is to be deleted keeps its name for a week, and is had back.
    (store,) = watched.cloud.watch.of("buckets")
    store["lifecycleState"] = "DELETE_REQUESTED"
    watched.configure(monitoring={"emails": EMAILS[:1]})
    watched.here_good("apply", "--yes", "--no-smoke")
    assert store["lifecycleState"] == "ACTIVE"
    assert "Nothing to do" in watched.here_good("plan").out


def test_destroy_takes_all_that_watches(watched: Tool) -> None:
    kept = watched.here_good("destroy", "--confirm", "dev").out
    assert "= stays: log bucket mlflow-dev-audit" in kept
    assert [name for name in watched.cloud.watch.documents if "/buckets/" not in name] == []
    assert sorted(watched.cloud.run.jobs) == []
    watched.here_good("destroy", "--data", "--confirm", "dev")
    assert [d["lifecycleState"] for d in watched.cloud.watch.of("buckets")] == ["DELETE_REQUESTED"]


def test_an_internal_service_has_no_check_from_outside(tmp_path: Any) -> None:
    file = tmp_path / "dev.yaml"
    oauth = {"email_domains": ["example.com"]}
    given = {"project": PROJECT, "region": REGION, "namespace": "dev", "oauth": oauth, "monitoring": {"emails": EMAILS}}
    file.write_text(json.dumps(given | {"service": {"ingress": "internal"}, "public_url": "https://m.example.com"}))
    parts = watch.parts(load(str(file), {}), watch.Found(), NUMBER, image("1"))
    assert {part.key for part in parts} & {"watch/uptime", "watch/alert/uptime"} == set()


DOCUMENTS = st.recursive(
    st.sampled_from(["a", "b", 1, 2]),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@given(DOCUMENTS, DOCUMENTS)
def test_a_document_that_has_all_that_is_wanted_and_no_other_is_right(wanted: Any, other: Any) -> None:
    assert list(watch.missing(wanted, wanted)) == []
    if isinstance(wanted, dict):
        assert list(watch.missing(wanted, {"added": other} | wanted)) == []
    if isinstance(wanted, type(other)) and not isinstance(wanted, (dict, list)) and str(wanted) != str(other):
        assert list(watch.missing({"x": wanted}, {"x": other})) != []
