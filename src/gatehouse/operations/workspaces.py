"""What each operation of MLflow reaches where workspaces are on: the one table of verdicts.

An operation that isn't in it is refused there, so an upgrade of MLflow can open nothing between teams unseen;
tests/teams/test_walls.py walks MLflow's own routes and fails on one without a verdict.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from gatehouse.operations.classes import Access
from gatehouse.operations.table import GRAPHQL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatehouse.operations.router import Route


class Reach(Enum):
    """How far an operation reaches."""

    #: The request's workspace: MLflow's stores filter by it, or the gate does (artifacts); the role in it decides.
    WITHIN = "within"
    #: Nothing of any workspace: whoever has a role in one may ask.
    SERVER = "server"
    #: The workspace that the path names.
    NAMED = "named"
    #: The server as a whole, or several workspaces: for the server's admins.
    ADMINISTERED = "administered"


#: Answers the same whatever workspaces hold; the list of them is cut to the caller's own (``database.workspaces``).
_SERVER = """
get_provider_config get_secrets_config get_server_info health list_supported_models list_supported_providers
list_workspaces not_implemented serve serve_get_ui_telemetry serve_post_ui_telemetry serve_static_file static version
"""

#: Budgets may be of all workspaces (``GLOBAL``), and MLflow shows what was spent of such a one to everybody.
_ADMINISTERED = """
create_budget_policy create_workspace delete_budget_policy delete_workspace list_budget_windows update_budget_policy
update_workspace
"""

_NAMED = "get_workspace"

#: Each of these asks a store that filters by workspace, or names artifacts, whose paths the gate holds within it.
_WITHIN = """
abort_multipart_upload_artifact add_dataset_to_experiments add_guardrail_to_endpoint add_items_to_review_queue
anthropic_passthrough_messages attach_model_to_gateway_endpoint batch_get_trace_infos batch_get_traces
calculate_trace_filter_correlation cancel_job cancel_prompt_optimization_job chat_completions
complete_multipart_upload_artifact create_assessment create_dataset create_experiment create_gateway_endpoint
create_gateway_endpoint_binding create_gateway_guardrail create_gateway_model_definition create_gateway_secret
create_issue create_label_schema create_logged_model create_mcp_access_endpoint create_mcp_server
create_mcp_server_version create_model_version create_multipart_upload_artifact create_presigned_download_url
create_presigned_upload_url create_prompt_optimization_job create_registered_model create_review_queue create_run
create_webhook delete_artifact_mlflow_artifacts delete_assessment delete_dataset delete_dataset_records
delete_dataset_tag delete_demo delete_experiment delete_experiment_tag delete_gateway_endpoint
delete_gateway_endpoint_binding delete_gateway_endpoint_tag delete_gateway_guardrail delete_gateway_model_definition
delete_gateway_secret delete_label_schema delete_logged_model delete_logged_model_tag delete_mcp_access_endpoint
delete_mcp_server delete_mcp_server_alias delete_mcp_server_tag delete_mcp_server_version
delete_mcp_server_version_tag delete_model_version delete_model_version_tag delete_prompt_optimization_job
delete_registered_model delete_registered_model_alias delete_registered_model_tag delete_review_queue delete_run
delete_scorer delete_tag delete_trace_tag delete_trace_tag_v3 delete_traces delete_webhook
deprecated_end_trace_v2 deprecated_get_trace_info_v2 deprecated_search_traces_v2 deprecated_start_trace_v2
detach_model_from_gateway_endpoint download_artifact export_traces finalize_logged_model
gemini_passthrough_generate_content gemini_passthrough_stream_generate_content generate_demo get_assessment
get_budget_policy get_dataset get_dataset_experiment_ids get_dataset_records get_experiment get_experiment_by_name
get_gateway_endpoint get_gateway_guardrail get_gateway_model_definition get_gateway_secret_info get_issue get_job
get_label_schema get_label_schema_by_name get_latest_versions get_logged_model get_mcp_access_endpoint
get_mcp_server get_mcp_server_version get_metric_history get_metric_history_bulk_interval get_model_version
get_model_version_by_alias get_model_version_download_uri get_online_scoring_configs get_or_create_user_queue
get_presigned_download_url get_prompt_optimization_job get_registered_model get_review_queue
get_review_queue_by_name get_run get_scorer get_trace get_trace_info_v3 get_version_by_alias get_webhook
invocations invoke_genai_evaluate invoke_issue_detection invoke_scorer link_prompts_to_trace link_traces_to_run
list_artifacts list_artifacts_mlflow_artifacts list_budget_policies list_endpoint_guardrail_configs
list_gateway_endpoint_bindings list_gateway_endpoints list_gateway_guardrails list_gateway_model_definitions
list_gateway_secrets list_label_schemas list_logged_model_artifacts list_models list_review_queue_items
list_review_queues list_scorer_versions list_scorers list_webhooks log_batch log_inputs log_logged_model_params
log_metric log_model log_outputs log_param openai_passthrough_chat openai_passthrough_embeddings
openai_passthrough_responses openai_passthrough_responses_compact query_trace_metrics raw_proxy register_scorer
remove_dataset_from_experiments remove_guardrail_from_endpoint remove_items_from_review_queue
rename_registered_model restore_experiment restore_run search_all_access_endpoints search_evaluation_datasets
search_experiments search_issues search_jobs search_logged_models search_mcp_server_versions search_mcp_servers
search_model_versions search_prompt_optimization_jobs search_registered_models search_runs
search_server_access_endpoints search_traces_v3 serve_artifacts serve_create_promptlab_run serve_gateway_proxy
serve_get_logged_model_artifact serve_get_metric_history_bulk serve_get_metric_history_bulk_interval
serve_get_trace_artifact serve_model_version_artifact serve_search_datasets serve_upload_artifact
set_dataset_tags set_experiment_tag set_gateway_endpoint_tag set_logged_model_tags set_mcp_server_alias
set_mcp_server_tag set_mcp_server_version_tag set_model_version_tag set_registered_model_alias
set_registered_model_tag set_review_queue_item_status set_tag set_trace_tag set_trace_tag_v3 start_trace_v3
submit_job test_webhook transition_stage typesafe_passthrough_system_one update_assessment
update_endpoint_guardrail_config update_experiment update_gateway_endpoint update_gateway_model_definition
update_gateway_secret update_issue update_label_schema update_mcp_access_endpoint update_mcp_server
update_mcp_server_version update_model_version update_registered_model update_review_queue update_run
update_webhook upload_artifact upsert_dataset_records upsert_online_scoring_config
"""

#: Operation → its verdict.
REACHES: Mapping[str, Reach] = {
    name: reach
    for reach, names in (
        (Reach.SERVER, _SERVER),
        (Reach.ADMINISTERED, _ADMINISTERED),
        (Reach.NAMED, _NAMED),
        (Reach.WITHIN, _WITHIN),
    )
    for name in names.split()
}


def reach(route: Route) -> Reach | None:
    """Return the verdict for what a request would do, or None if there is none and it must be refused.

    Where no operation runs (MLflow says that there is no such route), nothing of a workspace is reached. The stores
    filter all root fields of GraphQL that are known; one that isn't makes the request an admin's.
    """
    if route.operation is None:
        return Reach.SERVER
    if route.operation.partition(" ")[0] == GRAPHQL:
        return Reach.WITHIN if route.access is Access.READ else None
    return REACHES.get(route.operation)
