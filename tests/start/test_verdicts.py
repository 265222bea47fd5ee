"""Each setting of oauth2-proxy and of MLflow has one verdict, and it is true:

what works is tried, what doesn't is refused.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from gatehouse.exit_codes import Exit
from gatehouse.policy.identity import Identity
from gatehouse.policy.roles import Role
from gatehouse.policy.source import PolicySource
from gatehouse.public.discovery import open_paths
from gatehouse.start import proxy_config
from gatehouse.start.plan import ServerPlan
from gatehouse.start.prepare import client_to_hand_out, prepare
from gatehouse.start.settings import Problem, SettingsError
from gatehouse.start.verdicts import MLFLOW, PREFIX, PROXY, Verdict
from local.proxy_binary import ROOT, find_or_build
from local.settings_page import PAGE, page
from tests.support import Gate, free_port, running

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
#: Flags that belong to no setting.
ONLY_FLAGS = {"alpha-config", "config", "config-test", "convert-config-to-alpha", "help", "version"}
#: oauth2-proxy has it from 7.15.6 on.
NEWER = {"bitbucket_workspace"}
#: Needs a part that isn't here (other providers, Redis' sentinels and clusters): passed on, and tried as far as
#: oauth2-proxy's check of its configuration goes.
ELSEWHERE = {key for key, row in PROXY.items() if row.providers and "oidc" not in row.providers} | {
    "oidc_public_key_files", "redis_sentinel_password", "redis_use_sentinel", "redis_ca_path", "redis_sentinel_master_name",
    "redis_sentinel_connection_urls", "redis_use_cluster", "redis_cluster_connection_urls", "redis_insecure_skip_tls_verify",
    "validate_url", "profile_url", "client_secret_file", "cookie_secret_file",
}  # fmt: skip


def of(verdict: Verdict) -> set[str]:
    """Return the keys of oauth2-proxy with a verdict."""
    return {key for key, row in PROXY.items() if row.verdict is verdict}


def settings(**changed: str) -> dict[str, str]:
    """Return an environment that is well, but for what is changed."""
    defaults = {
        "PATH": os.pathsep.join([str(find_or_build(lambda _: None).parent), os.environ["PATH"]]),
        "PORT": str(free_port()),
        "PUBLIC_URL": "https://mlflow.example.com",
        "BACKEND_STORE_URI": "postgresql://u:p@h/d",
        "ARTIFACTS_DESTINATION": "gs://bucket",
        "OAUTH2_PROXY_CLIENT_ID": "client",
        "OAUTH2_PROXY_CLIENT_SECRET": "secret",
        "OAUTH2_PROXY_COOKIE_SECRET": "0123456789abcdef",
        "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
    }
    return {name: value for name, value in {**defaults, **changed}.items() if value}


def problems(folder: Path, **changed: str) -> list[Problem]:
    """Return what a start says of a changed environment."""
    for _ in range(5):
        try:
            prepare(settings(**changed), ROOT / "oauth2_proxy.cfg.tmpl", folder)
        except SettingsError as error:
            # A free port may be taken by the time that it is looked at.
            if not any(problem.name == "PORT" and "another program" in problem.what for problem in error.problems):
                return error.problems
        else:
            return []
    raise AssertionError("five free ports in a row were taken")


def test_every_setting_of_the_pinned_oauth2_proxy_has_a_verdict(tmp_path: Path) -> None:
    program = find_or_build(lambda _: None)
    usage = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=False)
    flags = set(re.findall(r"^ +(?:-\w, +)?--([a-z0-9-]+)", usage.stdout + usage.stderr, re.M)) - ONLY_FLAGS
    assert len(flags) > 150
    named = {flag: {flag.replace("-", "_"), flag.replace("-", "_") + "s"} for flag in flags}
    assert not [flag for flag, keys in named.items() if not keys & set(PROXY)]
    trial = tmp_path / "names.cfg"
    trial.write_text("".join(f'{key} = ""\n' for key in [*PROXY, "no_such_key"]))
    said = proxy_config.run_proxy(trial, {"PATH": str(program.parent)}) or ""
    invalid = set(re.search(r"has invalid keys: ([^\n]*)", said)[1].split(", "))  # type: ignore[index]
    assert invalid - NEWER == {"no_such_key"}


def test_every_setting_of_the_pinned_mlflow_has_a_verdict() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server
    from mlflow.server import constants

    package = Path(environment_variables.__file__).parent
    source = "\n".join(path.read_text(errors="replace") for path in package.rglob("*.py"))
    names = {
        variable.name
        for variable in vars(environment_variables).values()
        if isinstance(variable, environment_variables._EnvironmentVariable)
    }
    names |= {str(option.envvar) for option in server.params if option.envvar}
    names |= {value for name, value in vars(constants).items() if name.endswith("_ENV_VAR")}
    names |= set(re.findall(r"""(?:environ(?:\.get)?|getenv)[(\[]["'](MLFLOW_\w+)""", source))
    public = {name for name in names if name.startswith("MLFLOW_")}
    assert len(public) > 200
    assert not sorted(public - set(MLFLOW))
    # The last is the client plug-in's own (docs/clients.md).
    assert not sorted(
        name for name in set(MLFLOW) - public if name not in source and name != "MLFLOW_TRACKING_TOKEN_FILE"
    )


def test_the_page_of_verdicts_is_the_tables() -> None:
    assert page() == PAGE.read_text(), "run: python -m local.settings_page"


def test_what_is_refused_or_tied_is_told_with_its_fix(tmp_path: Path) -> None:
    refused = {PREFIX + key.upper(): "x" for key in of(Verdict.REFUSED) | of(Verdict.TIED)}
    refused |= {name: "x" for name, row in MLFLOW.items() if row.verdict in {Verdict.REFUSED, Verdict.TIED}}
    told = problems(tmp_path, **refused)
    assert {problem.name for problem in told} - {"oauth2-proxy"} == set(refused)
    assert all(problem.what and problem.fix for problem in told)


def test_the_value_of_a_tie_is_no_mistake(tmp_path: Path) -> None:
    ties = {PREFIX + key.upper(): str(row.value) for key, row in PROXY.items() if row.value}
    assert not problems(tmp_path, **ties)


MISFITS: dict[str, tuple[dict[str, str], str]] = {
    "a domain for a cookie of one host": (
        {"OAUTH2_PROXY_COOKIE_DOMAINS": ".example.com"},
        "OAUTH2_PROXY_COOKIE_DOMAINS is set, and a browser drops the cookie __Host-gatehouse",
    ),
    "a foreign domain": (
        {"OAUTH2_PROXY_COOKIE_DOMAINS": ".example.org", "OAUTH2_PROXY_COOKIE_NAME": "gatehouse"},
        "has no domain of mlflow.example.com",
    ),
    "a path for the cookie": ({"OAUTH2_PROXY_COOKIE_PATH": "/mlflow"}, "OAUTH2_PROXY_COOKIE_PATH is '/mlflow'"),
    "a cookie in clear": ({"OAUTH2_PROXY_COOKIE_SECURE": "false"}, "would cross the network in clear"),
    "a secure cookie over http": (
        {"OAUTH2_PROXY_COOKIE_SECURE": "true", "PUBLIC_URL": "http://localhost:4180"},
        "browsers would drop the cookie",
    ),
    "a prefix over http": (
        {"OAUTH2_PROXY_COOKIE_NAME": "__Host-x", "PUBLIC_URL": "http://localhost:4180"},
        "a name that browsers take over https alone",
    ),
    "strict": ({"OAUTH2_PROXY_COOKIE_SAMESITE": "strict"}, "so nobody gets in"),
    "none": ({"OAUTH2_PROXY_COOKIE_SAMESITE": "none"}, "pages of other sites could use the session"),
    "a strict state": ({"OAUTH2_PROXY_COOKIE_CSRF_SAMESITE": "strict"}, "so nobody gets in"),
    "another prefix": ({"OAUTH2_PROXY_PROXY_PREFIX": "/sso"}, "the gate relies on '/oauth2'"),
    "another callback": (
        {"OAUTH2_PROXY_REDIRECT_URL": "https://mlflow.example.com/sso/callback"},
        "takes people back at /oauth2/callback alone",
    ),
    "an opened route": ({"OAUTH2_PROXY_SKIP_AUTH_ROUTES": "GET=^/version$"}, "answers 401 all the same"),
    "a preflight for nobody": (
        {"OAUTH2_PROXY_SKIP_AUTH_PREFLIGHT": "true"},
        "follows from MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
    ),
    "every origin": ({"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"}, "has '*', which isn't an origin"),
    "an origin with a path": (
        {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://a.example.com/x"},
        "has 'https://a.example.com/x', which isn't an origin",
    ),
    "everybody's word for an address": ({"OAUTH2_PROXY_REVERSE_PROXY": "true"}, "OAUTH2_PROXY_TRUSTED_PROXY_IPS"),
    "addresses for nothing": ({"OAUTH2_PROXY_TRUSTED_PROXY_IPS": "10.0.0.0/8"}, "nothing reads it"),
    "another provider's": ({"OAUTH2_PROXY_GITHUB_ORG": "acme"}, "the provider google doesn't read it"),
    "a registry of its own": ({"MLFLOW_REGISTRY_STORE_URI": "sqlite:////r.db"}, "has no effect here"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_settings_that_do_not_fit_together_are_told(tmp_path: Path, case: str) -> None:
    changed, words = MISFITS[case]
    told = problems(tmp_path, **changed)
    assert len(told) == 1, told
    assert words in f"{told[0]}"


def test_a_file_of_ones_own_is_judged_too(tmp_path: Path) -> None:
    own = tmp_path / "own.cfg"
    own.write_text(
        'provider = "oidc"\noidc_issuer_url = "https://id.example.com"\nemail_domains = ["example.com"]\n'
        'skip_oidc_discovery = true\nlogin_url = "https://id.example.com/a"\nredeem_url = "https://id.example.com/t"\n'
        'oidc_jwks_url = "https://id.example.com/k"\nupstreams = ["http://127.0.0.1:8080"]\nskip_auth_routes = ["^/"]\n'
        'redirect_url = "https://mlflow.example.com/sso/callback"\nproxy_prefix = "/sso"\ntrusted_ips = '
        '["10.0.0.0/8"]\n'
    )
    told = problems(tmp_path, OAUTH_PROXY_CONFIG=str(own))
    assert [problem.name for problem in told] == ["OAUTH_PROXY_CONFIG"] * 2
    assert sorted(problem.what.partition(",")[0] for problem in told) == ["has redirect_url", "has trusted_ips"]
    text = own.read_text().replace("/sso/callback", "/oauth2/callback").replace('trusted_ips = ["10.0.0.0/8"]\n', "")
    own.write_text(text)
    (tmp_path / "run").mkdir()
    template = ROOT / "oauth2_proxy.cfg.tmpl"
    variables = prepare(settings(OAUTH_PROXY_CONFIG=str(own)), template, tmp_path / "run").proxy.environment
    opened = open_paths(client_to_hand_out(template))
    assert variables["OAUTH2_PROXY_SKIP_AUTH_ROUTES"] == f"GET={opened},HEAD={opened}"
    assert variables["OAUTH2_PROXY_PROXY_PREFIX"] == "/oauth2"


def test_kubernetes_service_links_are_no_settings(tmp_path: Path) -> None:
    """What every container of a namespace gets that has Services named mlflow and oauth2-proxy."""
    links: dict[str, str] = {}
    for service in ("MLFLOW", "MLFLOW_TRACKING", "OAUTH2_PROXY"):
        links |= {
            f"{service}_SERVICE_HOST": "10.96.0.7", f"{service}_SERVICE_PORT": "80", f"{service}_SERVICE_PORT_HTTP": "80",
            f"{service}_PORT": "tcp://10.96.0.7:80", f"{service}_PORT_80_TCP": "tcp://10.96.0.7:80",
            f"{service}_PORT_80_TCP_PROTO": "tcp", f"{service}_PORT_80_TCP_PORT": "80", f"{service}_PORT_80_TCP_ADDR": "10.96.0.7",
        }  # fmt: skip
    plan = prepare(settings(**links), ROOT / "oauth2_proxy.cfg.tmpl", tmp_path)
    assert not [name for name in plan.proxy.environment if "SERVICE_HOST" in name]
    (told,) = problems(tmp_path, MLFLOW_PORT="5000")
    assert (told.name, told.fix) == ("MLFLOW_PORT", "use PORT")


def test_the_policy_is_read_once_and_goes_to_the_server_with_the_plan(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("default: viewer\nroles: {admin: [user:alice@example.com]}\n")
    plan = prepare(settings(ACCESS_POLICY=str(policy)), ROOT / "oauth2_proxy.cfg.tmpl", tmp_path)
    policy.unlink()
    source = PolicySource(ServerPlan.load(plan.server.dump()).policy)
    in_force = asyncio.run(source.current())
    assert in_force.role_of(Identity("alice@example.com", "1")) is Role.ADMIN
    assert in_force.role_of(Identity("bob@example.com", "2")) is Role.VIEWER


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.fixture(scope="module")
def everything(
    provider: object, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gate, dict[str, str]]]:
    """A gate with all the settings of oauth2-proxy that work here, at once, each with another value than its default."""
    folder = tmp_path_factory.mktemp("everything")
    made = Gate(folder, provider)  # type: ignore[arg-type]
    issuer = made.provider.issuer
    found = requests.get(f"{issuer}/.well-known/openid-configuration", timeout=10).json()
    made.provider.claims("gina@example.com", email="gina@example.com", email_verified=True, groups=["ml", "ops"])
    (folder / "emails").write_text("gina@example.com\nbob@example.com\n")
    cert, key = map(str, certificate)
    ports = [str(free_port()) for _ in range(3)]
    values = {
        "provider": "oidc", "provider_display_name": "Acme", "client_id": made.environment["OAUTH2_PROXY_CLIENT_ID"],
        "client_secret": "local", "scope": "openid email profile", "prompt": "login", "approval_prompt": "auto", "acr_values": "1",
        "login_url": found["authorization_endpoint"], "redeem_url": found["token_endpoint"], "oidc_jwks_url": found["jwks_uri"],
        "oidc_issuer_url": issuer, "skip_oidc_discovery": "true", "oidc_enabled_signing_algs": "RS256", "provider_ca_files": cert,
        "use_system_trust_store": "true", "code_challenge_method": "S256", "oidc_audience_claims": "aud",
        "oidc_email_claim": "email", "oidc_groups_claim": "groups", "oidc_extra_audiences": "audience-of-mine",
        "insecure_oidc_allow_unverified_email": "true", "insecure_oidc_skip_issuer_verification": "true",
        "insecure_oidc_skip_nonce": "true", "skip_claims_from_profile_url": "true", "encode_state": "true",
        "extra_jwt_issuers": f"{issuer}=another-audience", "backend_logout_url": f"{issuer}/.well-known/openid-configuration",
        "redirect_url": f"{made.url}/oauth2/callback", "email_domains": "example.org", "authenticated_emails_file": str(folder / "emails"),
        "allowed_groups": "ml", "skip_provider_button": "false", "whitelist_domains": ".example.net", "allow_query_semicolons": "true",
        "cookie_secret": "abcdefghijklmnop", "cookie_expire": "2h", "cookie_refresh": "1h",
        "cookie_name": "_acme", "cookie_secure": "false", "cookie_samesite": "lax", "cookie_csrf_samesite": "lax",
        "cookie_csrf_expire": "10m", "cookie_csrf_per_request": "false", "cookie_csrf_per_request_limit": "5",
        "cookie_domains": "localhost", "upstream_timeout": "60s", "flush_interval": "2s", "disable_keep_alives": "true",
        "set_xauthrequest": "true", "request_id_header": "X-Trace-Of-Mine", "http_address": f"127.0.0.1:{made.port}",
        "metrics_address": f"127.0.0.1:{ports[1]}",
        "metrics_secure_address": f"127.0.0.1:{ports[2]}", "metrics_tls_cert_file": cert, "metrics_tls_key_file": key,
        "reverse_proxy": "true", "trusted_proxy_ips": "10.9.9.9/32", "real_client_ip_header": "X-Real-IP",
        "custom_templates_dir": str(ROOT / "proxy" / "templates"), "custom_sign_in_logo": "-", "banner": "Welcome to Acme",
        "footer": "-", "exclude_logging_paths": "/version", "request_logging": "true", "request_logging_format": "asked {{.RequestURI}}",
        "auth_logging": "true", "auth_logging_format": "signed {{.Username}}", "standard_logging": "true",
        "standard_logging_format": "said {{.Message}}", "errors_to_info_log": "true", "silence_ping_logging": "false",
        "logging_filename": str(folder / "proxy.log"), "logging_compress": "true", "logging_local_time": "false",
        "logging_max_age": "1", "logging_max_backups": "1", "logging_max_size": "1",
    }  # fmt: skip
    made.environment |= {PREFIX + key.upper(): value for key, value in values.items()}
    with running(made):
        yield made, values


def test_all_that_is_said_to_work_is_tried_here_or_named(everything: tuple[Gate, dict[str, str]]) -> None:
    _, values = everything
    in_other_tests = {"session_store_type", "session_cookie_minimal", "redis_connection_url", "redis_username"}
    in_other_tests |= {"redis_password", "redis_connection_idle_timeout"}
    assert of(Verdict.WORKS) - set(values) - in_other_tests - ELSEWHERE == set()


def test_with_all_of_them_a_browser_gets_in(everything: tuple[Gate, dict[str, str]]) -> None:
    gate, values = everything
    page = requests.get(gate.url, timeout=10)
    assert page.status_code == 403
    assert "Acme" in page.text
    session = gate.sign_in("gina")
    assert "_acme" in str(session.headers["Cookie"])
    answer = session.get(gate.url + SEARCH, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-auth-request-email"] == "gina@example.com"
    who = session.get(f"{gate.url}/gatehouse/whoami", timeout=10).json()
    assert (who["email"], who["groups"]) == ("gina@example.com", ["ml", "ops"])
    assert "oauth2_proxy_requests_total" in requests.get(f"http://{values['metrics_address']}/metrics", timeout=10).text
    port = values["metrics_secure_address"].rpartition(":")[2]
    assert requests.get(f"https://localhost:{port}/metrics", verify=values["metrics_tls_cert_file"], timeout=10).ok
    out = session.get(
        f"{gate.url}/oauth2/sign_out?rd=https%3A%2F%2Fa.example.net%2F", allow_redirects=False, timeout=10
    )
    assert out.headers["location"] == "https://a.example.net/"
    logged = Path(values["logging_filename"]).read_text()
    assert "asked" in logged
    # Those that hold the code are left out, whatever else is.
    assert "/oauth2/callback" not in logged


def test_with_all_of_them_a_token_gets_in_and_the_rules_hold(everything: tuple[Gate, dict[str, str]]) -> None:
    gate, _ = everything
    for audience, person, status in (
        ("audience-of-mine", "gina", 200), ("another-audience", "gina", 200), ("a-strangers", "gina", 401), ("audience-of-mine", "alice", 403),
    ):  # fmt: skip
        headers = {"Authorization": f"Bearer {gate.provider.token(person, audience)}"}
        assert requests.get(gate.url + SEARCH, headers=headers, timeout=20).status_code == status, (audience, person)
    assert requests.get(f"{gate.url}/.well-known/gatehouse", timeout=10).status_code == 200
    assert requests.get(gate.url + SEARCH, timeout=10).status_code == 401


#: What is set to try that MLflow's side takes it, as one; the effects that show are tested one by one.
TRIED = {
    "MLFLOW_SERVER_ALLOWED_HOSTS": "other.example.com", "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
    "MLFLOW_SERVER_GRAPHQL_MAX_ALIASES": "3", "MLFLOW_SERVER_GRAPHQL_MAX_ROOT_FIELDS": "3", "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false", "MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH": "100", "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "6",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "2", "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "600", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_SECRETS_CACHE_TTL": "30", "MLFLOW_SERVER_SECRETS_CACHE_MAX_SIZE": "10", "MLFLOW_CRYPTO_KEK_PASSPHRASE": "x" * 32,
    "MLFLOW_CRYPTO_KEK_VERSION": "1", "MLFLOW_WEBHOOK_CACHE_TTL": "5", "MLFLOW_WEBHOOK_DELIVERY_MAX_WORKERS": "2",
    "MLFLOW_ENABLE_AI_GATEWAY": "false", "MLFLOW_MODEL_CATALOG_CACHE_TTL": "60", "MLFLOW_FLASK_SERVER_SECRET_KEY": "y" * 32,
    "MLFLOW_TRACE_MAX_ATTACHMENT_SIZE": "1000", "MLFLOW_CONFIGURE_LOGGING": "true",
}  # fmt: skip
PORTAL = "https://portal.example.com"


@pytest.fixture(scope="module")
def tuned(provider: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with many of MLflow's settings, an origin that is listed, and a variable of clients."""
    folder = tmp_path_factory.mktemp("tuned")
    extra = {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": PORTAL, "OAUTH2_PROXY_SKIP_AUTH_PREFLIGHT": "true"}
    part = Gate(folder, provider, **TRIED, **extra, MLFLOW_RUN_ID="1")  # type: ignore[arg-type]
    with running(part):
        yield part


def test_mlflows_settings_have_their_effect(tuned: Gate) -> None:
    assert "start.sh: note: MLFLOW_RUN_ID: clients read this, the server doesn't" in tuned.log()
    with tuned.session("alice") as session:
        assert session.get(f"{tuned.url}/", timeout=20).headers["x-frame-options"] == "DENY"
        # The lists add to the gate's own address.
        for host, status in (
            (f"localhost:{tuned.port}", 200),
            ("other.example.com", 200),
            ("foreign.example.com", 403),
        ):
            assert session.get(tuned.url + SEARCH, headers={"Host": host}, timeout=20).status_code == status, host
        own = session.post(f"{tuned.url}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, headers={"Origin": tuned.url}, timeout=20)  # fmt: skip
        assert own.status_code == 200


@pytest.mark.parametrize(
    "path", ["/api/2.0/mlflow/runs/create", "/api/2.0/mlflow-artifacts/artifacts/0/x", "/gatehouse/whoami", "/"]
)
def test_a_browser_may_ask_for_a_listed_origin_and_for_no_other(tuned: Gate, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    answer = requests.options(tuned.url + path, headers={"Origin": PORTAL, **asked}, timeout=10)
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == PORTAL
    assert "authorization" in answer.headers["access-control-allow-headers"]
    for headers in (
        {"Origin": "https://evil.example.com", **asked},
        {"Origin": PORTAL + ".evil.com", **asked},
        asked,
        {"Origin": PORTAL},
    ):
        refused = requests.options(tuned.url + path, headers=headers, timeout=10)
        assert refused.status_code == 401
        assert refused.headers.get("access-control-allow-origin") in {
            None,
            PORTAL if headers == {"Origin": PORTAL} else None,
        }


def test_a_listed_origin_may_write_and_read_the_answer(tuned: Gate) -> None:
    with tuned.session("bob") as session:
        for origin, status in ((PORTAL, 200), ("https://evil.example.com", 403)):
            answer = session.post(
                f"{tuned.url}/api/2.0/mlflow/experiments/create", json={"name": f"from {origin}"}, headers={"Origin": origin}, timeout=20
            )  # fmt: skip
            assert answer.status_code == status, answer.text
            assert answer.headers.get("access-control-allow-origin") == (PORTAL if status == 200 else None)
        path = "/api/2.0/mlflow-artifacts/artifacts/0/of-the-portal.txt"
        assert session.put(tuned.url + path, data=b"x", headers={"Origin": PORTAL}, timeout=20).status_code == 200
        answer = session.get(tuned.url + path, headers={"Origin": PORTAL}, timeout=20)
        assert (answer.content, answer.headers["access-control-allow-origin"]) == (b"x", PORTAL)


def test_a_cookie_for_a_whole_domain_works_under_another_name(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(
        PUBLIC_URL="https://mlflow.example.com",
        OAUTH2_PROXY_COOKIE_DOMAINS=".example.com",
        OAUTH2_PROXY_COOKIE_NAME="gatehouse",
    )
    gate.start().wait_ready()
    session = gate.sign_in("bob")
    assert str(session.headers["Cookie"]).startswith("gatehouse=")
    assert session.get(gate.url + SEARCH, timeout=20).status_code == 200


def test_start_sh_says_all_of_it_at_once(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(
        OAUTH2_PROXY_PROXY_PREFIX="/sso", OAUTH2_PROXY_SKIP_AUTH_ROUTES="^/version$", MLFLOW_STATIC_PREFIX="/mlflow", MLFLOW_NO_SUCH="1"
    )  # fmt: skip
    assert gate.start().wait_end(60) == Exit.SETTINGS
    for name in (
        "OAUTH2_PROXY_PROXY_PREFIX",
        "OAUTH2_PROXY_SKIP_AUTH_ROUTES",
        "MLFLOW_STATIC_PREFIX",
        "MLFLOW_NO_SUCH",
    ):
        assert f"start.sh: error: {name} is " in gate.log()
    assert gate.log().count("    fix: ") == 4
