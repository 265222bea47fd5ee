"""What each operation of MLflow does: the one table of classes.

The table names MLflow's own operations (the functions that its Flask and FastAPI routes lead to, less a
leading underscore and a trailing ``_handler``, and the root fields of its GraphQL schema). An operation that
isn't in it is for admins, so an upgrade of MLflow can open nothing unseen; tests/access/test_routes.py fails
until it is classified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.operations.classes import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

_READ = """
batch_get_trace_infos batch_get_traces calculate_trace_filter_correlation create_presigned_download_url
deprecated_get_trace_info_v2 deprecated_search_traces_v2 download_artifact
get_assessment get_budget_policy get_dataset_experiment_ids get_dataset get_dataset_records
get_experiment get_experiment_by_name get_gateway_endpoint get_gateway_guardrail get_gateway_model_definition
get_issue get_job get_label_schema get_label_schema_by_name get_latest_versions get_logged_model
get_mcp_access_endpoint get_mcp_server get_mcp_server_version get_metric_history
get_metric_history_bulk_interval get_model_version get_model_version_by_alias
get_model_version_download_uri get_online_scoring_configs get_presigned_download_url
get_prompt_optimization_job get_provider_config get_registered_model get_review_queue get_review_queue_by_name
get_run get_scorer get_secrets_config get_server_info get_trace get_trace_info_v3 get_version_by_alias
get_workspace health
list_artifacts list_artifacts_mlflow_artifacts list_budget_policies list_budget_windows
list_endpoint_guardrail_configs list_gateway_endpoint_bindings list_gateway_endpoints list_gateway_guardrails
list_gateway_model_definitions list_label_schemas list_logged_model_artifacts list_models
list_review_queue_items list_review_queues list_scorer_versions list_scorers list_supported_models
list_supported_providers list_workspaces
not_implemented query_trace_metrics
search_all_access_endpoints search_evaluation_datasets search_experiments
search_issues search_jobs search_logged_models search_mcp_server_versions search_mcp_servers
search_model_versions search_prompt_optimization_jobs search_registered_models search_runs
search_server_access_endpoints search_traces_v3
serve serve_artifacts serve_get_logged_model_artifact serve_get_metric_history_bulk
serve_get_metric_history_bulk_interval serve_get_trace_artifact serve_get_ui_telemetry
serve_model_version_artifact serve_post_ui_telemetry serve_search_datasets serve_static_file static version
"""

_WRITE = """
abort_multipart_upload_artifact add_dataset_to_experiments add_items_to_review_queue
anthropic_passthrough_messages cancel_job cancel_prompt_optimization_job chat_completions
complete_multipart_upload_artifact create_assessment create_dataset create_experiment create_issue
create_label_schema create_logged_model create_mcp_access_endpoint create_mcp_server create_mcp_server_version
create_model_version create_multipart_upload_artifact create_presigned_upload_url
create_registered_model create_review_queue create_run delete_assessment
delete_dataset_tag delete_experiment delete_experiment_tag delete_logged_model delete_logged_model_tag
delete_mcp_server_alias delete_mcp_server_tag delete_mcp_server_version_tag delete_model_version_tag
delete_registered_model_alias delete_registered_model_tag delete_run delete_tag delete_trace_tag
delete_trace_tag_v3 deprecated_end_trace_v2 deprecated_start_trace_v2 export_traces finalize_logged_model
gemini_passthrough_generate_content gemini_passthrough_stream_generate_content generate_demo
get_or_create_user_queue invocations
link_prompts_to_trace link_traces_to_run log_batch log_inputs log_logged_model_params log_metric log_model
log_outputs log_param openai_passthrough_chat openai_passthrough_embeddings openai_passthrough_responses
openai_passthrough_responses_compact raw_proxy register_scorer remove_dataset_from_experiments
remove_items_from_review_queue rename_registered_model restore_experiment restore_run
serve_create_promptlab_run serve_gateway_proxy serve_upload_artifact set_dataset_tags set_experiment_tag
set_logged_model_tags set_mcp_server_alias set_mcp_server_tag set_mcp_server_version_tag set_model_version_tag
set_registered_model_alias set_registered_model_tag set_review_queue_item_status set_tag set_trace_tag
set_trace_tag_v3 start_trace_v3 transition_stage typesafe_passthrough_system_one update_assessment
update_experiment update_issue update_label_schema update_mcp_access_endpoint update_mcp_server
update_mcp_server_version update_model_version update_registered_model update_review_queue update_run
upload_artifact upsert_dataset_records
"""

_ADMIN = """
add_guardrail_to_endpoint attach_model_to_gateway_endpoint
create_budget_policy create_gateway_endpoint create_gateway_endpoint_binding create_gateway_guardrail
create_gateway_model_definition create_gateway_secret create_webhook create_workspace
delete_artifact_mlflow_artifacts delete_budget_policy delete_dataset delete_dataset_records
delete_demo delete_gateway_endpoint delete_gateway_endpoint_binding delete_gateway_endpoint_tag
delete_gateway_guardrail delete_gateway_model_definition delete_gateway_secret delete_label_schema
delete_mcp_access_endpoint delete_mcp_server delete_mcp_server_version delete_model_version
delete_prompt_optimization_job delete_registered_model delete_review_queue delete_scorer delete_traces
delete_webhook delete_workspace detach_model_from_gateway_endpoint
get_gateway_secret_info get_webhook list_gateway_secrets list_webhooks remove_guardrail_from_endpoint
set_gateway_endpoint_tag test_webhook
update_budget_policy update_endpoint_guardrail_config update_gateway_endpoint update_gateway_model_definition
update_gateway_secret update_webhook update_workspace
"""

# Each has MLflow submit jobs, the last one by itself from then on: they run code on the server, and spend a provider's
# money.
_JOBS = """
submit_job create_prompt_optimization_job invoke_genai_evaluate invoke_issue_detection invoke_scorer
upsert_online_scoring_config
"""

# The assistant runs commands on the server's machine for whoever it takes for a local caller.
_CLOSED = """
get_config get_providers install_skills_endpoint list_provider_models patch_session provider_health_check
resolve_client_tool_result resolve_permission send_message stream_response update_config
"""

#: Operation → class. ``graphql`` isn't here: its class is that of the worst of its root fields.
OPERATIONS: Mapping[str, Access] = {
    name: access
    for access, names in (
        (Access.READ, _READ),
        (Access.WRITE, _WRITE),
        (Access.ADMIN, _ADMIN),
        (Access.ADMIN, _JOBS),
        (Access.CLOSED, _CLOSED),
    )
    for name in names.split()
}

GRAPHQL = "graphql"

#: Root field of MLflow's GraphQL schema → class. MLflow's "mutations" search, and change nothing.
GRAPHQL_FIELDS: Mapping[str, Access] = dict.fromkeys(
    (
        "query.__schema",
        "query.__type",
        "query.__typename",
        "query.mlflowGetExperiment",
        "query.mlflowGetMetricHistoryBulkInterval",
        "query.mlflowGetRun",
        "query.mlflowListArtifacts",
        "query.mlflowSearchModelVersions",
        "query.mlflowSearchRuns",
        "query.test",
        "mutation.__typename",
        "mutation.mlflowSearchDatasets",
        "mutation.mlflowSearchRuns",
        "mutation.testMutation",
    ),
    Access.READ,
)

#: Methods that change nothing by themselves (RFC 9110 section 9.2.1), where no route says otherwise.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
