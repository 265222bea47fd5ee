"""Check all settings, and make the plan of the start from them; nothing is started.

Into the private run directory go ``proxy.cfg``, rendered or the user's own, and ``published``, the folder of what
strangers may read. All else is in the :class:`~gatehouse.start.plan.Plan`.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import tomllib

from gatehouse.exit_codes import Exit
from gatehouse.identities import issuers, keys
from gatehouse.monitoring.notes import PROXY_SOCKET_NAME
from gatehouse.policy.file import PolicyFile
from gatehouse.public import discovery
from gatehouse.start import jobs, proxy_config, teams, verdicts
from gatehouse.start.plan import PROXY_CONFIG_NAME, SOCKET_NAME, Plan, Program, ServerPlan
from gatehouse.start.settings import (
    SECRETS,
    SOCKET_PATH_BYTES,
    Problem,
    SettingsError,
    read,
    read_secret_files,
)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def check_folder(name: str, folder: Path) -> list[Problem]:
    """Check that a folder can be made and written to, with a few KiB of room."""
    probe = folder / f".gatehouse-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(64 * 1024))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return [
                Problem(
                    name,
                    f"is in {folder}, where the disk is full",
                    "free some room, or use another folder",
                    True,
                )
            ]
        return [
            Problem(
                name,
                f"is in {folder}, which can't be written to: {error.strerror}",
                f"give user {os.getuid()} the right to write there, or use another folder",
                of_machine=True,
            )
        ]
    return []


def check_local_folders(values: Mapping[str, object]) -> list[Problem]:
    """Check the folders that a SQLite database and a local artifact store live in."""
    problems = []
    database, artifacts = values["backend_store_uri"], values["artifacts_destination"]
    if isinstance(database, str) and database.startswith("sqlite:"):
        problems += check_folder(
            "BACKEND_STORE_URI", Path(database.removeprefix("sqlite:///").partition("?")[0]).parent
        )
    if isinstance(artifacts, str) and artifacts.startswith("file:"):
        problems += check_folder("ARTIFACTS_DESTINATION", Path(urlsplit(artifacts).path))
    return problems


def read_policy(values: Mapping[str, object]) -> tuple[PolicyFile | None, list[Problem]]:
    """Read the access policy, and check it for every environment that it names."""
    path = values["access_policy"]
    if not isinstance(path, Path):
        return PolicyFile.read(None, ""), []
    from gatehouse.policy.reader import UNNAMED_ENVIRONMENT, PolicyError

    try:
        # Who is misspelt in MACHINE_ISSUERS is reported already.
        known = values["machine_issuers"]
        known = known if isinstance(known, tuple) else None
        return PolicyFile.read(path, str(values["app_env"] or UNNAMED_ENVIRONMENT), known), []
    except PolicyError as error:
        return None, [
            Problem("ACCESS_POLICY", f"{problem.where}: {problem.what}", problem.fix) for problem in error.problems
        ]


def check_socket(run_directory: Path) -> list[Problem]:
    """Check that the path of MLflow's socket is short enough for the system."""
    size = len(os.fsencode(run_directory / SOCKET_NAME))
    if size <= SOCKET_PATH_BYTES:
        return []
    what = f"leads to a socket path of {size} bytes; the system allows {SOCKET_PATH_BYTES}"
    return [Problem("TMPDIR", what, "set TMPDIR to a folder with a shorter path", of_machine=True)]


def check_metrics_port(metrics: object, port: object) -> list[Problem]:
    """Check that the figures have a port of their own, which is free."""
    if not isinstance(metrics, tuple):
        return []
    if metrics[1] == port:
        return [
            Problem("METRICS", f"is {port}, which is the public port", "choose another: strangers must not read it")
        ]
    return check_port(f"[{metrics[0]}]:{metrics[1]}", "METRICS")


def check_port(address: str, name: str = "PORT") -> list[Problem]:
    """Check that a port is free."""
    host, _, port = re.sub(r"^https?://", "", address).rpartition(":")
    if not port.isdigit():
        return []  # a Unix socket or an inherited descriptor: oauth2-proxy knows
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return [
                    Problem(
                        name,
                        f"is {port}, which another program listens on",
                        f"stop it, or set {name} to another number",
                        True,
                    )
                ]
            return [Problem(name, f"is {port}: {error.strerror}", f"set {name} to a number from 1024 to 65535", True)]
    return []


