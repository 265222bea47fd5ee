"""What comes along: groups of tables that are copied together, in an order in which each finds what it refers to."""

from __future__ import annotations

from dataclasses import dataclass

#: Rows of a group's first table in one transaction.
BATCH = 100


@dataclass(frozen=True)
class Group:
    """A table whose rows are copied with all that belongs to them, or not at all.

    Attributes:
        table: its name, which the report uses too.
        key: the column that names a row.
        parts: other tables, with the column that names the row that theirs belong to.
    """

    table: str
    key: str
    parts: tuple[tuple[str, str], ...] = ()


GROUPS: tuple[Group, ...] = (
    Group("datasets", "dataset_uuid"),
    Group(
        "runs",
        "run_uuid",
        (("params", "run_uuid"), ("tags", "run_uuid"), ("metrics", "run_uuid"), ("latest_metrics", "run_uuid")),
    ),
    Group(
        "logged_models",
        "model_id",
        (("logged_model_params", "model_id"), ("logged_model_tags", "model_id"), ("logged_model_metrics", "model_id")),
    ),
    Group("inputs", "input_uuid", (("input_tags", "input_uuid"),)),
    Group(
        "registered_models",
        "name",
        (
            ("model_versions", "name"),
            ("registered_model_tags", "name"),
            ("registered_model_aliases", "name"),
            ("model_version_tags", "name"),
        ),
    ),
    Group(
        "trace_info",
        "request_id",
        (
            ("trace_tags", "request_id"),
            ("trace_request_metadata", "request_id"),
            ("trace_metrics", "request_id"),
            ("spans", "trace_id"),
            ("span_metrics", "trace_id"),
            ("assessments", "trace_id"),
        ),
    ),
    Group("issues", "issue_id"),
    Group(
        "evaluation_datasets",
        "dataset_id",
        (("evaluation_dataset_records", "dataset_id"), ("evaluation_dataset_tags", "dataset_id")),
    ),
    Group("entity_associations", "association_id"),
    Group("scorers", "scorer_id", (("scorer_versions", "scorer_id"),)),
    Group("label_schemas", "schema_id"),
)
#: Brought along by :mod:`gatehouse.moving.experiments`, which finds their numbers here.
OF_EXPERIMENTS = ("experiments", "experiment_tags")
#: Derived from others by MLflow itself, or of the server's moment.
PASSED_OVER = frozenset(
    {
        "alembic_version", "jobs", "job_locks", "scheduler_leases", "workspaces", "sql_assessment_daily_rollups",
        "sql_span_cost_daily_rollups", "sql_trace_metric_daily_rollups", "sql_trace_rollup_rebuild_queue",
    }
)  # fmt: skip
#: What can't come along, and why; the report tells how many rows of each there are.
LEFT_BEHIND = {
    "secrets": "the gateway's keys are encrypted with the old server's passphrase: enter them anew",
    "endpoints": "the gateway's endpoints need their keys: make them anew",
    "webhooks": "their secrets are encrypted with the old server's key: make them anew",
    "model_definitions": "the gateway's models need their keys: make them anew",
    "budget_policies": "they belong to the gateway: make them anew",
    "guardrails": "they belong to the gateway's endpoints: make them anew",
    "online_scoring_configs": "they start jobs: switch them on anew",
    "review_queues": "their members are accounts of the old server: make them anew",
    "mcp_servers": "the registry of MCP servers belongs to the old server: enter them anew",
}
