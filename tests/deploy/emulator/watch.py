"""What watches a project: Cloud Scheduler, Cloud Logging's stores, sinks and metrics, Cloud Monitoring, budgets.

Documents are kept as they were sent, once they fit Google's description of them; what these APIs add and what they
forbid is added and forbidden.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.emulator.core import ApiError, Call, etag, invalid, missing, rest, taken


@dataclass
class Watch:
    """Every document, by its full name."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    count: int = 0

    def of(self, collection: str) -> list[dict[str, Any]]:
        """Return the documents of a collection (`alertPolicies`)."""
        return [document for name, document in self.documents.items() if f"/{collection}/" in name]


def _name(call: Call) -> str:
    name = next(call.parameters[key] for key in ("name", "sinkName", "metricName") if key in call.parameters)
    if name.startswith("projects/"):
        call.emulator.project.must_be(name.split("/")[1])
    return name


def _get(call: Call) -> dict[str, Any]:
    name = _name(call)
    if name not in call.emulator.watch.documents:
        raise missing(f"Resource '{name}' was not found.")
    return call.emulator.watch.documents[name]


def _put(call: Call, name: str, document: dict[str, Any]) -> dict[str, Any]:
    if name in call.emulator.watch.documents:
        raise taken(f"Resource '{name}' already exists.")
    call.emulator.watch.documents[name] = copy.deepcopy(document)
    return call.emulator.watch.documents[name]


def _change(call: Call, document: dict[str, Any], mask: str) -> dict[str, Any]:
    """Merge by the mask's top fields; without a mask all of it is replaced, but for the name."""
    there, kept = _get(call), {"name"}
    fields = [re.sub(r"_(\w)", lambda m: m[1].upper(), part.split(".")[0]) for part in mask.split(",") if part]
    if fields:
        there.update({key: copy.deepcopy(document.get(key)) for key in fields})
        for key in [key for key in fields if there.get(key) is None]:
            del there[key]
        return there
    name = {key: there[key] for key in kept if key in there}
    there.clear()
    there.update(copy.deepcopy(document) | name)
    return there


# Cloud Scheduler
# ----------------------------------------------------------------------------------------------------------------------


@rest("cloudscheduler.projects.locations.jobs.get", permission="cloudscheduler.jobs.get")
@rest("logging.projects.sinks.get", "logging.sinks.get", permission="logging.sinks.get")
@rest("logging.projects.metrics.get", permission="logging.logMetrics.get")
@rest("logging.projects.locations.buckets.get", "logging.locations.buckets.get", permission="logging.buckets.get")
@rest("monitoring.projects.notificationChannels.get", permission="monitoring.notificationChannels.get")
@rest("monitoring.projects.alertPolicies.get", permission="monitoring.alertPolicies.get")
@rest("monitoring.projects.uptimeCheckConfigs.get", permission="monitoring.uptimeCheckConfigs.get")
@rest("monitoring.projects.dashboards.get", permission="monitoring.dashboards.get")
@rest("billingbudgets.billingAccounts.budgets.get", permission="billing.budgets.get")
def get(call: Call) -> Any:
    return _get(call)


@rest("cloudscheduler.projects.locations.jobs.create", permission="cloudscheduler.jobs.create", writes=True)
def create_clock(call: Call) -> Any:
    account = call.body["httpTarget"]["oauthToken"]["serviceAccountEmail"]
    call.emulator.iam.must_be_known(account)
    call.emulator.must(call.caller, "iam.serviceAccounts.actAs", account)
    if not re.fullmatch(r"\S+( \S+){4}", call.body["schedule"]):
        raise invalid("Schedule or time zone is invalid.")
    return _put(call, call.body["name"], call.body | {"state": "ENABLED"})


@rest("cloudscheduler.projects.locations.jobs.patch", permission="cloudscheduler.jobs.update", writes=True)
def patch_clock(call: Call) -> Any:
    return _change(call, call.body, call.option("updateMask"))


# Cloud Logging
# ----------------------------------------------------------------------------------------------------------------------


@rest(
    "logging.projects.locations.buckets.create",
    "logging.locations.buckets.create",
    permission="logging.buckets.create",
    writes=True,
)
def create_store(call: Call) -> Any:
    call.emulator.project.must_be_allowed_here(call.parameters["parent"].rsplit("/", 1)[1])
    name = f"{call.parameters['parent']}/buckets/{call.option('bucketId')}"
    return _put(call, name, call.body | {"name": name, "lifecycleState": "ACTIVE"})


@rest(
    "logging.projects.locations.buckets.patch",
    "logging.locations.buckets.patch",
    permission="logging.buckets.update",
    writes=True,
)
def patch_store(call: Call) -> Any:
    if _get(call)["lifecycleState"] != "ACTIVE":
        raise ApiError(400, "FAILED_PRECONDITION", "Buckets that are to be deleted can't be updated.")
    return _change(call, call.body, call.option("updateMask"))


