"""One verdict for each setting of oauth2-proxy and of MLflow: it works, it is tied, or it is refused with the fix.

Both programs have settings that make no sense behind each other, and neither says so: a cookie that the browser drops,
a path that nothing serves, a server option that only ``mlflow server`` reads. So none is passed on unseen.
docs/settings.md is made from these tables (``python -m local.settings_page``); tests/start/test_verdicts.py compares
them with the pinned programs, and tries what is said to work.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gatehouse.public import readiness
from gatehouse.start.settings import Invalid, Problem, parse_public_url

PREFIX = "OAUTH2_PROXY_"
#: The paths under which the proxy signs people in and out; MLflow's page and the provider's redirect URI have them too.
PROXY_PREFIX = "/oauth2"
CALLBACK = f"{PROXY_PREFIX}/callback"
#: The callback's address holds the one-time code; the others are the platform's probes.
UNLOGGED = (CALLBACK, "/ping", "/ready", readiness.PATH)


class Verdict(enum.Enum):
    """What becomes of a setting."""

    WORKS = "works"
    #: It has one value here; another is an error.
    TIED = "tied"
    REFUSED = "refused"
    #: Clients read it, the server doesn't: a note says so, for it does no harm.
    CLIENTS = "of clients"


@dataclass(frozen=True)
class Row:
    """A setting's verdict.

    ``value`` is a tied setting's; ``always`` tells that it holds for a complete file of one's own too (the gate puts it
    into the proxy's environment, which wins), and not only with the template. ``providers`` are those that read the
    setting.
    """

    verdict: Verdict
    why: str = ""
    fix: str = "unset it"
    value: str | None = None
    always: bool = False
    providers: frozenset[str] = frozenset()


def _works(names: str, why: str = "", providers: str = "") -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(Verdict.WORKS, why, providers=frozenset(providers.split())))


def _tied(names: str, value: str, why: str, *, always: bool = True) -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(Verdict.TIED, why, value=value, always=always))


def _refused(names: str, why: str, fix: str = "unset it") -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(Verdict.REFUSED, why, fix))


def _clients(names: str) -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(Verdict.CLIENTS))


_OIDC = "oidc keycloak-oidc entra-id google google-groups azure adfs gitlab"

#: By the names of oauth2-proxy's configuration file.
PROXY: Mapping[str, Row] = {
    # --- who vouches for people
    **_works(
        "provider provider_display_name client_id client_secret client_secret_file scope prompt approval_prompt "
        "acr_values"),
    **_works("login_url redeem_url profile_url"),
    **_works("validate_url provider_ca_files use_system_trust_store code_challenge_method"),
    **_works(
        "oidc_issuer_url oidc_jwks_url oidc_public_key_files skip_oidc_discovery oidc_enabled_signing_algs",
        _OIDC,
    ),
    **_works("oidc_audience_claims oidc_email_claim oidc_groups_claim skip_claims_from_profile_url", providers=_OIDC),
    **_works("oidc_extra_audiences", "replaces the template's list, which has PUBLIC_URL and gcloud's client", _OIDC),
    **_works("insecure_oidc_allow_unverified_email insecure_oidc_skip_issuer_verification", "at your own risk", _OIDC),
    **_works("insecure_oidc_skip_nonce", "at your own risk", _OIDC),
    **_works("skip_claims_from_profile_url extra_jwt_issuers encode_state backend_logout_url"),
    **_works("redirect_url", "it must be PUBLIC_URL/oauth2/callback"),
    **_works("allowed_roles", providers="keycloak-oidc"),
    **_works("keycloak_groups", providers="keycloak keycloak-oidc"),
    **_works("entra_id_allowed_tenants entra_id_federated_token_auth", providers="entra-id"),
    **_works("github_org github_repo github_team github_token github_users", providers="github"),
    **_works(
        "google_admin_api_user_scope google_admin_email google_group google_groups",
        providers="google google-groups",
    ),
    **_works("google_service_account_json google_target_principal", providers="google google-groups"),
    **_works("google_use_application_default_credentials google_use_organization_id", providers="google google-groups"),
    **_works("azure_tenant azure_graph_group_field resource", "a file of your own", "azure"),
    **_works("bitbucket_repository bitbucket_team bitbucket_workspace", "a file of your own", "bitbucket"),
    **_works("gitlab_groups gitlab_projects", "a file of your own", "gitlab"),
    **_works("jwt_key jwt_key_file pubjwk_url", "a file of your own", "login.gov"),
    **_tied(
        "ssl_insecure_skip_verify",
        "false",
        "whoever stands in between could sign in as anybody; OAUTH2_PROXY_PROVIDER_CA_FILES names a CA of your own",
    ),
    **_refused(
        "auth_request_response_mode",
        "the provider's answer must come as a query, its default: the browser sends no cookie with a form of "
        "another site",
    ),
    **_refused("force_code_challenge_method", "is an old name", "use OAUTH2_PROXY_CODE_CHALLENGE_METHOD"),
    **_refused("user_id_claim", "is an old name", "use OAUTH2_PROXY_OIDC_EMAIL_CLAIM"),
    **_tied("relative_redirect_url", "false", "PUBLIC_URL says where the provider sends people back to"),
    # --- who may come in
    **_works("email_domains authenticated_emails_file allowed_groups"),
    **_refused(
        "htpasswd_file htpasswd_user_groups display_htpasswd_form",
        "such users have no e-mail address, and MLflow's side refuses them",
    ),
    # --- what is open
    **_tied(
        "api_routes",
        "^/[^?]",
        "any other path that redirects to a login page makes MLflow's SDK \"succeed\" without storing anything",
    ),
    **_tied(
        "skip_auth_routes",
        "",
        "MLflow's side takes no request without an identity, so a path that is opened here answers 401 all the same",
    ),
    **_refused(
        "skip_auth_regex trusted_ips",
        "MLflow's side takes no request without an identity, so what is opened here answers 401 all the same",
    ),
    **_tied("skip_auth_preflight", "", "it follows from MLFLOW_SERVER_CORS_ALLOWED_ORIGINS: list the origins there"),
    **_tied("force_json_errors", "false", "browsers need the redirect and the page"),
    **_tied(
        "force_https",
        "false",
        "a redirect makes MLflow's SDK send an upload again without its content; the front end speaks https",
    ),
    **_tied("skip_jwt_bearer_tokens", "true", "scripts come in by it", always=False),
    **_tied("bearer_token_login_fallback", "true", "a client with a bad token needs the 401", always=False),
    **_works("skip_provider_button whitelist_domains allow_query_semicolons"),
    **_refused(
        "ping_user_agent gcp_healthchecks",
        "/ping would answer probes of that name alone, and `gatehouse health` has another",
    ),
    # --- the session
    **_works("cookie_secret cookie_secret_file cookie_expire cookie_refresh session_cookie_minimal"),
    **_works("cookie_name", "the prefix __Host- keeps other hosts of the domain from setting it"),
    **_works(
        "cookie_domains",
        "with OAUTH2_PROXY_COOKIE_NAME=gatehouse: a cookie with the prefix __Host- can't have one",
    ),
    **_works("cookie_secure", "true over https, false over http: another value keeps browsers out"),
    **_works(
        "cookie_samesite",
        "lax or nothing: with strict nobody gets in, with none other sites can use the session",
    ),
    **_works("cookie_csrf_samesite", "lax, none or nothing: with strict nobody gets in"),
    **_works("cookie_csrf_expire cookie_csrf_per_request cookie_csrf_per_request_limit"),
    **_tied("cookie_path", "/", "MLflow is served at the root"),
    **_tied("cookie_httponly", "true", "scripts in the page could read the session"),
    **_works("session_store_type", "redis: a session ends when its owner signs out (docs/access.md)"),
    **_works("redis_connection_url redis_username redis_password"),
    **_works("redis_sentinel_password redis_use_sentinel redis_ca_path"),
    **_works("redis_sentinel_master_name redis_sentinel_connection_urls"),
    **_works("redis_use_cluster redis_cluster_connection_urls"),
    **_works("redis_connection_idle_timeout redis_insecure_skip_tls_verify"),
    # --- the way to MLflow
    **_refused("upstreams basic_auth_password", "is set; the gate sets it itself"),
    **_tied(
        "pass_user_headers skip_auth_strip_headers pass_basic_auth",
        "true",
        "MLflow's side knows people by these headers",
    ),
    **_tied("prefer_email_to_user", "false", "a client's own X-Forwarded-Email would get through"),
    **_tied("pass_authorization_header pass_access_token", "false", "MLflow needs no token, so none reaches it"),
    **_tied(
        "set_authorization_header set_basic_auth",
        "false",
        "the answer would hold a token, or the proof of the gate itself",
    ),
    **_tied("pass_host_header", "true", "MLflow checks the name under which it was called"),
    **_tied("proxy_prefix", PROXY_PREFIX, "the page's sign-out, the client and the deploy tool know this path"),
    **_tied("ping_path", "/ping", "probes and `gatehouse health` ask it"),
    **_tied("ready_path", "/ready", "nothing of MLflow may be hidden by it"),
    **_tied("proxy_websockets", "false", "MLflow has none", always=False),
    **_tied("ssl_upstream_insecure_skip_verify", "false", "the way to MLflow is a socket, without TLS"),
    **_refused("signature_key", "nothing reads the signature: MLflow's side knows the proxy by a proof of its own"),
    **_works("upstream_timeout flush_interval disable_keep_alives set_xauthrequest request_id_header"),
    # --- addresses
    **_works("http_address"),
    **_refused(
        "https_address tls_cert_file tls_key_file tls_min_version tls_cipher_suites",
        "oauth2-proxy would leave PORT for another one, and probes with it",
        "unset it, and let the front end speak https (the platform, a load balancer, haproxy)",
    ),
    **_works("metrics_address metrics_secure_address metrics_tls_cert_file metrics_tls_key_file"),
    **_works(
        "reverse_proxy trusted_proxy_ips real_client_ip_header",
        "with OAUTH2_PROXY_TRUSTED_PROXY_IPS, the addresses of that front end",
    ),
    # --- pages and logs
    **_works("custom_templates_dir custom_sign_in_logo banner footer"),
    **_tied("show_debug_on_error", "false", "strangers would see it", always=False),
    **_works("exclude_logging_paths", "adds to the callback's, which holds the one-time code, and to the probes'"),
    **_works(
        "request_logging request_logging_format auth_logging auth_logging_format standard_logging "
        "standard_logging_format"),
    **_works("errors_to_info_log silence_ping_logging logging_filename logging_compress logging_local_time"),
    **_works("logging_max_age logging_max_backups logging_max_size"),
}  # fmt: skip

_STORES = "the server's artifact stores are Gatehouse's (docs/artifacts.md)"
_OF_MLFLOW_SERVER = "only the command `mlflow server` reads it, which doesn't run here"

_PROVIDERS = frozenset().union(*(row.providers for row in PROXY.values()))

#: By the names of the variables.
MLFLOW: Mapping[str, Row] = {
    # --- who may ask
    **_works("MLFLOW_SERVER_ALLOWED_HOSTS", "adds to PUBLIC_URL's host"),
    **_works("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "adds to PUBLIC_URL; origins in full, without *"),
    **_works("MLFLOW_SERVER_X_FRAME_OPTIONS MLFLOW_FLASK_SERVER_SECRET_KEY"),
    **_tied(
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
        "false",
        "pages of other sites could write with the session of whoever visits them",
    ),
    **_works("MLFLOW_DISABLE_TELEMETRY", "true unless set"),
    # --- the database
    **_works("MLFLOW_READ_REPLICA_BACKEND_STORE_URI", "a streaming replica of the database, for reads"),
    **_works("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW", "larger than a worker's threads"),
    **_works("MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE MLFLOW_SQLALCHEMYSTORE_ECHO"),
    **_refused(
        "MLFLOW_SQLALCHEMYSTORE_POOLCLASS",
        "connections are kept, checked and limited by SQLAlchemy's QueuePool here",
    ),
    **_refused("MLFLOW_BACKEND_STORE_URI", _OF_MLFLOW_SERVER, "use BACKEND_STORE_URI"),
    **_refused(
        "MLFLOW_REGISTRY_STORE_URI",
        _OF_MLFLOW_SERVER,
        "models live in BACKEND_STORE_URI; a registry of its own isn't served",
    ),
    **_refused(
        "MLFLOW_MYSQL_SSL_CA MLFLOW_MYSQL_SSL_CERT MLFLOW_MYSQL_SSL_KEY",
        "MySQL isn't served",
        "for PostgreSQL: BACKEND_STORE_URI=postgresql://…?sslmode=verify-full&sslrootcert=/FILE",
    ),
    **_refused(
        "MLFLOW_ALLOW_FILE_STORE MLFLOW_TRACKING_DIR MLFLOW_REGISTRY_DIR",
        "folders aren't served as a database",
        "use BACKEND_STORE_URI",
    ),
    # --- artifacts
    **_refused("MLFLOW_DEFAULT_ARTIFACT_ROOT", _OF_MLFLOW_SERVER, "use DEFAULT_ARTIFACT_ROOT"),
    **_refused("MLFLOW_ARTIFACTS_DESTINATION", _OF_MLFLOW_SERVER, "use ARTIFACTS_DESTINATION"),
    **_refused(
        "MLFLOW_SERVE_ARTIFACTS",
        _OF_MLFLOW_SERVER,
        "set ARTIFACTS_DESTINATION, or DEFAULT_ARTIFACT_ROOT for clients that write to the bucket themselves",
    ),
    **_refused("MLFLOW_ARTIFACTS_ONLY", _OF_MLFLOW_SERVER, "unset it; the whole server is served"),
    **_works("MLFLOW_S3_ENDPOINT_URL MLFLOW_S3_IGNORE_TLS MLFLOW_S3_EXPECTED_BUCKET_OWNER MLFLOW_S3_UPLOAD_EXTRA_ARGS"),
    **_works("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS"),
    **_works("MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES"),
    **_works("MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"),
    **_refused("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", _STORES, "use ARTIFACT_TIMEOUT"),
    **_refused("MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE MLFLOW_GCS_UPLOAD_CHUNK_SIZE", _STORES),
    # --- the server itself
    **_refused("MLFLOW_HOST", _OF_MLFLOW_SERVER, "OAUTH2_PROXY_HTTP_ADDRESS is the public address"),
    **_refused("MLFLOW_PORT", _OF_MLFLOW_SERVER, "use PORT"),
    **_refused("MLFLOW_WORKERS", _OF_MLFLOW_SERVER, "use WORKERS"),
    **_refused("MLFLOW_STATIC_PREFIX", "MLflow is served at the root"),
    **_refused(
        "MLFLOW_GUNICORN_OPTS MLFLOW_UVICORN_OPTS",
        _OF_MLFLOW_SERVER,
        "unset it; WORKERS, HTTP2 and SHUTDOWN_TIMEOUT are the settings",
    ),
    **_refused(
        "MLFLOW_EXPOSE_PROMETHEUS",
        "MLflow's own /metrics isn't served",
        "unset it; METRICS=9090 serves the gate's figures, MLflow's operations among them",
    ),
    **_refused("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", _STORES),
    **_refused("MLFLOW_SERVER_PID MLFLOW_HOME", "it is MLflow's own, between its processes"),
    **_refused(
        "MLFLOW_AUTH_CONFIG_PATH MLFLOW_AUTH_ADMIN_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD "
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED",
        "MLflow's basic-auth application isn't served",
        "unset it; ACCESS_POLICY says who may do what",
    ),
    **_refused(
        "MLFLOW_RBAC_SEED_DEFAULT_ROLES MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH",
        "MLflow's basic-auth application isn't served",
        "unset it; ACCESS_POLICY says who may do what",
    ),
    **_works("MLFLOW_LOGGING_LEVEL MLFLOW_CONFIGURE_LOGGING"),
    **_works("MLFLOW_TRUNCATE_LONG_VALUES MLFLOW_LOGGING_CONFIGURE_LOGGING"),
    **_works("MLFLOW_SERVER_GRAPHQL_MAX_ALIASES MLFLOW_SERVER_GRAPHQL_MAX_ROOT_FIELDS"),
    **_works("MLFLOW_CRYPTO_KEK_PASSPHRASE MLFLOW_CRYPTO_KEK_VERSION"),
    **_works("MLFLOW_SERVER_SECRETS_CACHE_TTL MLFLOW_SERVER_SECRETS_CACHE_MAX_SIZE"),
    **_works("MLFLOW_ICON_URL_ALLOWED_DOMAINS MLFLOW_ICON_URL_ALLOWED_SCHEMES MLFLOW_ICON_URL_ALLOW_PRIVATE_IPS"),
    **_works("MLFLOW_MODEL_CATALOG_CACHE_TTL MLFLOW_MODEL_CATALOG_URI"),
    **_works("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY MLFLOW_WEBHOOK_CACHE_TTL MLFLOW_WEBHOOK_DELIVERY_MAX_WORKERS"),
    **_works("MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES MLFLOW_WEBHOOK_REQUEST_TIMEOUT MLFLOW_WEBHOOK_ALLOWED_SCHEMES"),
    **_works("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS"),
    # --- the gateway
    **_works("MLFLOW_ENABLE_AI_GATEWAY MLFLOW_GATEWAY_ALLOWED_PROVIDERS MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES"),
    **_works(
        "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS MLFLOW_GATEWAY_BUDGET_REDIS_URL "
        "MLFLOW_GATEWAY_BUDGET_REFRESH_INTERVAL"),
    **_works("MLFLOW_GATEWAY_MAX_DECOMPRESSED_REQUEST_SIZE MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS MLFLOW_GATEWAY_URI"),
    **_works("MLFLOW_DEPLOYMENTS_TARGET MLFLOW_DEPLOYMENT_CLIENT_HTTP_REQUEST_TIMEOUT"),
    **_refused(
        "MLFLOW_GATEWAY_CONFIG MLFLOW_DEPLOYMENTS_CONFIG MLFLOW_GATEWAY_RATE_LIMITS_STORAGE_URI",
        "only the command `mlflow gateway` reads it, which doesn't run here",
    ),
    **_refused(
        "MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_ENV MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_FILE",
        "only the command `mlflow gateway` reads it, which doesn't run here",
    ),
    **_refused(
        "MLFLOW_ENABLE_REMOTE_ASSISTANT MLFLOW_ENABLE_ASSISTANT_SANDBOX MLFLOW_ASSISTANT_SANDBOX_CLI_IMAGE",
        "MLflow's assistant runs commands on the server, so it is closed",
    ),
    **_refused(
        "MLFLOW_SANDBOX_DOCKER_IMAGE MLFLOW_SANDBOX_EGRESS_PROXY",
        "MLflow's assistant runs commands on the server, so it is closed",
    ),
    # --- workspaces
    **_works("MLFLOW_ENABLE_WORKSPACES", "the access policy's `workspaces:` switches them on by itself"),
    **_works("MLFLOW_WORKSPACE_ARTIFACT_ROOT_CACHE_CAPACITY MLFLOW_WORKSPACE_ARTIFACT_ROOT_CACHE_TTL_SECONDS"),
    **_refused("MLFLOW_WORKSPACE_STORE_URI", "workspaces live in BACKEND_STORE_URI"),
    # --- jobs, and what runs in them
    **_works("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false unless set"),
    **_works("MLFLOW_SERVER_JOB_DEFAULT_TIMEOUT"),
    **_works("MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS MLFLOW_SERVER_JOB_EXECUTION_ENGINE"),
    **_works(
        "MLFLOW_SERVER_JOB_FLUSH_PERIODIC_LOCKS_ON_STARTUP MLFLOW_SERVER_JOB_HUEY_REDIS_URL "
        "MLFLOW_SERVER_JOB_LEASE_TTL"),
    **_works("MLFLOW_SERVER_JOB_TRANSIENT_ERROR_MAX_RETRIES MLFLOW_SERVER_JOB_TRANSIENT_ERROR_RETRY_BASE_DELAY"),
    **_works("MLFLOW_SERVER_JOB_TRANSIENT_ERROR_RETRY_MAX_DELAY MLFLOW_JOB_CUSTOM_SCORER_EXECUTOR_BACKEND"),
    **_works(
        "MLFLOW_JOB_DEFAULT_EXECUTOR_BACKEND MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS "
        "MLFLOW_SERVER_JUDGE_INVOKE_MAX_WORKERS"),
    **_works("MLFLOW_SERVER_ONLINE_SCORING_MAX_WORKERS MLFLOW_SERVER_SCORER_INVOKE_BATCH_SIZE"),
    **_works("MLFLOW_ONLINE_SCORING_DEFAULT_SESSION_COMPLETION_BUFFER_SECONDS"),
    **_works("MLFLOW_ONLINE_SCORING_MAX_WORKER_THREADS"),
    **_works("MLFLOW_ONLINE_SCORING_DEFAULT_TRACE_COMPLETION_BUFFER_SECONDS MLFLOW_GENAI_DISCOVERY_TRIAGE_SAMPLE_SIZE"),
    **_works("MLFLOW_GENAI_EVAL_ASYNC_TIMEOUT MLFLOW_GENAI_EVAL_ENABLE_SCORER_TRACING MLFLOW_GENAI_EVAL_LLM_TIMEOUT"),
    **_works("MLFLOW_GENAI_EVAL_MAX_RETRIES MLFLOW_GENAI_EVAL_MAX_SCORER_WORKERS MLFLOW_GENAI_EVAL_MAX_WORKERS"),
    **_works(
        "MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT "
        "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION"),
    **_works("MLFLOW_GENAI_JUDGE_BASE_URL MLFLOW_GENAI_JUDGE_DEFAULT_MODEL MLFLOW_GENAI_OPTIMIZE_MAX_WORKERS"),
    **_works("MLFLOW_GENAI_SIMULATOR_MAX_WORKERS MLFLOW_JUDGE_MAX_ITERATIONS"),
    # --- traces
    **_works("MLFLOW_TRACE_ARCHIVAL_CONFIG"),
    **_works("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED MLFLOW_TRACE_ROLLUPS_MAX_PARTITIONS_PER_RUN"),
    **_works("MLFLOW_TRACE_ROLLUPS_MAX_WORKERS MLFLOW_TRACE_ROLLUPS_SCHEDULE MLFLOW_TRACE_EXTRACT_ATTACHMENTS"),
    **_works("MLFLOW_TRACE_MAX_ATTACHMENT_SIZE"),
    # --- clients
    **_clients(
        "MLFLOW_ACTIVE_MODEL_ID MLFLOW_ALIAS_PROMPT_CACHE_TTL_SECONDS MLFLOW_ALLOW_HTTP_REDIRECTS "
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
        " MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE "
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS"
        " MLFLOW_ASYNC_TRACE_LOGGING_MAX_QUEUE_SIZE MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE "
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS"
        " MLFLOW_ASYNC_TRACE_LOGGING_RETRY_TIMEOUT MLFLOW_AUTOLOGGING_TESTING MLFLOW_CONDA_CREATE_ENV_CMD "
        "MLFLOW_CONDA_HOME"
        " MLFLOW_CONVERT_MESSAGES_DICT_FOR_LANGCHAIN MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT "
        "MLFLOW_DATABRICKS_TRAFFIC_ID"
        " MLFLOW_DEFAULT_PREDICTION_DEVICE MLFLOW_DELETE_TRACES_MAX_BATCH_SIZE MLFLOW_DEPLOYMENT_FLAVOR_NAME"
        " MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT MLFLOW_DEPLOYMENT_PREDICT_TOTAL_TIMEOUT MLFLOW_DFS_TMP "
        "MLFLOW_DISABLE_AGENT_HINT"
        " MLFLOW_DISABLE_DATABRICKS_SDK_FOR_RUN_ARTIFACTS MLFLOW_DISABLE_ENV_CREATION "
        "MLFLOW_DISABLE_ENV_MANAGER_CONDA_WARNING"
        " MLFLOW_DISABLE_HUGGINGFACE_ACCELERATE_FEATURES MLFLOW_DISABLE_SCHEMA_DETAILS MLFLOW_DOCKER_OPENJDK_VERSION"
        " MLFLOW_DOWNLOAD_CHUNK_TIMEOUT MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR MLFLOW_ENABLE_ASYNC_LOGGING"
        " MLFLOW_ENABLE_ASYNC_TRACE_LOGGING MLFLOW_ENABLE_DBFS_FUSE_ARTIFACT_REPO MLFLOW_ENABLE_DB_SDK "
        "MLFLOW_ENABLE_MCP_TOOL_DISCOVERY"
        " MLFLOW_ENABLE_MULTIPART_DOWNLOAD MLFLOW_ENABLE_MULTIPART_UPLOAD MLFLOW_ENABLE_OTEL_GENAI_SEMCONV "
        "MLFLOW_ENABLE_OTLP_EXPORTER"
        " MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"
        " MLFLOW_ENABLE_SGC_RUN_RESUMPTION_FOR_DATABRICKS_JOBS MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING "
        "MLFLOW_ENABLE_UC_FUNCTIONS"
        " MLFLOW_ENABLE_UC_NATIVE_MODEL_REGISTRY MLFLOW_ENABLE_UC_VOLUME_FUSE_ARTIFACT_REPO"
        " MLFLOW_ENFORCE_STDIN_SCORING_SERVER_FOR_SPARK_UDF MLFLOW_ENV_ROOT MLFLOW_EXPERIMENT_ID MLFLOW_EXPERIMENT_NAME"
        " MLFLOW_GET_TRACE_OTEL_INITIAL_RETRY_INTERVAL_SECONDS MLFLOW_GET_TRACE_OTEL_MAX_RETRY_INTERVAL_SECONDS"
        " MLFLOW_GET_TRACE_OTEL_RETRY_TIMEOUT_SECONDS MLFLOW_GO_STORE_TESTING MLFLOW_HTTP_POOL_CONNECTIONS "
        "MLFLOW_HTTP_POOL_MAXSIZE"
        " MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR MLFLOW_HTTP_REQUEST_BACKOFF_JITTER MLFLOW_HTTP_REQUEST_MAX_RETRIES"
        " MLFLOW_HTTP_REQUEST_TIMEOUT MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER MLFLOW_HTTP_TCP_KEEPALIVE "
        "MLFLOW_HTTP_TCP_KEEPALIVE_COUNT"
        " MLFLOW_HTTP_TCP_KEEPALIVE_IDLE MLFLOW_HTTP_TCP_KEEPALIVE_INTERVAL MLFLOW_HUGGINGFACE_DEVICE_MAP_STRATEGY"
        " MLFLOW_HUGGINGFACE_MODEL_MAX_SHARD_SIZE MLFLOW_HUGGINGFACE_USE_DEVICE_MAP "
        "MLFLOW_HUGGINGFACE_USE_LOW_CPU_MEM_USAGE"
        " MLFLOW_INPUT_EXAMPLE_INFERENCE_TIMEOUT MLFLOW_IN_CAPTURE_MODULE_PROCESS MLFLOW_KERBEROS_TICKET_CACHE "
        "MLFLOW_KERBEROS_USER"
        " MLFLOW_LOCK_MODEL_DEPENDENCIES MLFLOW_LOG_MODEL_COMPRESSION MLFLOW_LOG_UV_FILES "
        "MLFLOW_MAX_TRACES_TO_DISPLAY_IN_NOTEBOOK"
        " MLFLOW_MODEL_ENV_DOWNLOADING_TEMP_DIR MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE "
        "MLFLOW_MULTIPART_DOWNLOAD_MINIMUM_FILE_SIZE"
        " MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE "
        "MLFLOW_NOTEBOOK_TRACE_RENDERER_BASE_URL"
        " MLFLOW_OPENAI_SECRET_SCOPE MLFLOW_PRINT_MODEL_URLS_ON_CREATION MLFLOW_PROMPT_CACHE_MAX_SIZE "
        "MLFLOW_PYARROW_EXTRA_CONF"
        " MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING MLFLOW_REGISTRY_URI MLFLOW_REQUIREMENTS_INFERENCE_RAISE_ERRORS"
        " MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT MLFLOW_RUN_CONTEXT MLFLOW_RUN_ID MLFLOW_RUN_SLOW_TESTS "
        "MLFLOW_SAGEMAKER_DEPLOY_IMG_URL"
        " MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT MLFLOW_SEARCH_TRACES_MAX_BATCH_SIZE MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK"
        " MLFLOW_SKIP_SIGNATURE_CHECK_FOR_UC_REGISTRY_MIGRATION MLFLOW_SQL_WAREHOUSE_AUTO_START"
        " MLFLOW_SQL_WAREHOUSE_AUTO_START_TIMEOUT_SECONDS MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT "
        "MLFLOW_SYSTEM_METRICS_NODE_ID"
        " MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL MLFLOW_TESTING"
        " MLFLOW_TRACE_BUFFER_MAX_SIZE MLFLOW_TRACE_BUFFER_TTL_SECONDS MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT"
        " MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT MLFLOW_TRACE_SAMPLING_RATIO "
        "MLFLOW_TRACE_TIMEOUT_CHECK_INTERVAL_SECONDS"
        " MLFLOW_TRACE_TIMEOUT_SECONDS MLFLOW_TRACE_USE_ISOLATED_RANDOM_ID_GENERATOR MLFLOW_TRACING_DESTINATION"
        " MLFLOW_TRACING_SQL_WAREHOUSE_ID MLFLOW_TRACKING_AUTH MLFLOW_TRACKING_AWS_SIGV4 "
        "MLFLOW_TRACKING_CLIENT_CERT_PATH"
        " MLFLOW_TRACKING_INSECURE_TLS MLFLOW_TRACKING_PASSWORD MLFLOW_TRACKING_SERVER_CERT_PATH MLFLOW_TRACKING_TOKEN"
        " MLFLOW_TRACKING_TOKEN_FILE MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME MLFLOW_UC_OSS_TOKEN "
        "MLFLOW_USE_BATCH_SPAN_PROCESSOR"
        " MLFLOW_USE_DATABRICKS_SDK_MODEL_ARTIFACTS_REPO_FOR_UC MLFLOW_USE_DEFAULT_TRACER_PROVIDER "
        "MLFLOW_UV_AUTO_DETECT"
        " MLFLOW_DEPLOYMENT_ENV MLFLOW_ENABLE_TRACE_IN_SERVING MLFLOW_MCP_TOOLS MLFLOW_MODELS_WORKERS "
        "MLFLOW_PYFUNC_INFERENCE_CONFIG"
        " MLFLOW_SEARCH_TRACES_MAX_THREADS MLFLOW_TMP_DIR"
        " MLFLOW_VERSION_PROMPT_CACHE_TTL_SECONDS MLFLOW_WHEELED_MODEL_PIP_DOWNLOAD_OPTIONS MLFLOW_WORKSPACE"
    ),
}  # fmt: skip

#: What Kubernetes puts into every container of a namespace that has a Service named ``mlflow…`` or ``oauth2-proxy…``.
SERVICE_LINK = re.compile(
    r"(?:MLFLOW|OAUTH2_PROXY)(?:_[A-Z0-9_]+?)??"
    r"(?:_SERVICE_HOST|_SERVICE_PORT(?:_[A-Z0-9_]+)?|_PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


def other_origins(environment: Mapping[str, str], public_url: str) -> list[str]:
    """Return the origins besides the public one whose pages may ask."""
    return [origin for origin in listed(environment, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS") if origin != public_url]


def without_service_links(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without Kubernetes' service links, which look like settings and are none."""
    return {
        name: value
        for name, value in environment.items()
        # "mlflow server" has an option of that name, which is a number.
        if not SERVICE_LINK.fullmatch(name)
        or (name == "MLFLOW_PORT" and not value.startswith(("tcp:", "udp:", "sctp:")))
    }


def as_text(value: object) -> str:
    """Return a value of a TOML file as the variable of that name would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Given:
    """What is said of oauth2-proxy's settings: by variables, which win, and by a complete file."""

    environment: Mapping[str, str]
    file: Mapping[str, object]
    own_file: bool
    #: The regular expression of the paths that strangers may ask (gatehouse/public/discovery.py).
    open_paths: str

    def get(self, key: str) -> str:
        """Return a setting's value, or the empty string."""
        return self.environment.get(PREFIX + key.upper()) or (as_text(self.file[key]) if key in self.file else "")

    def name(self, key: str) -> str:
        """Return what to call the place that says so."""
        if self.environment.get(PREFIX + key.upper()) or key not in self.file:
            return PREFIX + key.upper()
        return "OAUTH_PROXY_CONFIG"

    def problem(self, key: str, what: str, fix: str) -> Problem:
        """Return a problem with the setting."""
        name = self.name(key)
        return Problem(name, f"{what}" if name != "OAUTH_PROXY_CONFIG" else f"has {key}, which {what}", fix)


def enforced(given: Given, public_url: str) -> dict[str, str]:
    """Return the variables of oauth2-proxy that the gate sets, whatever a file says."""
    ties = {PREFIX + key.upper(): row.value for key, row in PROXY.items() if row.always and row.value}
    added = filter(None, (path.strip() for path in given.get("exclude_logging_paths").split(",")))
    return {
        **ties,
        f"{PREFIX}EXCLUDE_LOGGING_PATHS": ",".join(dict.fromkeys([*UNLOGGED, *added])),
        f"{PREFIX}SKIP_AUTH_ROUTES": f"GET={given.open_paths},HEAD={given.open_paths}",
        # A browser asks without credentials whether a page of another origin may ask (Fetch standard, CORS-preflight).
        f"{PREFIX}SKIP_AUTH_PREFLIGHT": "true" if other_origins(given.environment, public_url) else "false",
    }


def unknown(names: Iterable[str]) -> list[Problem]:
    """Report variables that oauth2-proxy doesn't know: it would ignore them without a word."""
    problems = []
    for name in names:
        key = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX) or key in PROXY:
            continue
        fix = "correct or unset it; the names are those of oauth2-proxy's configuration file, in capitals"
        if key + "s" in PROXY:
            fix = f"did you mean {name}S? The names are those of the configuration file, in capitals"
        problems.append(Problem(name, "is no setting of oauth2-proxy", fix))
    return problems