#: OpenTelemetry's own variable: where figures are pushed.
PUSH = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
PROXY_METRICS = "OAUTH2_PROXY_METRICS_ADDRESS"
#: What changes how an interpreter of Python or a shell runs at all, and is meant for another one.
FOREIGN = re.compile(
    r"PYTHON(WARNINGS|INSPECT|STARTUP|DEVMODE|BREAKPOINT|VERBOSE|DEBUG)|SHELLOPTS|BASHOPTS|BASH_ENV|ENV|BASH_FUNC_.*"
)
#: The proxy's secrets, as settings and as files.
OF_PROXY = re.compile(r"OAUTH2_PROXY_.*(SECRET|PASSWORD|TOKEN|KEY|URLS?)(_FILE)?")


def server_environment(environment: Mapping[str, str], public_url: str) -> dict[str, str]:
    """Return the environment of MLflow's side: everything but the proxy's secrets, and what isn't meant for it."""
    kept = {
        name: value
        for name, value in environment.items()
        if not OF_PROXY.fullmatch(name) and not FOREIGN.fullmatch(name) and name != "GOOGLE_ACCOUNT_JSON_BASE64"
    }
    return {**kept, "PUBLIC_URL": public_url}


def monitor_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of what shows figures: how it reaches where it pushes them, and nothing of the others'."""
    wanted = re.compile(
        r"PATH|HOME|TMPDIR|TZ|LANG|LC_[A-Z]+|OTEL_.*|K_REVISION|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
        r"|(?i:https?_proxy|no_proxy)"
    )
    return {name: value for name, value in environment.items() if wanted.fullmatch(name)}


def client_to_hand_out(template: Path) -> discovery.Client | None:
    """Return the client's wheel from ``dist``, beside the template in the image and in a checkout."""
    return discovery.Client.find(template.parent / "dist")


