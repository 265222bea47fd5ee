"""oauth2-proxy's configuration: the template rendered, its settings checked, and the ties to MLflow.

oauth2-proxy takes an option from its environment before its file, so what must hold whichever file is used
(the listener, the upstream, the identity headers and the proof) goes into its environment.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from string import Template

import tomllib

from gatehouse.policy.identity import OPEN_DOMAINS
from gatehouse.start import verdicts
from gatehouse.start.settings import Invalid, Problem, available_cpus, parse_public_url

PREFIX = verdicts.PREFIX
#: The proxy's own socket, where it isn't the public listener itself.
SOCKET_NAME = "proxy.sock"
PROVIDERS = ("google", "oidc", "keycloak-oidc", "entra-id", "github")
ISSUER_EXAMPLES = {
    "oidc": "https://id.example.com",
    "keycloak-oidc": "https://keycloak.example.com/realms/REALM",
    "entra-id": "https://login.microsoftonline.com/TENANT/v2.0",
}

#: The client of gcloud's, the audience of all its users' tokens.
GCLOUD = "32555940559.apps.googleusercontent.com"

#: Memory that the proxy's collector may leave unused. With its half of the processors, for each one more spins while it
#: waits, that saves a third of its processor time (docs/decisions/0012).
GO_COLLECTOR: Mapping[str, str] = {"GOGC": "400", "GOMEMLIMIT": "128MiB"}

#: Stand-ins for the trial run when the real value is missing or wrong, which is reported already.
STAND_INS: Mapping[str, str] = {
    "OAUTH2_PROXY_CLIENT_ID": "client",
    "OAUTH2_PROXY_CLIENT_SECRET": "secret",
    "OAUTH2_PROXY_COOKIE_SECRET": "0123456789abcdef",
    "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
    "OAUTH2_PROXY_OIDC_ISSUER_URL": "https://id.example.com",
}


def cookie_secret_bytes(secret: str) -> int:
    """Return the length that oauth2-proxy sees: URL-safe base64 is decoded if 16, 24 or 32 bytes come out.

    Source: ``SecretBytes`` in oauth2-proxy's pkg/encryption/utils.go.
    """
    unpadded = secret.rstrip("=")
    try:
        decoded = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    return len(decoded) if len(decoded) in {16, 24, 32} else len(secret.encode())


def cookie_name(public_url: str) -> str:
    """Return the session cookie's name.

    Over https it has the prefix ``__Host-``: no sibling domain can set or overwrite it (RFC 6265bis, 4.1.3.2).
    """
    return "__Host-gatehouse" if public_url.startswith("https:") else "_gatehouse"


def effective_cookie_name(
    environment: Mapping[str, str], own_file_used: bool, own_file: Mapping[str, object], public_url: str
) -> str:
    """Return the name that the session cookie really has: MLflow's side must never see that cookie."""
    if name := environment.get(f"{PREFIX}COOKIE_NAME"):
        return name
    if own_file_used:
        return str(own_file.get("cookie_name") or "_oauth2_proxy")  # oauth2-proxy's own default
    return cookie_name(public_url)


def select_sections(template: str, chosen: str) -> str:
    """Keep the lines outside sections and those of the section ``chosen``."""
    kept, section = [], None
    for line in template.splitlines(keepends=True):
        if match := re.fullmatch(r"#: if (\S+)\n", line):
            section = match[1]
        elif line == "#: end\n":
            section = None
        elif section in {None, chosen}:
            kept.append(line)
    return "".join(kept)


def render(
    template: str,
    provider: str,
    public_url: str,
    templates: Path,
    login_client_id: str | None,
    open_paths: str,
    gcloud: bool = True,
) -> str:
    """Return the proxy's configuration file.

    Tokens for ``login_client_id`` are taken too, and ``open_paths`` need none.
    """

    def quote(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1]  # a JSON string is a TOML basic string

    return Template(select_sections(template, provider)).substitute(
        public_url=quote(public_url),
        templates=quote(str(templates)),
        gcloud_audience=f', "{GCLOUD}"' if gcloud else "",
        gcloud_issuer=f', "https://accounts.google.com={GCLOUD}"' if gcloud else "",
        login_audience=f', "{quote(login_client_id)}"' if login_client_id else "",
        open_paths=quote(open_paths),
        cookie_name=cookie_name(public_url),
        cookie_secure="true" if public_url.startswith("https:") else "false",
    )