def judge_proxy(given: Given, provider: str, public_url: str) -> list[Problem]:
    """Return what is wrong with oauth2-proxy's settings, by their verdicts and by how they fit together."""
    problems = unknown(name for name, value in given.environment.items() if value)
    for key, row in PROXY.items():
        by_variable = given.environment.get(PREFIX + key.upper(), "")
        value = given.get(key)
        if not value:
            continue
        if row.verdict is Verdict.REFUSED and (by_variable or key not in {"upstreams", "basic_auth_password"}):
            what = row.why if row.why.startswith("is ") else f"is set, and {row.why}"
            problems.append(given.problem(key, what, row.fix))
        elif (
            row.verdict is Verdict.TIED and by_variable and by_variable.lower() != tied(key, given, public_url).lower()
        ):
            rule = f"the gate relies on {row.value!r}: {row.why}" if row.value else row.why
            problems.append(given.problem(key, f"is {by_variable!r}; {rule}", row.fix))
        elif row.providers and provider in _PROVIDERS - row.providers:
            named = provider.removesuffix("-groups")
            fix = f"unset it, or use one of these providers: {', '.join(sorted(row.providers - {'google-groups'}))}"
            if by_variable:
                problems.append(given.problem(key, f"is set, and the provider {named} doesn't read it", fix))
    return problems + _check_cookies(given, public_url) + _check_hops(given) + _check_redirect(given)


