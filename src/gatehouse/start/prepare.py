"""``gatehouse prepare``: check all settings, then write what start.sh hands to the two processes.

Into the private run directory go ``proxy.cfg`` (rendered, unless OAUTH_PROXY_CONFIG is used), ``proxy.env``,
``server.env`` and, with HTTP2=true, ``listener.env`` (NUL-separated assignments: each process gets what it needs and no secret of the others), and
``proof``, a random value of this start by which MLflow's side knows the proxy, and ``published``, the folder of what strangers may
read. Nothing is started.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import tomllib

from gatehouse.exit_codes import Exit
from gatehouse.pipeline import discovery
from gatehouse.start import proxy_config, verdicts
from gatehouse.start.settings import (
    SECRETS,
    SOCKET_PATH_BYTES,
    Problem,
    SettingsError,
    load,
    parse_table,
    read_secret_files,
)

SOCKET_NAME = "mlflow.sock"
PROOF_NAME = "proof"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def environment_block(environment: Mapping[str, str]) -> bytes:
    """Return ``NAME=value`` assignments, each ended by NUL, the only byte that no value can have.

    Names that a shell can't export (``a.b``) are left out.
    """
    named = ((name, value) for name, value in environment.items() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name))
    return b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in named)


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


def check_policy(values: Mapping[str, object]) -> list[Problem]:
    """Check the access policy, for every environment that it names."""
    path = values["access_policy"]
    if not isinstance(path, Path):
        return []
    from gatehouse.policy.reader import UNNAMED_ENVIRONMENT, PolicyError
    from gatehouse.policy.source import PolicySource

    try:
        PolicySource(path, str(values["app_env"] or UNNAMED_ENVIRONMENT))
    except PolicyError as error:
        return [Problem("ACCESS_POLICY", f"{problem.where}: {problem.what}", problem.fix) for problem in error.problems]
    return []


def check_socket(run_directory: Path) -> list[Problem]:
    """Check that the path of MLflow's socket is short enough for the system."""
    size = len(os.fsencode(run_directory / SOCKET_NAME))
    if size <= SOCKET_PATH_BYTES:
        return []
    what = f"leads to a socket path of {size} bytes; the system allows {SOCKET_PATH_BYTES}"
    return [Problem("TMPDIR", what, "set TMPDIR to a folder with a shorter path", of_machine=True)]


def check_port(address: str) -> list[Problem]:
    """Check that the public port is free."""
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
                        "PORT",
                        f"is {port}, which another program listens on",
                        "stop it, or set PORT to another number",
                        True,
                    )
                ]
            return [Problem("PORT", f"is {port}: {error.strerror}", "set PORT to a number from 1024 to 65535", True)]
    return []


def server_environment(environment: Mapping[str, str], public_url: str, cookie_name: str) -> dict[str, str]:
    """Return the environment of MLflow's side: everything but the proxy's secrets."""
    secret = re.compile(r"OAUTH2_PROXY_.*(SECRET|PASSWORD|TOKEN|KEY|URLS?)(_FILE)?")
    kept = {name: value for name, value in environment.items() if not secret.fullmatch(name)}
    return {**kept, "PUBLIC_URL": public_url, "OAUTH2_PROXY_COOKIE_NAME": cookie_name}


def client_to_hand_out(template: Path) -> discovery.Client | None:
    """Return the client's wheel from ``dist``, beside the template in the image and in a checkout."""
    return discovery.Client.find(template.parent / "dist")


def prepare(environment: Mapping[str, str], template: Path, run_directory: Path) -> list[str]:
    """Check everything and write the run directory.

    Returns: notes on settings that do no harm and nothing else.

    Raises:
        SettingsError: with every problem of the settings and of this machine.
    """
    resolved, problems = read_secret_files(verdicts.without_service_links(environment))
    values, table_problems = parse_table(resolved)
    try:
        load(resolved)
    except SettingsError as error:
        table_problems = error.problems
    problems += table_problems
    problems += check_policy(values) + check_local_folders(values) + check_socket(run_directory)

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
    config = run_directory / "proxy.cfg"
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
    proof = secrets.token_urlsafe(32)
    ties = verdicts.enforced(given, public_url)
    proxy_environment = proxy_config.proxy_environment(resolved, ties, address, run_directory / SOCKET_NAME, proof)
    login_client_id = values["login_client_id"]
    proxy_file = own_file if own_path else tomllib.loads(text)
    offered = discovery.DIRECT_TRANSFERS if values["direct_transfers"] else None
    about = discovery.from_proxy(proxy_file, proxy_environment, login_client_id, offered)
    if login_client_id and login_client_id not in about.get("audiences", []):
        what = f"is {login_client_id!r}, and the proxy takes no token for that audience"
        problems.append(Problem("LOGIN_CLIENT_ID", what, "add it to the audiences: OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES"))
    secret_values = [resolved.get(name, "") for name in SECRETS]
    reported = {problem.name.removesuffix("_FILE") for problem in problems}
    if shutil.which("oauth2-proxy", path=resolved.get("PATH")) is None:
        fix = "use the container image, or `make run`, which finds or builds it"
        problems.append(Problem("oauth2-proxy", "is not on PATH", fix))
    elif not file_problems:
        problems += proxy_config.trial_run(config, proxy_environment, reported, secret_values)
    # A secret whose file can't be read isn't missing as well.
    unread = {problem.name.removesuffix("_FILE") for problem in problems if problem.name.endswith("_FILE")}
    problems = [
        problem for problem in problems if not (problem.name in unread and problem.what.startswith("is not set"))
    ]
    if problems:
        raise SettingsError(problems)

    cookie = proxy_config.effective_cookie_name(resolved, own_path is not None, own_file, public_url)
    discovery.publish(run_directory / discovery.FOLDER, about, client, public_url)
    write_private(run_directory / PROOF_NAME, proof.encode())
    write_private(run_directory / "proxy.env", environment_block(proxy_environment))
    if listener_environment:
        kept = {name: resolved[name] for name in ("PATH", "GOMAXPROCS", "GOMEMLIMIT", "GOGC") if resolved.get(name)}
        write_private(run_directory / "listener.env", environment_block({**kept, **listener_environment}))
    write_private(run_directory / "server.env", environment_block(server_environment(resolved, public_url, cookie)))
    return notes


def exit_code(problems: list[Problem]) -> Exit:
    """Return CANNOT_CREATE if this machine alone is at fault, else SETTINGS."""
    return Exit.CANNOT_CREATE if all(problem.of_machine for problem in problems) else Exit.SETTINGS


def main(argv: list[str]) -> int:
    """Run the command; return an exit code."""
    parser = argparse.ArgumentParser(prog="gatehouse prepare", description=__doc__)
    parser.add_argument("--template", type=Path, required=True, help="oauth2_proxy.cfg.tmpl")
    parser.add_argument("--run-directory", type=Path, required=True, help="a private, empty folder")
    arguments = parser.parse_args(argv)
    try:
        notes = prepare(os.environ, arguments.template, arguments.run_directory)
    except SettingsError as error:
        for problem in sorted(dict.fromkeys(error.problems), key=lambda problem: problem.name):
            print(f"start.sh: error: {problem}", file=sys.stderr)
        return exit_code(error.problems)
    if client_to_hand_out(arguments.template) is None:
        print("start.sh: there is no client to hand out in dist/; fix: make client", file=sys.stderr)
    for note in notes:
        print(f"start.sh: note: {note}", file=sys.stderr)
    return Exit.OK
