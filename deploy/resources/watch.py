"""Day 2: what runs and watches by itself.

The job that removes what was deleted long ago, on a schedule; the audit log's own store; the uptime check, the alerts
and whom they reach; the dashboard; the budget.

Each part is a document as its API gives it, wanted and found. A part is right when all that is wanted is found; what
Google (or somebody) adds beyond stays. Parts whose section is taken out of the file go, as they do with `destroy`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from deploy.cloud.google import Google, side_by_side
from deploy.config import Config
from deploy.resources import schema_job
from deploy.resources.base import Argv, holds, p, told

INVOKER = "roles/run.invoker"
#: Stands in an alert for its channels, whose names are Google's: they are looked up when the alert is made.
CHANNELS = "@CHANNELS@"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LOGGING = "https://logging.googleapis.com/v2"
_MONITORING = "https://monitoring.googleapis.com"


@dataclass(frozen=True)
class Part:
    """One thing: its document as it is to be (None: it isn't to be) and as it is (None: it isn't), with the commands."""

    key: str
    title: str
    wanted: Any
    found: Any
    create: Argv
    update: Argv
    delete: Argv
    #: What the commands read on standard input.
    text: str = ""
    needs: tuple[str, ...] = ()
    #: Holds what people may still need: `destroy` keeps it without `--data`.
    data: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """What differs, a line each; none unless it is wanted and there."""
        return tuple(missing(self.wanted, self.found)) if self.wanted is not None and self.found is not None else ()


def missing(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yield what is wanted and not found so, by its path."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            yield from missing(value, found.get(key), f"{where}/{key}".lstrip("/"))
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from missing(one, other, f"{where}/{index}")
    elif wanted != found and not (found is None and wanted in (0, False, "", [], {})) and str(wanted) != str(found):
        shown = [value if len(value) < 60 else f"{value[:57]}…" for value in (told(found), told(wanted))]
        yield f"{where}: {shown[0]} → {shown[1]}"


@dataclass
class Found:
    """What is there, as the APIs show it."""

    job: dict[str, Any] | None = None
    job_policy: dict[str, Any] = field(default_factory=dict)
    clock: dict[str, Any] | None = None
    store: dict[str, Any] | None = None
    sink: dict[str, Any] | None = None
    metric: dict[str, Any] | None = None
    channels: list[dict[str, Any]] = field(default_factory=list)
    uptime: dict[str, Any] | None = None
    alerts: dict[str, dict[str, Any]] = field(default_factory=dict)
    dashboard: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None


def apis(config: Config) -> tuple[str, ...]:
    """Return the APIs that these parts need beside the others."""
    watched = config.settings.monitoring
    return (
        *(("cloudscheduler.googleapis.com",) if config.settings.housekeeping else ()),
        *(("monitoring.googleapis.com",) if watched else ()),
        *(("billingbudgets.googleapis.com",) if watched and watched.budget else ()),
    )


# Looks
# ----------------------------------------------------------------------------------------------------------------------


def look(config: Config, google: Google, on: Callable[[str], bool]) -> Found:
    """Return what is there. `on` says which APIs can be asked. Raises CloudError."""
    there, name, place = Found(), config.names.service, f"projects/{config.project}/locations/{config.region}"

    def put(attribute: str, url: str) -> Callable[[], None]:
        return lambda: setattr(there, attribute, google.find(url))

    looks = [
        put("store", f"{_LOGGING}/{place}/buckets/{name}-audit"),
        put("sink", f"{_LOGGING}/projects/{config.project}/sinks/{name}-audit"),
        put("metric", f"{_LOGGING}/projects/{config.project}/metrics/{name}-backups"),
    ]
    if on("cloudscheduler"):
        looks.append(put("clock", f"https://cloudscheduler.googleapis.com/v1/{place}/jobs/{config.names.gc_job}"))
    if on("run"):
        looks.append(lambda: _job(config, google, there))
    if on("monitoring"):
        looks += [
            lambda: setattr(there, "channels", _mine(config, google, "notificationChannels", "notificationChannels")),
            lambda: setattr(there, "alerts", {a["userLabels"].get("alert", a["name"]): a for a in _mine(config, google, "alertPolicies", "alertPolicies")}),
            lambda: setattr(there, "uptime", _check(config, google)),
            put("dashboard", f"{_MONITORING}/v1/projects/{config.project}/dashboards/{name}"),
        ]  # fmt: skip
    watched = config.settings.monitoring
    if watched and watched.budget and on("billingbudgets"):
        account = watched.budget.billing_account
        looks.append(lambda: setattr(there, "budget", _budget(config, google, account)))
    side_by_side(looks)
    return there


def _job(config: Config, google: Google, there: Found) -> None:
    there.job = schema_job.look(config, google, config.names.gc_job)
    if there.job is not None:
        url = f"https://run.googleapis.com/v1/projects/{config.project}/locations/{config.region}/jobs/{config.names.gc_job}"
        there.job_policy = google.get(f"{url}:getIamPolicy")


def _mine(config: Config, google: Google, collection: str, key: str) -> list[dict[str, Any]]:
    """Return those of a collection that have this environment's labels."""
    url = f"{_MONITORING}/v3/projects/{config.project}/{collection}"
    own = {"app": "gatehouse", "environment": config.environment}
    return [item for item in google.pages(url, key) if own.items() <= item.get("userLabels", {}).items()]