def tied(key: str, given: Given, public_url: str) -> str:
    """Return the one value that a tied setting has."""
    return enforced(given, public_url).get(PREFIX + key.upper()) or PROXY[key].value or ""


def _check_cookies(given: Given, public_url: str) -> list[Problem]:
    """Check that a browser will keep the session's cookie, and send it (RFC 6265bis, 4.1.3 and 5.6)."""
    secure = public_url.startswith("https:")
    default = "_oauth2_proxy" if given.own_file else "__Host-gatehouse" if secure else "_gatehouse"
    name = given.get("cookie_name") or default
    problems = []
    insecure = given.get("cookie_secure").lower() == "false"
    # A file of one's own may have its way where no promise of the template is broken by it.
    if secure and insecure and (name.startswith("__") or given.name("cookie_secure") != "OAUTH_PROXY_CONFIG"):
        what = "is false, and PUBLIC_URL is https: the session would cross the network in clear"
        problems.append(given.problem("cookie_secure", what, "unset it"))
    if public_url and not secure and given.get("cookie_secure").lower() == "true":
        what = "is true, and PUBLIC_URL is http: browsers would drop the cookie"
        problems.append(given.problem("cookie_secure", what, "unset it"))
    if public_url and not secure and name.startswith(("__Host-", "__Secure-")):
        what = f"is {name!r}, a name that browsers take over https alone"
        problems.append(given.problem("cookie_name", what, "unset it"))
    if given.get("cookie_domains") and name.startswith("__Host-"):
        what = (
            f"is set, and a browser drops the cookie {name} then: with that prefix it belongs to one host (RFC 6265bis)"
        )
        fix = "unset it, or give that protection up: OAUTH2_PROXY_COOKIE_NAME=gatehouse"
        problems.append(given.problem("cookie_domains", what, fix))
    host = urlsplit(public_url).hostname or ""
    domains = [domain.strip().lstrip(".").lower() for domain in given.get("cookie_domains").split(",")]
    if host and any(domains) and not any(d and (host == d or host.endswith("." + d)) for d in domains):
        what = f"has no domain of {host}, the host of PUBLIC_URL: browsers would drop the cookie"
        problems.append(given.problem("cookie_domains", what, "unset it, or name the domain that the host is in"))
    for key, allowed in (("cookie_samesite", ("", "lax")), ("cookie_csrf_samesite", ("", "lax", "none"))):
        value = given.get(key).lower()
        if value in {"strict", "none"} and value not in allowed:
            why = (
                "browsers leave the cookie out when they come back from the provider, so nobody gets in"
                if value == "strict"
                else "pages of other sites could use the session"
            )
            problems.append(given.problem(key, f"is {value!r}: {why}", "unset it"))
    if not secure and public_url and given.get("cookie_csrf_samesite").lower() == "none":
        what = "is 'none', which browsers take over https alone"
        problems.append(given.problem("cookie_csrf_samesite", what, "unset it"))
    return problems