def prepare(environment: Mapping[str, str], template: Path, run_directory: Path) -> Plan:
    """Check everything; write the proxy's configuration into the run directory, and return the plan.

    Raises:
        SettingsError: with every problem of the settings and of this machine.
    """
    resolved, problems = read_secret_files(verdicts.without_service_links(environment))
    values, settings, setting_problems = read(resolved)
    policy, policy_problems = read_policy(values)
    problems += setting_problems + policy_problems + check_local_folders(values) + check_socket(run_directory)
    with_workspaces, switch_problems = teams.switched_on(policy.policy if policy else None, resolved)
    problems += switch_problems

    client = client_to_hand_out(template)
    own_path = values["oauth_proxy_config"]
    own_file, file_problems = proxy_config.read_own_file(own_path)
    public_url, url_problems = proxy_config.public_url(resolved, own_file)
    provider = proxy_config.chosen_provider(resolved)
    open_paths = discovery.open_paths(client)
    given = verdicts.Given(resolved, own_file, own_path is not None, open_paths)
    judged, notes = verdicts.judge_mlflow(resolved)
    problems += file_problems + url_problems + judged
    problems += verdicts.judge_proxy(given, str(own_file.get("provider") or provider), public_url)
    config = run_directory / PROXY_CONFIG_NAME
    if own_path is None:
        problems += proxy_config.check_provider(resolved, provider)
        templates = proxy_config.folder_of_templates(template)
        text = proxy_config.render(
            template.read_text(),
            provider,
            public_url or "https://example.com",
            templates,
            values["login_client_id"],
            open_paths,
            gcloud=values["gcloud_tokens"] is not False,
        )
        write_private(config, text.encode())
    elif not file_problems:
        write_private(config, own_path.read_bytes())

    address = proxy_config.listen_address(resolved, values["port"] or 0)
    if values["port"]:
        problems += check_port(address)
    listener_environment: dict[str, str] = {}
    if values["http2"]:
        problems += proxy_config.check_listener(resolved, own_file, address)
        address, listener_environment = proxy_config.behind_listener(address, run_directory)
    problems += check_metrics_port(values["metrics"], values["port"])
    monitoring = bool(values["metrics"] or resolved.get(PUSH))
    proof = secrets.token_urlsafe(32)
    ties = verdicts.enforced(given, public_url)
    proxy_environment = proxy_config.proxy_environment(resolved, ties, address, run_directory / SOCKET_NAME, proof)
    if monitoring and not (resolved.get(PROXY_METRICS) or own_file.get("metrics_address")):
        proxy_environment[PROXY_METRICS] = f"unix://{run_directory / PROXY_SOCKET_NAME},mode=600"
    if values["machine_issuers"]:
        # Their tokens are handed on to this side, which verifies them (docs/decisions/0038).
        proxy_environment["GATEHOUSE_ISSUERS"] = " ".join(issuer.url for issuer in values["machine_issuers"])
    if values["api_keys"]:
        proxy_environment["GATEHOUSE_KEY_PREFIX"] = keys.PREFIX
    login_client_id = values["login_client_id"]
    proxy_file = own_file if own_path else tomllib.loads(text)
    offered = discovery.DIRECT_TRANSFERS if values["direct_transfers"] else None
    about = discovery.from_proxy(proxy_file, proxy_environment, login_client_id, offered)
    if values["gcloud_tokens"] is False and proxy_config.GCLOUD in about.get("audiences", []):
        what = "is false, and the proxy is told to take tokens for gcloud's client"
        fix = "take it out of OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES, OAUTH2_PROXY_EXTRA_JWT_ISSUERS or the file"
        problems.append(Problem("GCLOUD_TOKENS", what, fix))
    # Who has signed out goes on to this provider, which ends its own session.
    proxy_environment["GATEHOUSE_ISSUER"] = str(about.get("issuer") or "none")
    if about.get("issuer") == discovery.GOOGLE:
        proxy_environment["GATEHOUSE_GOOGLE_DOMAINS"] = " ".join(proxy_config.company_domains(resolved, proxy_file))
    if login_client_id and login_client_id not in about.get("audiences", []):
        what = f"is {login_client_id!r}, and the proxy takes no token for that audience"
        problems.append(Problem("LOGIN_CLIENT_ID", what, "add it to the audiences: OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES"))
    secret_values = [resolved.get(name, "") for name in SECRETS]
    reported = {problem.name.removesuffix("_FILE") for problem in problems}
    if shutil.which("oauth2-proxy", path=resolved.get("PATH")) is None:
        fix = "use the container image, or `make run`, which finds or builds it"
        problems.append(Problem("oauth2-proxy", "is not on PATH", fix))
    else:
        with ThreadPoolExecutor(1) as beside:
            build = beside.submit(proxy_config.check_build, proxy_environment)
            if not file_problems:
                problems += proxy_config.trial_run(config, proxy_environment, reported, secret_values)
            problems += build.result()
    # A secret whose file can't be read isn't missing as well.
    unread = {problem.name.removesuffix("_FILE") for problem in problems if problem.name.endswith("_FILE")}
    problems = [
        problem for problem in problems if not (problem.name in unread and problem.what.startswith("is not set"))
    ]
    if problems or settings is None or policy is None:
        raise SettingsError(problems)

    audience = issuers.with_audience(settings.machine_issuers, public_url)
    settings = replace(settings, public_url=public_url, machine_issuers=audience)
    cookie = proxy_config.effective_cookie_name(resolved, own_path is not None, own_file, public_url)
    discovery.publish(run_directory / discovery.FOLDER, about, client, public_url)
    if client is None:
        notes.append("there is no client to hand out in dist/; fix: make client")
    kept = {name: resolved[name] for name in ("PATH", "GOMAXPROCS", "GOMEMLIMIT", "GOGC") if resolved.get(name)}
    server = ServerPlan(
        settings,
        policy,
        run_directory,
        proof=proof.encode(),
        cookies=(cookie, "_oauth2_proxy"),
        session_lifetime=proxy_config.session_lifetime(resolved, proxy_file),
        trusted_hops=settings.trusted_hops,
        project=resolved.get("GOOGLE_CLOUD_PROJECT"),
        origins=tuple(verdicts.other_origins(resolved, public_url)),
        jobs=jobs.wanted(resolved),
        monitoring=monitoring,
        workspaces=with_workspaces,
    )
    return Plan(
        server,
        server_environment(resolved, public_url),
        proxy=Program(("oauth2-proxy", f"--config={config}"), proxy_environment),
        listener=Program(("gatehouse-listener",), {**kept, **listener_environment}) if listener_environment else None,
        monitor_environment=monitor_environment(resolved) if monitoring else None,
        notes=tuple(notes),
    )


def exit_code(problems: list[Problem]) -> Exit:
    """Return CANNOT_CREATE if this machine alone is at fault, else SETTINGS."""
    return Exit.CANNOT_CREATE if all(problem.of_machine for problem in problems) else Exit.SETTINGS