def check_cookie_secret(environment: Mapping[str, str]) -> list[Problem]:
    """Check the length of the cookie secret."""
    name = "OAUTH2_PROXY_COOKIE_SECRET"
    fix = "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
    if not environment.get(name):
        return [Problem(name, "is not set", fix)]
    size = cookie_secret_bytes(environment[name])
    if size not in {16, 24, 32}:
        return [Problem(name, f"is {size} bytes; it must be 16, 24 or 32", fix)]
    return []


def check_who_may_come_in(environment: Mapping[str, str], provider: str) -> list[Problem]:
    """Check that the rules on e-mail addresses let in somebody, and not everybody in the world."""
    name = "OAUTH2_PROXY_EMAIL_DOMAINS"
    listed = environment.get("OAUTH2_PROXY_AUTHENTICATED_EMAILS_FILE")
    domains = [domain.strip() for domain in environment.get(name, "").split(",") if domain.strip()]
    if not domains and not listed:
        return [
            Problem(
                name,
                "is not set, and neither is OAUTH2_PROXY_AUTHENTICATED_EMAILS_FILE: nobody could come in",
                "list your company's mail domains, for example "
                "OAUTH2_PROXY_EMAIL_DOMAINS=example.com,PROJECT.iam.gserviceaccount.com",
            )
        ]
    problems = [
        Problem(
            name,
            f"has {domain!r}, a domain in which anybody can get an address",
            "list the addresses in a file and name it in OAUTH2_PROXY_AUTHENTICATED_EMAILS_FILE; for service accounts "
            "PROJECT.iam.gserviceaccount.com lets in those of one project",
        )
        for domain in domains
        if domain.lower().lstrip(".@") in OPEN_DOMAINS
    ]
    worldwide = provider.startswith("google") or (
        provider == "github"
        and not any(environment.get(f"{PREFIX}GITHUB_{rule}") for rule in ("ORG", "TEAM", "REPO", "USERS"))
    )
    if "*" in domains and worldwide and not environment.get("ACCESS_POLICY"):
        problems.append(
            Problem(
                name,
                f"is '*', and {provider.split('-')[0]} gives an account to anybody",
                "list your company's mail domains, or say in ACCESS_POLICY who may do what",
            )
        )
    return problems


def check_provider(environment: Mapping[str, str], provider: str) -> list[Problem]:
    """Check what the template's provider needs."""
    problems = []
    if provider not in {*PROVIDERS, "google-groups"}:
        problems.append(
            Problem(
                f"{PREFIX}PROVIDER",
                f"is {provider!r}, which the template has no section for",
                f"use one of {', '.join(PROVIDERS)}, or mount a complete file and name it in OAUTH_PROXY_CONFIG",
            )
        )
    for name, fix in (
        ("CLIENT_ID", "take it from the OAuth client at your identity provider"),
        (
            "CLIENT_SECRET",
            "take it from the OAuth client; a file with it goes into OAUTH2_PROXY_CLIENT_SECRET_FILE",
        ),
    ):
        if not environment.get(PREFIX + name):
            problems.append(Problem(PREFIX + name, "is not set", fix))
    if provider in ISSUER_EXAMPLES:
        issuer = environment.get(f"{PREFIX}OIDC_ISSUER_URL", "")
        example = f"for example {ISSUER_EXAMPLES[provider]}"
        if not issuer:
            problems.append(Problem(f"{PREFIX}OIDC_ISSUER_URL", f"is not set; provider {provider} needs it", example))
        elif not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", issuer):
            problems.append(Problem(f"{PREFIX}OIDC_ISSUER_URL", f"is {issuer!r}, which isn't https", example))
    return problems + check_cookie_secret(environment) + check_who_may_come_in(environment, provider)