def _check_hops(given: Given) -> list[Problem]:
    """Check that forwarding headers are believed from a named front end alone."""
    on = given.get("reverse_proxy").lower() == "true"
    trusted = [address.strip() for address in given.get("trusted_proxy_ips").split(",") if address.strip()]
    if on and (not trusted or any(address.endswith("/0") for address in trusted)):
        what = "is true, and everybody is believed who says X-Forwarded-For"
        fix = "name the front end's addresses in OAUTH2_PROXY_TRUSTED_PROXY_IPS, for example 10.0.0.0/8, or unset it"
        return [given.problem("reverse_proxy", what, fix)]
    if not on:
        return [
            given.problem(
                key, "is set, and without OAUTH2_PROXY_REVERSE_PROXY=true nothing reads it", "set that too, or unset it"
            )
            for key in ("trusted_proxy_ips", "real_client_ip_header")
            if given.environment.get(PREFIX + key.upper())
        ]  # fmt: skip
    return []


def _check_redirect(given: Given) -> list[Problem]:
    """Check that the provider sends people back to a path that the proxy answers."""
    redirect = given.get("redirect_url")
    try:
        path = urlsplit(redirect).path
    except ValueError:
        return []  # the origin's check says so
    if not redirect or path == CALLBACK:
        return []
    what = f"is {redirect!r}, and the proxy takes people back at {CALLBACK} alone"
    return [given.problem("redirect_url", what, f"end it in {CALLBACK}, at the identity provider too")]


