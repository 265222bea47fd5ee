"""The smoke test of a live service:

strangers stay out, and the three ways in work (browser, curl, SDK with an artifact).

The token never appears in an argument list: curl reads its header from standard input, the SDK its token from the
environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import parse_qs, urlsplit

from deploy.cloud.errors import Redactor
from deploy.config import ROOT

#: What the browser is sent for a person who is not signed in, and what a program is told.
API = "/api/2.0/mlflow/experiments/search"
SECONDS = 60  # for one request: a cold start is in it


class SmokeError(Exception):
    """The service does not do what it must; the message says which part, what came, and what to look at."""


def run(
    url: str,
    public_url: str,
    token: str,
    environ: Mapping[str, str],
    redactor: Redactor,
    told: Callable[[str], object] = str,
) -> None:
    """Test the service at `url`, which calls itself `public_url` (they differ for a tagged revision).

    Raises SmokeError.
    """
    redactor.know(token)
    parts: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("strangers get 401", partial(_strangers, url, environ)),
        ("a browser is sent to sign in", partial(_browser, url, public_url, environ)),
        ("curl with a token gets in", partial(_curl, url, token, environ)),
        ("the SDK logs a run with an artifact", partial(_sdk, url, token, environ)),
    )
    for name, part in parts:
        try:
            note = part()
        except SmokeError as error:
            raise SmokeError(redactor.clean(f"smoke test of {url}: {name}: no: {error}")) from None
        told(f"  ✓ {name}" + (f" ({note})" if note else ""))


def ask(url: str, environ: Mapping[str, str], *headers: str) -> tuple[int, dict[str, str], str]:
    """GET with curl, no redirect followed: (status, headers in lower case, body).

    The headers to send go in on standard input.
    """
    command = (
        "curl", "--silent", "--show-error", "--max-time", str(SECONDS), "--header", "@-", "--include", "--http1.1",
        "--suppress-connect-headers", url,
    )  # fmt: skip
    try:
        done = subprocess.run(
            command,
            input="\n".join(headers) + "\n",
            capture_output=True,
            text=True,
            env=dict(environ),
            timeout=SECONDS + 10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise SmokeError(f"curl: {error.__class__.__name__}") from error
    if done.returncode:
        raise SmokeError(f"{done.stderr.strip()} (curl's exit code {done.returncode})")
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    lines = head.splitlines()
    fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), fields, body


def _strangers(url: str, environ: Mapping[str, str]) -> None:
    for what, headers in (
        ("no token", ()),
        ("a forged identity", ("X-Forwarded-Email: admin@example.com", "X-Forwarded-User: admin")),
        (
            "a token that nobody signed",
            ("Authorization: Bearer eyJhbGciOiJub25lIn0.eyJlbWFpbCI6ImFAYi5jIn0.",),
        ),
    ):
        status, _, body = ask(f"{url}{API}?max_results=1", environ, *headers)
        if status != 401:
            raise SmokeError(f"{what} got {status} instead of 401: {body[:200]!r}")


def _browser(url: str, public_url: str, environ: Mapping[str, str]) -> None:
    status, fields, body = ask(
        f"{url}/", environ, "Accept: text/html,application/xhtml+xml", "Sec-Fetch-Mode: navigate"
    )
    location = fields.get("location", "")
    if status not in {302, 303, 307} or not location:
        raise SmokeError(f"got {status} instead of a redirect to the identity provider: {body[:200]!r}")
    query = parse_qs(urlsplit(location).query)
    back = query.get("redirect_uri", [""])[0]
    if not back.startswith(public_url + "/"):
        raise SmokeError(
            f"the identity provider would send people back to {back or '(nowhere)'}, not to "
            f"{public_url}/oauth2/callback"
        )


def _curl(url: str, token: str, environ: Mapping[str, str]) -> None:
    status, _, body = ask(f"{url}{API}?max_results=1", environ, f"Authorization: Bearer {token}")
    if status != 200:
        hint = {
            401: "the token is not taken: is its audience one of OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES? (doctor shows it)",
            403: "the account may not come in: oauth/email_domains or the access policy leaves it out",
        }.get(status, "look at the logs (python -m deploy logs)")
        raise SmokeError(f"got {status}: {body[:300]!r}\n{hint}")
    try:
        json.loads(body)
    except ValueError as error:
        raise SmokeError(f"got 200, but no JSON: {body[:200]!r}") from error


def _sdk(url: str, token: str, environ: Mapping[str, str]) -> str:
    kept = {key: value for key, value in environ.items() if not key.startswith("MLFLOW_")}
    settings = {
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")])),
    }
    try:
        done = subprocess.run(
            (sys.executable, "-m", "deploy.smoke_sdk"),
            capture_output=True,
            text=True,
            env=kept | settings,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SmokeError("not done within 300 s") from error
    if done.returncode:
        raise SmokeError("\n".join(done.stderr.strip().splitlines()[-6:]))
    return done.stdout.strip()
