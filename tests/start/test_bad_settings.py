"""A setting that can't be used: every problem at once, each with its fix, an exit code of its own, nothing started."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from gatehouse.exit_codes import Exit
from local.run import CLIENT_ID
from tests.support import Gate, free_port, missing

#: Name of the case → what is set (an empty value unsets), and words that the log must have.
CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "no database": ({"BACKEND_STORE_URI": ""}, ["BACKEND_STORE_URI is not set", "BACKEND_STORE_URI_FILE"]),
    "too few connections": (
        {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "2", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "1"},
        ["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE and MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW allow 3 connections", "at least 5"],
    ),
    "MySQL": ({"BACKEND_STORE_URI": "mysql://u:topsecret@h/d"}, ["BACKEND_STORE_URI has the scheme 'mysql'"]),
    "a folder as database": ({"BACKEND_STORE_URI": "./mlruns"}, ["BACKEND_STORE_URI has the scheme ''"]),
    "no database name": (
        {"BACKEND_STORE_URI": "postgresql://u:topsecret@h/"},
        ["BACKEND_STORE_URI names no database"],
    ),
    "password not encoded": (
        {"BACKEND_STORE_URI": "postgresql://u:top/secret@h/d"},
        ["percent-encode the password"],
    ),
    "relative SQLite": ({"BACKEND_STORE_URI": "sqlite:///x.db"}, ["isn't an absolute path", "four slashes"]),
    "socket path too long": (
        {"BACKEND_STORE_URI": "postgresql://u:topsecret@/d?host=/cloudsql/" + "p" * 90},
        ["leads to a socket path of 114 bytes; the system allows 107"],
    ),
    "no artifact store": (
        {"ARTIFACTS_DESTINATION": ""},
        ["ARTIFACTS_DESTINATION is not set, and neither is DEFAULT_ARTIFACT_ROOT"],
    ),
    "both artifact stores": (
        {"DEFAULT_ARTIFACT_ROOT": "gs://b"},
        ["ARTIFACTS_DESTINATION and DEFAULT_ARTIFACT_ROOT are both set"],
    ),
    "unknown store": ({"ARTIFACTS_DESTINATION": "ftp://h/x"}, ["ARTIFACTS_DESTINATION has the scheme 'ftp'"]),
    "no container": (
        {"ARTIFACTS_DESTINATION": "wasbs://account.blob.core.windows.net/x"},
        ["ARTIFACTS_DESTINATION names no container", "wasbs://CONTAINER@ACCOUNT.blob.core.windows.net/PATH"],
    ),
    "key in an address": (
        {"ARTIFACTS_DESTINATION": "s3://key:topsecret@bucket/x"},
        ["ARTIFACTS_DESTINATION has an @ before its bucket"],
    ),
    "clients' folder": (
        {"ARTIFACTS_DESTINATION": "", "DEFAULT_ARTIFACT_ROOT": "/x"},
        ["clients would write to a folder of their own"],
    ),
    "signed URLs of a folder": ({"DIRECT_TRANSFERS": "true"}, ["a folder of the server has no signed URLs"]),
    "signed URLs for nobody": (
        {"DIRECT_TRANSFERS": "true", "ARTIFACTS_DESTINATION": "", "DEFAULT_ARTIFACT_ROOT": "gs://b"},
        ["DIRECT_TRANSFERS is true, but clients write to the bucket themselves"],
    ),
    "PORT": ({"PORT": "80a"}, ["PORT is '80a', which isn't a whole number from 1 to 65535"]),
    "WORKERS": ({"WORKERS": "0"}, ["WORKERS is '0'"]),
    "http in public": ({"PUBLIC_URL": "http://mlflow.example.com"}, ["would cross the network in clear"]),
    "URL with a path": (
        {"PUBLIC_URL": "https://example.com/mlflow"},
        ["it may have a scheme, a host and a port only"],
    ),
    "two addresses": (
        {
            "PUBLIC_URL": "https://a.example.com",
            "OAUTH2_PROXY_REDIRECT_URL": "https://b.example.com/oauth2/callback",
        },
        ["PUBLIC_URL is https://a.example.com, but the proxy's redirect URL is on https://b.example.com"],
    ),
    "short cookie secret": (
        {"OAUTH2_PROXY_COOKIE_SECRET": "x" * 45},
        ["OAUTH2_PROXY_COOKIE_SECRET is 45 bytes; it must be 16, 24 or 32"],
    ),
    "no cookie secret": ({"OAUTH2_PROXY_COOKIE_SECRET": ""}, ["OAUTH2_PROXY_COOKIE_SECRET is not set"]),
    "newline in a secret": (
        {"OAUTH2_PROXY_CLIENT_SECRET": "topsecret\n"},
        ["OAUTH2_PROXY_CLIENT_SECRET has a line break"],
    ),
    "nobody may come in": ({"OAUTH2_PROXY_EMAIL_DOMAINS": ""}, ["nobody could come in"]),
    "everybody may come in": (
        {"OAUTH2_PROXY_EMAIL_DOMAINS": "gmail.com"},
        ["a domain in which anybody can get an address"],
    ),
    "every project's accounts": (
        {"OAUTH2_PROXY_EMAIL_DOMAINS": ".iam.gserviceaccount.com"},
        ["anybody can get an address"],
    ),
    "all of Google": (
        {"OAUTH2_PROXY_PROVIDER": "google", "OAUTH2_PROXY_EMAIL_DOMAINS": "*"},
        ["OAUTH2_PROXY_EMAIL_DOMAINS is '*', and google gives an account to anybody"],
    ),
    "unknown provider": (
        {"OAUTH2_PROXY_PROVIDER": "okta"},
        ["use one of google, oidc, keycloak-oidc, entra-id, github"],
    ),
    "no issuer": (
        {"OAUTH2_PROXY_OIDC_ISSUER_URL": ""},
        ["OAUTH2_PROXY_OIDC_ISSUER_URL is not set; provider oidc needs it"],
    ),
    "misspelt": (
        {"OAUTH2_PROXY_EMAIL_DOMAIN": "example.com"},
        ["OAUTH2_PROXY_EMAIL_DOMAIN is no setting", "OAUTH2_PROXY_EMAIL_DOMAINS?"],
    ),
    "oauth2-proxy refuses": (
        {"OAUTH2_PROXY_COOKIE_EXPIRE": "twelve"},
        ["oauth2-proxy refuses its configuration", "invalid duration"],
    ),
    "a tie cut": ({"OAUTH2_PROXY_PREFER_EMAIL_TO_USER": "true"}, ["the gate relies on 'false'"]),
    "an upstream": (
        {"OAUTH2_PROXY_UPSTREAMS": "http://elsewhere"},
        ["OAUTH2_PROXY_UPSTREAMS is set; the gate sets it itself"],
    ),
    "MLflow misspelt": ({"MLFLOW_SERVER_ALOWED_HOSTS": "x"}, ["MLFLOW_SERVER_ALOWED_HOSTS is no setting of MLflow"]),
    "MLflow's private": ({"_MLFLOW_SERVER_ARTIFACTS_ONLY": "true"}, ["_MLFLOW_SERVER_ARTIFACTS_ONLY is MLflow's own"]),
    "a replica of another kind": (
        {"MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "mysql://u:topsecret@h/d"},
        ["MLFLOW_READ_REPLICA_BACKEND_STORE_URI has the scheme 'mysql'"],
    ),
    "a replica of SQLite": (
        {"MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "postgresql://u:topsecret@h/d"},
        ["MLFLOW_READ_REPLICA_BACKEND_STORE_URI is set, and SQLite has no replicas"],
    ),
    "no such file": (
        {"OAUTH_PROXY_CONFIG": "/nonexistent.cfg"},
        ["OAUTH_PROXY_CONFIG is '/nonexistent.cfg': No such file"],
    ),
    "no such secret": (
        {"OAUTH2_PROXY_CLIENT_SECRET": "", "OAUTH2_PROXY_CLIENT_SECRET_FILE": "/nonexistent"},
        ["OAUTH2_PROXY_CLIENT_SECRET_FILE is '/nonexistent': No such file"],
    ),
    "not base64": (
        {"GOOGLE_ACCOUNT_JSON_BASE64": "topsecret!"},
        ["GOOGLE_ACCOUNT_JSON_BASE64 isn't the base64 form"],
    ),
    "not a key": (
        {"GOOGLE_ACCOUNT_JSON_BASE64": base64.b64encode(b'{"type": "x"}').decode()},
        ["decodes to JSON without client_email, private_key, token_uri"],
    ),
    "HTTP2": ({"HTTP2": "yes"}, ["HTTP2 is 'yes'"]),
    "HTTP/2 without a port": (
        {"HTTP2": "true", "OAUTH2_PROXY_HTTP_ADDRESS": "unix:///tmp/p.sock"},
        ["OAUTH2_PROXY_HTTP_ADDRESS is 'unix:///tmp/p.sock', and HTTP2=true needs a TCP port"],
    ),
    "HTTP/2 and trusted addresses": (
        {
            "HTTP2": "true",
            "OAUTH2_PROXY_REVERSE_PROXY": "true",
            "OAUTH2_PROXY_TRUSTED_PROXY_IPS": "10.0.0.0/8",
        },
        ["OAUTH2_PROXY_TRUSTED_PROXY_IPS is set; with HTTP2=true the proxy's only peer is the listener"],
    ),
    "a long TMPDIR": ({"TMPDIR": "/tmp/" + "t" * 100}, ["TMPDIR leads to a socket path of"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_setting_is_named_with_its_fix(make_gate: Callable[..., Gate], case: str) -> None:
    changed, words = CASES[case]
    gate = make_gate(**changed)
    if "TMPDIR" in changed:
        Path(changed["TMPDIR"]).mkdir(exist_ok=True)
    code = gate.start().wait_end(30)
    log = gate.log()
    assert code == (Exit.CANNOT_CREATE if case == "a long TMPDIR" else Exit.SETTINGS), log
    for text in words:
        assert text in log
    assert len(re.findall(r"^start.sh: error: ", log, re.M)) == len(re.findall(r"^    fix: ", log, re.M)) == 1, log
    assert "topsecret" not in log
    assert "Traceback" not in log
    assert not (gate.folder / "mlflow.db").exists()
    if "TMPDIR" in changed:
        Path(changed["TMPDIR"]).rmdir()


@pytest.mark.parametrize("version", ["v7.15.6", "v7.15.6+gatehousing", ""])
def test_a_proxy_that_redirects_uploads_is_refused(
    make_gate: Callable[..., Gate], tmp_path: Path, version: str
) -> None:
    gate = make_gate()
    own = shutil.which("oauth2-proxy", path=gate.environment["PATH"])
    stock = tmp_path / "oauth2-proxy"
    stock.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "oauth2-proxy {version}" || exec {own} "$@"\n')
    stock.chmod(0o755)
    gate.environment["PATH"] = f"{tmp_path}{os.pathsep}{gate.environment['PATH']}"
    assert gate.start().wait_end(30) == Exit.SETTINGS
    assert "isn't the one that this gate is made for" in gate.log()
    assert "proxy/build.sh" in gate.log()


def test_all_problems_are_told_at_once(make_gate: Callable[..., Gate]) -> None:
    everything: dict[str, str] = {}
    expected = []
    for case in (
        "MySQL",
        "unknown store",
        "PORT",
        "WORKERS",
        "short cookie secret",
        "misspelt",
        "a tie cut",
        "no such file",
    ):
        changed, words = CASES[case]
        everything |= changed
        expected.append(words[0])
    gate = make_gate(**everything)
    assert gate.start().wait_end(30) == Exit.SETTINGS
    for text in expected:
        assert text in gate.log()


def test_a_secret_as_value_and_as_file_is_refused(make_gate: Callable[..., Gate], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    gate = make_gate(OAUTH2_PROXY_CLIENT_SECRET_FILE=str(tmp_path / "secret"))
    assert gate.start().wait_end(30) == Exit.SETTINGS
    assert "OAUTH2_PROXY_CLIENT_SECRET and OAUTH2_PROXY_CLIENT_SECRET_FILE are both set" in gate.log()


@pytest.mark.parametrize(
    "secret",
    ["quote\"'`", "$HOME ${x} $(id)", "back\\slash\\n", "ünïcode €", " spaces ", "a=b&c#d%20", "-x --y"],
)
def test_an_odd_but_legal_secret_works(make_gate: Callable[..., Gate], secret: str) -> None:
    gate = make_gate(OAUTH2_PROXY_CLIENT_SECRET=secret, MLFLOW_CRYPTO_KEK_PASSPHRASE=secret).start().wait_ready()
    proxy = Path(f"/proc/{gate.children()['proxy']}/environ").read_bytes().split(b"\0")
    server = Path(f"/proc/{gate.children()['server']}/environ").read_bytes().split(b"\0")
    assert f"OAUTH2_PROXY_CLIENT_SECRET={secret}".encode() in proxy
    assert f"MLFLOW_CRYPTO_KEK_PASSPHRASE={secret}".encode() in server


def test_a_database_password_with_every_odd_character_works(
    make_gate: Callable[..., Gate], tmp_path: Path, database: str
) -> None:
    # PostgreSQL's "trust" takes any password: what is tested is the way that it goes.
    (tmp_path / "uri").write_text(database.replace("unused", "%24%27%22%5C%2F%40%3A%23%25") + "\r\n")
    make_gate(BACKEND_STORE_URI="", BACKEND_STORE_URI_FILE=str(tmp_path / "uri")).start().wait_ready()


def test_a_taken_port_is_named(make_gate: Callable[..., Gate]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gate = make_gate(PORT=str(port))
        assert gate.start().wait_end(30) == Exit.CANNOT_CREATE
    assert f"PORT is {port}, which another program listens on" in gate.log()


def test_a_folder_that_cannot_be_written_to_is_named(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(ARTIFACTS_DESTINATION="/proc/artifacts")
    assert gate.start().wait_end(30) == Exit.CANNOT_CREATE
    assert "ARTIFACTS_DESTINATION is in /proc/artifacts, which can't be written to" in gate.log()


def test_a_full_disk_is_named(make_gate: Callable[..., Gate], tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        missing("the right to mount a small file system", "run as root")
    try:
        (full / "ballast").write_bytes(bytes(60 * 1024))
        gate = make_gate(ARTIFACTS_DESTINATION=str(full))
        assert gate.start().wait_end(30) == Exit.CANNOT_CREATE
        assert f"is in {full}, where the disk is full" in gate.log()
        assert sorted(path.name for path in full.iterdir()) == ["ballast"]
    finally:
        subprocess.run(["umount", str(full)], check=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"OAUTH2_PROXY_PROVIDER": ""},
        {"OAUTH2_PROXY_PROVIDER": "google"},
        {
            "OAUTH2_PROXY_PROVIDER": "keycloak-oidc",
            "OAUTH2_PROXY_OIDC_ISSUER_URL": "https://keycloak.example.com/realms/r",
        },
        {
            "OAUTH2_PROXY_PROVIDER": "entra-id",
            "OAUTH2_PROXY_OIDC_ISSUER_URL": "https://login.microsoftonline.com/tenant/v2.0",
        },
        {
            "OAUTH2_PROXY_PROVIDER": "github",
            "OAUTH2_PROXY_EMAIL_DOMAINS": "*",
            "OAUTH2_PROXY_GITHUB_ORG": "example",
        },
    ],
    ids=lambda settings: settings["OAUTH2_PROXY_PROVIDER"] or "default",
)
def test_the_settings_of_each_provider_are_accepted(tmp_path: Path, settings: dict[str, str]) -> None:
    from gatehouse.start.prepare import prepare
    from local.proxy_binary import ROOT, find_or_build

    port = free_port()
    environment = {
        "PATH": os.pathsep.join([str(find_or_build(lambda _: None).parent), os.environ["PATH"]]),
        "PORT": str(port),
        "PUBLIC_URL": "https://mlflow.example.com",
        "BACKEND_STORE_URI": "postgresql://u:p@h/d",
        "ARTIFACTS_DESTINATION": "gs://bucket",
        "OAUTH2_PROXY_CLIENT_ID": "client",
        "OAUTH2_PROXY_CLIENT_SECRET": "secret",
        "OAUTH2_PROXY_COOKIE_SECRET": "0123456789abcdef",
        "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
        **settings,
    }
    prepare(environment, ROOT / "oauth2_proxy.cfg.tmpl", tmp_path)
    rendered = (tmp_path / "proxy.cfg").read_text()
    assert 'cookie_name = "__Host-gatehouse"' in rendered
    assert "cookie_secure = true" in rendered
    assert "secret" not in re.sub(r"^#.*$", "", rendered, flags=re.M)


def test_google_by_default_needs_no_network_at_start(make_gate: Callable[..., Gate]) -> None:
    # No route to any issuer: a proxy that discovers would never listen.
    unreachable = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    gate = make_gate(OAUTH2_PROXY_PROVIDER="", OAUTH2_PROXY_OIDC_ISSUER_URL="", **unreachable).start().wait_ready()
    answer = requests.get(gate.url, allow_redirects=False, timeout=10)
    assert answer.headers["location"].startswith("https://accounts.google.com/o/oauth2/v2/auth?")


def test_the_original_recipes_file_is_used_as_it_is(make_gate: Callable[..., Gate], tmp_path: Path) -> None:
    """provider google with an extra issuer, as the recipe of 2022 has it.

    The local issuer stands where Google's does.
    """
    gate = make_gate()
    file = tmp_path / "oauth2_proxy.cfg"
    file.write_text(
        'email_domains = [ "example.com" ]\n'
        'client_id = "the-browsers-client"\n'
        'client_secret = "from the file"\n'
        'cookie_secret = "0123456789abcdef"\n'
        "cookie_secure = false\n"
        'provider = "google"\n'
        "skip_jwt_bearer_tokens = true\n"
        f'extra_jwt_issuers = "{gate.provider.issuer}={CLIENT_ID}"\n'
        f'redirect_url = "{gate.url}/oauth2/callback"\n'
    )
    kept = {"PUBLIC_URL": "", "OAUTH_PROXY_CONFIG": str(file)}
    gate.environment = {
        name: value for name, value in {**gate.environment, **kept}.items()
        if value and (not name.startswith("OAUTH2_PROXY_") or name == "OAUTH2_PROXY_HTTP_ADDRESS")
    }  # fmt: skip
    gate.start().wait_ready()
    with gate.session("bob") as session:
        assert session.get(f"{gate.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=10).status_code == 200
    # The paths that strangers may ask are open with any file.
    assert requests.get(f"{gate.url}/.well-known/gatehouse", timeout=10).status_code == 200
    assert requests.get(f"{gate.url}/gatehouse/ready", timeout=10).text == "OK"
    page = requests.get(gate.url, timeout=10)
    assert page.status_code == 403
    assert "Sign in with Google" in page.text