def _check(config: Config, google: Google) -> dict[str, Any] | None:
    """Return the uptime check, by its name: gcloud (528) takes `--user-labels` and sends none."""
    url = f"{_MONITORING}/v3/projects/{config.project}/uptimeCheckConfigs"
    listed = google.pages(url, "uptimeCheckConfigs")
    return next((item for item in listed if item.get("displayName") == _check_name(config)), None)


def _check_name(config: Config) -> str:
    return f"{config.names.service} answers"


def _budget(config: Config, google: Google, billing_account: str) -> dict[str, Any] | None:
    url = f"https://billingbudgets.googleapis.com/v1/billingAccounts/{billing_account}/budgets"
    listed = google.pages(url, "budgets")
    return next((item for item in listed if item.get("displayName") == _budget_name(config)), None)


def channel_names(config: Config, google: Google) -> list[str]:
    """Return the full names of this environment's channels, in one order. Raises CloudError."""
    emails = list(config.settings.monitoring.emails) if config.settings.monitoring else []
    listed = _mine(config, google, "notificationChannels", "notificationChannels")
    return sorted(item["name"] for item in listed if item["labels"].get("email_address") in emails)


# Parts
# ----------------------------------------------------------------------------------------------------------------------


def parts(config: Config, there: Found, number: str, image: str) -> list[Part]:
    """Return every part, wanted or found, in an order that works."""
    made = [*_housekeeping(config, there, image), *_audit(config, there), *_channels(config, there)]
    made += [
        _uptime(config, there, number),
        _backups(config, there),
        *_alerts(config, there, number),
        _dashboard(config, there),
    ]
    if there.budget is not None or (config.settings.monitoring and config.settings.monitoring.budget):
        made.append(_spending(config, there))
    return [part for part in made if part.wanted is not None or part.found is not None]