def public_url(environment: Mapping[str, str], own_file: Mapping[str, object]) -> tuple[str, list[Problem]]:
    """Return the public origin, from PUBLIC_URL or the proxy's redirect URL, and the problems with it.

    A malformed PUBLIC_URL is reported by settings.py; it comes back as the empty string here.
    """
    given = environment.get("PUBLIC_URL", "")
    redirect = environment.get(f"{PREFIX}REDIRECT_URL") or own_file.get("redirect_url") or ""
    try:
        origin = parse_public_url(given) if given else ""
    except Invalid:
        return "", []
    match = re.match(r"(https?://[^/?#]+)", str(redirect))
    if not match:
        fix = "give the address that people type, for example https://mlflow.example.com"
        return origin, [] if origin else [Problem("PUBLIC_URL", "is not set", fix)]
    try:
        from_redirect = parse_public_url(match[1])
    except Invalid as error:
        return origin, [Problem(f"{PREFIX}REDIRECT_URL", error.what, error.fix)]
    if origin and origin != from_redirect:
        what = f"is {origin}, but the proxy's redirect URL is on {from_redirect}: signing in could never end"
        return origin, [Problem("PUBLIC_URL", what, "make the two the same")]
    return from_redirect, []


def read_own_file(path: Path | None) -> tuple[dict[str, object], list[Problem]]:
    """Return the settings of a complete proxy file (OAUTH_PROXY_CONFIG), which is TOML."""
    if path is None:
        return {}, []
    try:
        return tomllib.loads(path.read_text()), []
    except (OSError, ValueError) as error:
        return {}, [Problem("OAUTH_PROXY_CONFIG", f"is {str(path)!r}, which isn't TOML: {error}", "correct the file")]