@rest(
    "logging.projects.locations.buckets.delete",
    "logging.locations.buckets.delete",
    permission="logging.buckets.delete",
    writes=True,
)
def delete_store(call: Call) -> Any:
    """Gone after a week: until then its name is taken, and it can be had back."""
    _get(call)["lifecycleState"] = "DELETE_REQUESTED"
    return {}


@rest(
    "logging.projects.locations.buckets.undelete",
    "logging.locations.buckets.undelete",
    permission="logging.buckets.undelete",
    writes=True,
)
def undelete_store(call: Call) -> Any:
    _get(call)["lifecycleState"] = "ACTIVE"
    return {}


@rest("logging.projects.sinks.create", "logging.sinks.create", permission="logging.sinks.create", writes=True)
def create_sink(call: Call) -> Any:
    destination = call.body["destination"].removeprefix("logging.googleapis.com/")
    if call.emulator.watch.documents.get(destination, {}).get("lifecycleState") != "ACTIVE":
        raise invalid(f"The destination {destination} does not exist.")
    return _put(call, f"{call.parameters['parent']}/sinks/{call.body['name']}", call.body)


@rest(
    "logging.projects.sinks.update",
    "logging.sinks.update",
    "logging.projects.sinks.patch",
    permission="logging.sinks.update",
    writes=True,
)
def update_sink(call: Call) -> Any:
    return _change(call, call.body, call.option("updateMask"))


@rest("logging.projects.metrics.create", permission="logging.logMetrics.create", writes=True)
def create_metric(call: Call) -> Any:
    return _put(call, f"{call.parameters['parent']}/metrics/{call.body['name']}", call.body)


@rest("logging.projects.metrics.update", permission="logging.logMetrics.update", writes=True)
def update_metric(call: Call) -> Any:
    return _change(call, call.body, "")


# Cloud Monitoring
# ----------------------------------------------------------------------------------------------------------------------

_LISTED = {"notificationChannels": "notificationChannels", "alertPolicies": "alertPolicies", "uptimeCheckConfigs": "uptimeCheckConfigs"}  # fmt: skip


@rest("monitoring.projects.notificationChannels.list", permission="monitoring.notificationChannels.list")
@rest("monitoring.projects.alertPolicies.list", permission="monitoring.alertPolicies.list")
@rest("monitoring.projects.uptimeCheckConfigs.list", permission="monitoring.uptimeCheckConfigs.list")
def list_documents(call: Call) -> Any:
    collection = call.method.split(".")[-2]
    call.emulator.project.must_be((call.parameters.get("name") or call.parameters["parent"]).split("/")[1])
    found = call.emulator.watch.of(collection)
    wanted = dict(re.findall(r"user_?[lL]abels\.(\w+)\s*=\s*\"?([\w-]+)", call.option("filter")))
    return {collection: [d for d in found if wanted.items() <= d.get("userLabels", {}).items()]}


def _new(call: Call, collection: str) -> dict[str, Any]:
    parent = call.parameters.get("name") or call.parameters["parent"]
    call.emulator.watch.count += 1
    name = f"{parent}/{collection}/{7000 + call.emulator.watch.count}"
    return _put(call, name, call.body | {"name": name})


@rest(
    "monitoring.projects.notificationChannels.create", permission="monitoring.notificationChannels.create", writes=True
)
def create_channel(call: Call) -> Any:
    if call.body.get("type") != "email" or "@" not in call.body.get("labels", {}).get("email_address", ""):
        raise invalid(
            'Field labels[email_address] had an invalid value: must be an e-mail address for a channel of type "email".'
        )
    return _new(call, "notificationChannels")


@rest(
    "monitoring.projects.notificationChannels.delete", permission="monitoring.notificationChannels.delete", writes=True
)
def delete_channel(call: Call) -> Any:
    name = _get(call)["name"]
    if any(name in policy.get("notificationChannels", []) for policy in call.emulator.watch.of("alertPolicies")):
        raise ApiError(400, "FAILED_PRECONDITION", f"Cannot delete {name}: an alerting policy uses it.")
    del call.emulator.watch.documents[name]
    return {}


@rest("monitoring.projects.alertPolicies.create", permission="monitoring.alertPolicies.create", writes=True)
def create_alert(call: Call) -> Any:
    _check_alert(call)
    return _new(call, "alertPolicies")


@rest("monitoring.projects.alertPolicies.patch", permission="monitoring.alertPolicies.update", writes=True)
def patch_alert(call: Call) -> Any:
    _check_alert(call)
    return _change(call, call.body, call.option("updateMask"))