def _housekeeping(config: Config, there: Found, image: str) -> list[Part]:
    settings, name = config.settings.housekeeping, config.names.gc_job
    region = f"--region={config.region}"
    arguments = ["gatehouse", "gc", "--delete", f"--older-than={settings.older_than}"] if settings else []
    destination = f"{config.bucket}/{config.artifacts.prefix}"
    # The newest version, whatever rotations come in between.
    argv = (
        "gcloud", "run", "jobs", "deploy", name, *schema_job.flags(config, image, "latest", ARTIFACTS_DESTINATION=destination),
        f"--args={','.join(arguments)}", "--max-retries=0",
        "--task-timeout=3600", region, p(config),
    )  # fmt: skip
    url = f"{config.names.secret('database-url')}:latest"
    wanted = None
    if settings and image:
        wanted = {"image": image, "arguments": arguments, "account": config.account, "database": config.connection,
                  "env": {"APP_ENV": config.environment, "ARTIFACTS_DESTINATION": destination}, "secret": url}  # fmt: skip
    delete = ("gcloud", "run", "jobs", "delete", name, "--quiet", region, p(config))
    job = Part(
        "gc/job",
        f"job {name}",
        wanted,
        _found_job(there.job),
        argv,
        argv,
        delete,
        needs=("migrate", "deploy", "traffic"),
    )
    member = f"serviceAccount:{config.account}"
    bind = (
        "gcloud",
        "run",
        "jobs",
        "{}-iam-policy-binding",
        name,
        f"--member={member}",
        f"--role={INVOKER}",
        region,
        p(config),
    )
    add, remove = (tuple(part.format(verb) for part in bind) for verb in ("add", "remove"))
    right = Part(
        "gc/right", f"right to start {name}", {"held": True} if wanted else None,
        {"held": True} if holds(there.job_policy, INVOKER, member) else None, add, add, remove, needs=("gc/job", "account"),
    )  # fmt: skip
    uri = f"https://run.googleapis.com/v2/projects/{config.project}/locations/{config.region}/jobs/{name}:run"
    clock = None
    flags: Argv = ()
    if settings and wanted:
        clock = {
            "schedule": settings.schedule, "timeZone": settings.time_zone,
            "httpTarget": {"uri": uri, "httpMethod": "POST", "oauthToken": {"serviceAccountEmail": config.account, "scope": SCOPE}},
        }  # fmt: skip
        flags = (f"--schedule={settings.schedule}", f"--time-zone={settings.time_zone}", f"--uri={uri}", "--http-method=POST",
                 f"--oauth-service-account-email={config.account}", f"--oauth-token-scope={SCOPE}")  # fmt: skip
    scheduler, where = ("gcloud", "scheduler", "jobs"), (f"--location={config.region}", p(config))
    return [
        job,
        # A job that goes takes its policy with it.
        *([right] if wanted else []),
        Part(
            "gc/clock", f"schedule of {name}", clock, there.clock, (*scheduler, "create", "http", name, *flags, *where),
            (*scheduler, "update", "http", name, *flags, *where), (*scheduler, "delete", name, "--quiet", *where),
            needs=("apis", "gc/right"),
        ),
    ]  # fmt: skip