def run_proxy(config: Path, environment: Mapping[str, str]) -> str | None:
    """Let oauth2-proxy test a configuration; return what it says, or None if it is content."""
    done = subprocess.run(
        ["oauth2-proxy", f"--config={config}", "--config-test"],
        env=dict(environment), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else done.stdout + done.stderr


def check_build(environment: Mapping[str, str]) -> list[Problem]:
    """Check that the oauth2-proxy on PATH is what proxy/build.sh makes, by the version that it says.

    Its maker's own redirects paths, on which clients lose what they upload, and answers some identities by a 502.
    """
    try:
        said = subprocess.run(
            ["oauth2-proxy", "--version"],
            env=dict(environment), capture_output=True, text=True, timeout=30, check=False,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    if re.match(r"oauth2-proxy v\S+\+gatehouse\b", said):
        return []
    what = (
        f"on PATH says {said[:80] or 'nothing'!r}, and isn't the one that this gate is made for (+gatehouse): it would "
    )
    what += "answer uploads by redirects, on which clients lose them"
    fix = "use the container image, or `make run`; or put what proxy/build.sh builds first on PATH"
    return [Problem("oauth2-proxy", what, fix)]


def trial_run(config: Path, environment: Mapping[str, str], reported: set[str], secrets: list[str]) -> list[Problem]:
    """Let oauth2-proxy judge its configuration, with stand-ins for what is reported already."""
    trial = {**environment, **{name: value for name, value in STAND_INS.items() if name in reported}}
    try:
        output = run_proxy(config, trial)
    except subprocess.TimeoutExpired:
        return [
            Problem(
                "oauth2-proxy",
                "didn't finish testing its configuration within 30 s",
                "is an issuer out of reach?",
            )
        ]
    if output is None:
        return []
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        output = output.replace(secret, "[REDACTED]")
    lines = [re.sub(r"^\[[^]]*\] (\[[^]]*\] )?", "", line).strip() for line in output.splitlines()]
    said = "; ".join(line for line in lines if line and line != "invalid configuration:")
    return [
        Problem(
            "oauth2-proxy",
            f"refuses its configuration: {said}",
            "correct the OAUTH2_PROXY_* variable or the file",
        )
    ]


def listen_address(environment: Mapping[str, str], port: int) -> str:
    """Return the proxy's address: every interface, as a container must, unless OAUTH2_PROXY_HTTP_ADDRESS says less."""
    return environment.get(f"{PREFIX}HTTP_ADDRESS") or f"0.0.0.0:{port}"


def behind_listener(address: str, run_directory: Path) -> tuple[str, dict[str, str]]:
    """Return the proxy's address where gatehouse-listener has the public one, and that program's environment."""
    socket = run_directory / SOCKET_NAME
    public = re.sub(r"^http://", "", address)
    return f"unix://{socket},mode=600", {"LISTENER_ADDRESS": public, "LISTENER_SOCKET": str(socket)}


def check_listener(environment: Mapping[str, str], own_file: Mapping[str, object], address: str) -> list[Problem]:
    """Check what gatehouse-listener needs, and that nothing relies on the addresses that the proxy no longer sees."""
    problems = []
    if not re.fullmatch(r"(?:http://)?[^/]*:\d+", address):
        what = f"is {address!r}, and HTTP2=true needs a TCP port"
        problems.append(Problem(f"{PREFIX}HTTP_ADDRESS", what, "unset it, or give HOST:PORT"))
    if environment.get(f"{PREFIX}TRUSTED_PROXY_IPS") or own_file.get("trusted_proxy_ips"):
        what = "is set; with HTTP2=true the proxy's only peer is the listener, on a Unix socket"
        problems.append(Problem(f"{PREFIX}TRUSTED_PROXY_IPS", what, "unset it, or HTTP2"))
    if shutil.which("gatehouse-listener", path=environment.get("PATH")) is None:
        fix = "use the container image, or `make run HTTP2=true`, which builds it with Go"
        problems.append(Problem("gatehouse-listener", "is not on PATH, and HTTP2=true needs it", fix))
    return problems


def proxy_environment(
    environment: Mapping[str, str], ties: Mapping[str, str], address: str, socket: Path, proof: str
) -> dict[str, str]:
    """Return the proxy's environment: its own settings, ``ties``, and what a Go program reads.

    No credential of MLflow's.
    """
    wanted = re.compile(
        r"OAUTH2_PROXY_.*|PATH|HOME|TMPDIR|TZ|LANG|SSL_CERT_(FILE|DIR)|(?i:https?_proxy|no_proxy)"
        r"|GOOGLE_APPLICATION_CREDENTIALS|GCE_METADATA_.*|AZURE_FEDERATED_TOKEN_FILE|GO(MAXPROCS|MEMLIMIT|GC|DEBUG)"
    )
    kept = {name: value for name, value in environment.items() if wanted.fullmatch(name) and value}
    if kept.get(f"{PREFIX}PROVIDER") == "google":
        # The template says what stands behind "google"; the variable would win over it.
        del kept[f"{PREFIX}PROVIDER"]
    return {
        **GO_COLLECTOR,
        "GOMAXPROCS": str(max(1, available_cpus() // 2)),
        **kept,
        **ties,
        f"{PREFIX}HTTP_ADDRESS": address,
        f"{PREFIX}UPSTREAMS": f"unix://{socket}",
        f"{PREFIX}BASIC_AUTH_PASSWORD": proof,
    }


def company_domains(environment: Mapping[str, str], file: Mapping[str, object]) -> list[str]:
    """Return the mail domains that let somebody in, where that isn't everybody."""
    listed = environment.get(f"{PREFIX}EMAIL_DOMAINS") or verdicts.as_text(file.get("email_domains", ""))
    domains = (domain.strip().lower().lstrip(".@") for domain in listed.split(","))
    return [domain for domain in domains if domain not in {"", "*"}]


def chosen_provider(environment: Mapping[str, str]) -> str:
    """Return the template's section: the provider, or ``google-groups`` where Google's groups are asked for."""
    provider = environment.get(f"{PREFIX}PROVIDER") or "google"
    if provider == "google" and any(name.startswith(f"{PREFIX}GOOGLE_") for name in environment):
        return "google-groups"
    return provider


def folder_of_templates(template: Path) -> Path:
    """Return the folder of the error page, beside the template in the image and in a checkout."""
    return template.parent / "proxy" / "templates"


def session_lifetime(environment: Mapping[str, str], file: Mapping[str, object]) -> float | None:
    """Return the seconds that the proxy's session cookie is good for, or None if they can't be told."""
    text = environment.get(f"{PREFIX}COOKIE_EXPIRE") or file.get("cookie_expire", "168h")  # oauth2-proxy's default
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    # A duration of Go (time.ParseDuration), as far as anybody writes one for a session.
    if not isinstance(text, str) or not re.fullmatch(r"(?:\d+[hms])+", text):
        return None
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))