def judge_mlflow(environment: Mapping[str, str]) -> tuple[list[Problem], list[str]]:
    """Return what is wrong with MLflow's settings, and notes on those that do nothing here."""
    problems: list[Problem] = []
    idle = []
    for name, value in environment.items():
        if not value:
            continue
        if name.startswith("_MLFLOW_") or name == "prometheus_multiproc_dir":
            fix = "unset it; docs/settings.md lists MLflow's settings"
            problems.append(Problem(name, "is MLflow's own, between its processes; the gate sets what is needed", fix))
        if not name.startswith("MLFLOW_"):
            continue
        row = MLFLOW.get(name)
        if row is None:
            fix = "correct or unset it; docs/settings.md lists those of the pinned MLflow"
            problems.append(Problem(name, "is no setting of MLflow", fix))
        elif row.verdict is Verdict.REFUSED:
            problems.append(Problem(name, f"is set, and has no effect here: {row.why}", row.fix))
        elif row.verdict is Verdict.TIED and value.lower() != row.value:
            problems.append(Problem(name, f"is {value!r}; the gate relies on {row.value!r}: {row.why}", row.fix))
        elif row.verdict is Verdict.CLIENTS:
            idle.append(name)
    notes = [f"{', '.join(sorted(idle))}: clients read this, the server doesn't"] if idle else []
    return problems + _check_origins(environment), notes


def listed(environment: Mapping[str, str], name: str) -> list[str]:
    """Return a comma-separated variable's items."""
    return [item.strip() for item in environment.get(name, "").split(",") if item.strip()]


def _check_origins(environment: Mapping[str, str]) -> list[Problem]:
    name = "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
    problems = []
    for origin in listed(environment, name):
        try:
            wrong = parse_public_url(origin) != origin
        except Invalid:
            wrong = True
        if wrong:
            fix = "list each origin as browsers send it, for example https://portal.example.com"
            problems.append(Problem(name, f"has {origin!r}, which isn't an origin (scheme, host and port)", fix))
    return problems