def _found_job(answer: dict[str, Any] | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    template = answer["spec"]["template"]
    spec = template["spec"]["template"]["spec"]
    container = spec["containers"][0]
    env = {variable["name"]: variable for variable in container.get("env", [])}
    reference = env.get("BACKEND_STORE_URI", {}).get("valueFrom", {}).get("secretKeyRef", {})
    return {
        "image": container["image"],
        "arguments": container.get("args", []),
        "account": spec.get("serviceAccountName", ""),
        "database": template.get("metadata", {})
        .get("annotations", {})
        .get("run.googleapis.com/cloudsql-instances", ""),
        "env": {name: variable["value"] for name, variable in env.items() if "value" in variable},
        "secret": f"{reference.get('name')}:{reference.get('key')}",
    }


def _audit(config: Config, there: Found) -> list[Part]:
    watched, name = config.settings.monitoring, f"{config.names.service}-audit"
    buckets, sinks = ("gcloud", "logging", "buckets"), ("gcloud", "logging", "sinks")
    where = (f"--location={config.region}", p(config))
    days = watched.audit_days if watched else 0
    text = f"Gatehouse's audit log, {config.environment}"
    gone = there.store is not None and there.store.get("lifecycleState") == "DELETE_REQUESTED"
    change = (*buckets, "undelete", name, *where) if gone else (
        *buckets, "update", name, f"--retention-days={days}", f"--description={text}", *where)  # fmt: skip
    found = there.store if there.store is not None and (watched or not gone) else None
    store = Part(
        "watch/audit", f"log bucket {name}" + (f" ({days} days)" if days else ""),
        {"retentionDays": days, "description": text, "lifecycleState": "ACTIVE"} if watched else None, found,
        (*buckets, "create", name, f"--retention-days={days}", f"--description={text}", *where), change,
        (*buckets, "delete", name, "--quiet", *where), data=True,
    )  # fmt: skip
    full = f"projects/{config.project}/locations/{config.region}/buckets/{name}"
    query = f'resource.type="cloud_run_revision" AND resource.labels.service_name="{config.names.service}" AND labels.log="audit"'
    target = f"logging.googleapis.com/{full}"
    flags = (f"--log-filter={query}", f"--description={text}", p(config))
    sink = Part(
        "watch/sink", f"log sink {name}", {"destination": target, "filter": query} if watched else None, there.sink,
        (*sinks, "create", name, target, *flags), (*sinks, "update", name, target, *flags),
        (*sinks, "delete", name, "--quiet", p(config)), needs=("watch/audit",),
    )  # fmt: skip
    return [store, sink]


def _labels(config: Config) -> dict[str, str]:
    return {"app": "gatehouse", "environment": config.environment}


def _channels(config: Config, there: Found) -> list[Part]:
    wanted = list(config.settings.monitoring.emails) if config.settings.monitoring else []
    known = {item["labels"].get("email_address", ""): item for item in there.channels}
    made, channels = [], ("gcloud", "beta", "monitoring", "channels")
    for email in dict.fromkeys([*wanted, *known]):
        found = known.get(email)
        document = {"type": "email", "displayName": f"Gatehouse {config.environment}: {email}", "enabled": True,
                    "labels": {"email_address": email}, "userLabels": _labels(config)}  # fmt: skip
        name = found["name"] if found else ""
        made.append(
            Part(
                f"watch/channel/{email}", f"alerts reach {email}", document if email in wanted else None, found,
                (*channels, "create", "--channel-content-from-file=-", p(config)),
                (*channels, "update", name, "--channel-content-from-file=-", p(config)),
                (*channels, "delete", name, "--quiet", p(config)), text=json.dumps(document), needs=("apis",),
            )
        )  # fmt: skip
    return made


def _uptime(config: Config, there: Found, number: str) -> Part:
    """From outside, without signing in: the proxy's `/ping`, which answers once MLflow is ready behind it."""
    name, host = _check_name(config), config.public_url(number).removeprefix("https://")
    wanted = None
    if config.settings.monitoring and config.service.ingress == "all":
        wanted = {
            "displayName": name, "timeout": "10s", "period": "300s",
            "monitoredResource": {"type": "uptime_url", "labels": {"host": host, "project_id": config.project}},
            "httpCheck": {"path": "/ping", "useSsl": True, "validateSsl": True},
        }  # fmt: skip
    checks = ("gcloud", "monitoring", "uptime")
    flags = ("--path=/ping", "--validate-ssl=true", "--period=5", "--timeout=10")
    found = there.uptime
    # A check's host can't be changed: another address makes another check.
    moved = (
        wanted is not None
        and found is not None
        and found.get("monitoredResource", {}).get("labels", {}).get("host") != host
    )
    identity = found["name"] if found else ""
    create = (
        *checks, "create", name, "--resource-type=uptime-url", f"--resource-labels=host={host},project_id={config.project}",
        "--protocol=https", *flags, p(config),
    )  # fmt: skip
    delete = (*checks, "delete", identity, "--quiet", p(config))
    update = delete if moved else (
        *checks, "update", identity, f"--display-name={name}", *flags, p(config))  # fmt: skip
    return Part(
        "watch/uptime", f"uptime check of https://{host}/ping", wanted, found, create, update, delete, needs=("apis",)
    )


def _backups(config: Config, there: Found) -> Part:
    """A metric of the logs: Cloud SQL has none of how old the newest backup is."""
    name = f"{config.names.service}-backups"
    query = (
        f'resource.type="cloudsql_database" AND resource.labels.database_id="{config.project}:{config.names.sql}"'
        ' AND protoPayload.methodName="cloudsql.instances.automatedBackup" AND severity<ERROR'
    )
    text = "Automatic backups of Gatehouse's database"
    flags = (f"--description={text}", f"--log-filter={query}", p(config))
    metrics = ("gcloud", "logging", "metrics")
    return Part(
        "watch/backups", f"metric {name}", {"filter": query, "description": text} if config.settings.monitoring else None,
        there.metric, (*metrics, "create", name, *flags), (*metrics, "update", name, *flags),
        (*metrics, "delete", name, "--quiet", p(config)),
    )  # fmt: skip


def _threshold(query: str, aligner: str, reducer: str, limit: float, seconds: int = 300, **more: Any) -> dict[str, Any]:
    aggregation = {"alignmentPeriod": f"{seconds}s", "perSeriesAligner": aligner, "crossSeriesReducer": reducer}
    return {
        "conditionThreshold": {
            "filter": query, "aggregations": [aggregation], "comparison": "COMPARISON_GT", "thresholdValue": limit,
            "duration": "300s", "trigger": {"count": 1},
        } | more
    }  # fmt: skip


def _logged(query: str) -> dict[str, Any]:
    return {"conditionMatchedLog": {"filter": query}}


def conditions(config: Config, number: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return each alert: what it is called, what to do when it comes, and its condition."""
    watched = config.settings.monitoring
    if watched is None:
        return {}
    service, given = config.names.service, config.given
    run = f'resource.type="cloud_run_revision" AND resource.labels.service_name="{service}"'
    requests = f'{run} AND metric.type="run.googleapis.com/request_count"'
    sql = f'resource.type="cloudsql_database" AND resource.labels.database_id="{config.project}:{config.names.sql}"'
    rate = {"alignmentPeriod": "300s", "perSeriesAligner": "ALIGN_RATE", "crossSeriesReducer": "REDUCE_SUM"}
    logs = f"projects/{config.project}/logs/run.googleapis.com%2F"
    _, allowed = config.connection_budget()
    host = config.public_url(number).removeprefix("https://")
    look = f"`python -m deploy logs {given} --severity=WARNING`; `python -m deploy rollback {given}` goes back to the release before."
    found = {
        "errors": (
            f"more than {watched.error_percent} % of the requests fail", look,
            _threshold(
                f'{requests} AND metric.labels.response_code_class="5xx"', "ALIGN_RATE", "REDUCE_SUM", watched.error_percent / 100,
                denominatorFilter=requests, denominatorAggregations=[rate],
            ),
        ),
        "latency": (
            f"one request in 20 takes longer than {watched.latency_seconds} s", look,
            _threshold(
                f'{run} AND metric.type="run.googleapis.com/request_latencies"', "ALIGN_DELTA", "REDUCE_PERCENTILE_95",
                watched.latency_seconds * 1000,
            ),
        ),
        "restarts": (
            "an instance ended by itself", f"Its exit code is in the log, and explained in the README. {look}",
            _logged(
                f'{run} AND logName="{logs}varlog%2Fsystem" AND severity>=WARNING'
                ' AND textPayload=~"(exit\\\\(|terminated|signal|[Mm]emory limit|LIVENESS)"'
            ),
        ),
        "audit": (
            "writes are refused", "503 to a write says mostly that the audit log can't be written: no write goes on without its line.",
            _logged(f'{run} AND logName="{logs}requests" AND httpRequest.status=503 AND httpRequest.requestMethod!="GET"'),
        ),
        "connections": (
            "the database's connections are nearly used up", f"`python -m deploy doctor {given}` has the sum: fewer instances, or a larger tier.",
            _threshold(
                f'{sql} AND metric.type="cloudsql.googleapis.com/database/postgresql/num_backends"', "ALIGN_MEAN", "REDUCE_SUM",
                round(allowed * 0.9),
            ),
        ),
        "backup": (
            "no automatic backup for a day", f"`gcloud sql operations list --instance={config.names.sql}`; meanwhile `python -m deploy backup {given}`.",
            _threshold(
                f'{sql} AND metric.type="logging.googleapis.com/user/{service}-backups"', "ALIGN_SUM", "REDUCE_SUM", 1, 86400,
                comparison="COMPARISON_LT", duration="3600s", evaluationMissingData="EVALUATION_MISSING_DATA_ACTIVE",
            ),
        ),
    }  # fmt: skip
    if config.service.ingress == "all":
        found["uptime"] = (
            "nothing answers from outside", look,
            {
                "conditionThreshold": {
                    "filter": 'resource.type="uptime_url" AND metric.type="monitoring.googleapis.com/uptime_check/check_passed"'
                    f' AND resource.labels.host="{host}"',
                    "aggregations": [
                        {"alignmentPeriod": "600s", "perSeriesAligner": "ALIGN_FRACTION_TRUE", "crossSeriesReducer": "REDUCE_MEAN"}
                    ],
                    "comparison": "COMPARISON_LT", "thresholdValue": 0.5, "duration": "300s", "trigger": {"count": 1},
                }
            },
        )  # fmt: skip
    return found


def _alerts(config: Config, there: Found, number: str) -> list[Part]:
    wanted, made, policies = conditions(config, number), [], ("gcloud", "alpha", "monitoring", "policies")
    channels = sorted(c["name"] for c in there.channels) if config.settings.monitoring else []
    emails = config.settings.monitoring.emails if config.settings.monitoring else []
    waits = ("apis", "watch/uptime", "watch/backups", *(f"watch/channel/{email}" for email in emails))
    for key in dict.fromkeys([*wanted, *there.alerts]):
        found, document, compared = there.alerts.get(key), None, None
        if key in wanted:
            name, advice, condition = wanted[key]
            document = {
                "displayName": f"{config.names.service}: {name}", "combiner": "OR", "enabled": True,
                "userLabels": _labels(config) | {"alert": key},
                "documentation": {"content": advice, "mimeType": "text/markdown"},
                "conditions": [{"displayName": name, **condition}], "notificationChannels": [CHANNELS],
                "alertStrategy": {"autoClose": "86400s"}
                | ({"notificationRateLimit": {"period": "3600s"}} if "conditionMatchedLog" in condition else {}),
            }  # fmt: skip
            compared = document | {"notificationChannels": channels if len(channels) == len(emails) else [CHANNELS]}
        name = found["name"] if found else ""
        made.append(
            Part(
                f"watch/alert/{key}", f"alert: {wanted[key][0] if key in wanted else key}", compared, found,
                (*policies, "create", "--policy-from-file=-", p(config)),
                (*policies, "update", name, "--policy-from-file=-", p(config)),
                (*policies, "delete", name, "--quiet", p(config)), text=json.dumps(document) if document else "", needs=waits,
            )
        )  # fmt: skip
    return made


def _dashboard(config: Config, there: Found) -> Part:
    name, boards = config.names.service, ("gcloud", "monitoring", "dashboards")
    document: dict[str, Any] = {
        "displayName": f"Gatehouse {config.environment}",
        "labels": _labels(config),
        "gridLayout": {"columns": "2", "widgets": _widgets(config)},
    }
    # The etag guards against two writers; the name is ours to choose.
    sent = document | {"name": f"projects/{config.project}/dashboards/{name}"}
    if there.dashboard is not None:
        sent |= {"etag": there.dashboard.get("etag", "")}
    return Part(
        "watch/dashboard", f"dashboard {name}", document if config.settings.monitoring else None, there.dashboard,
        (*boards, "create", "--config-from-file=-", p(config)), (*boards, "update", name, "--config-from-file=-", p(config)),
        (*boards, "delete", name, "--quiet", p(config)), text=json.dumps(sent), needs=("apis",),
    )  # fmt: skip


def _widgets(config: Config) -> list[dict[str, Any]]:
    service, server = config.names.service, f"{config.project}:{config.names.sql}"
    run = f'resource.type="cloud_run_revision" AND resource.labels.service_name="{service}" AND metric.type="run.googleapis.com/'
    sql = (
        f'resource.type="cloudsql_database" AND resource.labels.database_id="{server}"'
        ' AND metric.type="cloudsql.googleapis.com/database/'
    )
    charts: tuple[tuple[str, str, str, str, list[str]], ...] = (
        (
            "Requests a second, by class",
            f'{run}request_count"',
            "ALIGN_RATE",
            "REDUCE_SUM",
            ["metric.labels.response_code_class"],
        ),
        ("95th percentile of the latency, ms", f'{run}request_latencies"', "ALIGN_DELTA", "REDUCE_PERCENTILE_95", []),
        ("Instances", f'{run}container/instance_count"', "ALIGN_MAX", "REDUCE_SUM", ["metric.labels.state"]),
        ("Memory, 95th percentile", f'{run}container/memory/utilizations"', "ALIGN_DELTA", "REDUCE_PERCENTILE_95", []),
        ("Database: connections", f'{sql}postgresql/num_backends"', "ALIGN_MEAN", "REDUCE_SUM", []),
        ("Database: CPU", f'{sql}cpu/utilization"', "ALIGN_MEAN", "REDUCE_MEAN", []),
        ("Database: disk used, bytes", f'{sql}disk/bytes_used"', "ALIGN_MEAN", "REDUCE_SUM", []),
    )
    return [
        {
            "title": title,
            "xyChart": {
                "dataSets": [
                    {
                        "timeSeriesQuery": {
                            "timeSeriesFilter": {
                                "filter": query,
                                "aggregation": {
                                    "alignmentPeriod": "60s", "perSeriesAligner": aligner, "crossSeriesReducer": reducer,
                                    **({"groupByFields": fields} if fields else {}),
                                },
                            }
                        },
                        "plotType": "LINE",
                    }
                ]
            },
        }
        for title, query, aligner, reducer, fields in charts
    ]  # fmt: skip


def _budget_name(config: Config) -> str:
    return f"Gatehouse {config.environment}"


def _spending(config: Config, there: Found) -> Part:
    watched = config.settings.monitoring
    budget = watched.budget if watched else None
    account = budget.billing_account if budget else there.budget["name"].split("/")[1] if there.budget else ""
    amount = budget.usd if budget else 0
    name, budgets = _budget_name(config), ("gcloud", "billing", "budgets")
    identity = there.budget["name"].rsplit("/", 1)[1] if there.budget else ""
    where = f"--billing-account={account}"
    wanted = (
        {"displayName": name, "amount": {"specifiedAmount": {"currencyCode": "USD", "units": str(amount)}}}
        if budget
        else None
    )
    return Part(
        "watch/budget", f"budget of ${amount} a month for {config.project}", wanted, there.budget,
        (*budgets, "create", where, f"--display-name={name}", f"--budget-amount={amount}USD",
         f"--filter-projects=projects/{config.project}", "--threshold-rule=percent=0.5", "--threshold-rule=percent=0.9",
         "--threshold-rule=percent=1.0"),
        (*budgets, "update", identity, where, f"--budget-amount={amount}USD"), (*budgets, "delete", identity, where, "--quiet"),
        needs=("apis",),
    )  # fmt: skip


# Standard input
# ----------------------------------------------------------------------------------------------------------------------


def resolve(text: str, names: list[str]) -> str:
    """Return a document with its channels' names in the place of the mark."""
    return text.replace(json.dumps([CHANNELS]), json.dumps(names))


def shell(config: Config, text: str) -> str:
    """Return the shell words that print a document, for who runs the plan's commands by hand."""
    printed = f"printf %s {shlex.quote(text)}"
    if CHANNELS not in text:
        return printed
    mine = f"userLabels.app=gatehouse AND userLabels.environment={config.environment}"
    listed = (
        f"gcloud beta monitoring channels list --filter={shlex.quote(mine)} --format='value(name)' {p(config)}"
        " | sort | sed 's/.*/\"&\"/' | paste -sd, -"
    )
    return f'{printed} | sed "s#\\"{CHANNELS}\\"#$({listed})#"'