def _check_alert(call: Call) -> None:
    """Raise the 400 of what Google's documents forbid beyond the types."""
    body, known = call.body, call.emulator.watch.documents
    for channel in body.get("notificationChannels", []):
        if channel not in known:
            raise invalid(f"Field alert_policy.notification_channels had an invalid value: {channel} does not exist.")
    if not 1 <= len(body.get("conditions", [])) <= 6:
        raise invalid("Field alert_policy.conditions must have 1 to 6 conditions.")
    for condition in body["conditions"]:
        (kind,) = set(condition) - {"displayName", "name"}
        if kind == "conditionMatchedLog" and "notificationRateLimit" not in body.get("alertStrategy", {}):
            raise invalid(
                "Field alert_policy.alert_strategy.notification_rate_limit is required for log-based conditions."
            )
        if kind != "conditionMatchedLog" and "notificationRateLimit" in body.get("alertStrategy", {}):
            raise invalid(
                "Field alert_policy.alert_strategy.notification_rate_limit is for log-based conditions alone."
            )
        if kind != "conditionThreshold":
            continue
        threshold = condition[kind]
        if "metric.type=" not in threshold["filter"] or "resource.type=" not in threshold["filter"]:
            raise invalid("Field filter must name a metric.type and a resource.type.")
        metric = re.search(r'metric\.type="logging\.googleapis\.com/user/([^"]+)"', threshold["filter"])
        if metric and not any(name.endswith(f"/metrics/{metric[1]}") for name in known):
            raise missing(f'Cannot find metric that matches type = "logging.googleapis.com/user/{metric[1]}".')
        seconds = [int(a["alignmentPeriod"].rstrip("s")) for a in threshold.get("aggregations", [])]
        if (
            any(s % 60 or s < 60 for s in seconds)
            or max(seconds, default=0) + int(threshold["duration"].rstrip("s")) > 90000
        ):
            raise invalid("Field aggregations.alignment_period: whole minutes, and at most 25 hours with the duration.")


@rest("monitoring.projects.alertPolicies.delete", permission="monitoring.alertPolicies.delete", writes=True)
@rest("monitoring.projects.uptimeCheckConfigs.delete", permission="monitoring.uptimeCheckConfigs.delete", writes=True)
@rest("monitoring.projects.dashboards.delete", permission="monitoring.dashboards.delete", writes=True)
@rest("logging.projects.metrics.delete", permission="logging.logMetrics.delete", writes=True)
@rest("logging.projects.sinks.delete", "logging.sinks.delete", permission="logging.sinks.delete", writes=True)
@rest("cloudscheduler.projects.locations.jobs.delete", permission="cloudscheduler.jobs.delete", writes=True)
@rest("billingbudgets.billingAccounts.budgets.delete", permission="billing.budgets.delete", writes=True)
def delete(call: Call) -> Any:
    _get(call)
    del call.emulator.watch.documents[_name(call)]
    return {}


@rest(
    "monitoring.projects.notificationChannels.patch", permission="monitoring.notificationChannels.update", writes=True
)
@rest("monitoring.projects.uptimeCheckConfigs.patch", permission="monitoring.uptimeCheckConfigs.update", writes=True)
@rest("billingbudgets.billingAccounts.budgets.patch", permission="billing.budgets.update", writes=True)
def patch(call: Call) -> Any:
    return _change(call, call.body, call.option("updateMask"))


@rest("monitoring.projects.uptimeCheckConfigs.create", permission="monitoring.uptimeCheckConfigs.create", writes=True)
def create_check(call: Call) -> Any:
    return _new(call, "uptimeCheckConfigs")


@rest("monitoring.projects.dashboards.create", permission="monitoring.dashboards.create", writes=True)
def create_dashboard(call: Call) -> Any:
    document = call.body | {"etag": etag(call.body)}
    return _put(call, call.body["name"], document)


@rest("monitoring.projects.dashboards.patch", permission="monitoring.dashboards.update", writes=True)
def patch_dashboard(call: Call) -> Any:
    if call.body.get("etag") != _get(call)["etag"]:
        raise ApiError(409, "ABORTED", "The dashboard was changed meanwhile: its etag is another.")
    return _change(call, call.body | {"etag": etag(call.body)}, "")


# Budgets
# ----------------------------------------------------------------------------------------------------------------------


@rest("billingbudgets.billingAccounts.budgets.list", permission="billing.budgets.list")
def list_budgets(call: Call) -> Any:
    return {
        "budgets": [
            d for name, d in call.emulator.watch.documents.items() if name.startswith(call.parameters["parent"])
        ]
    }


@rest("billingbudgets.billingAccounts.budgets.create", permission="billing.budgets.create", writes=True)
def create_budget(call: Call) -> Any:
    return _new(call, "budgets")
