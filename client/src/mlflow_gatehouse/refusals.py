"""What an answer that isn't MLflow's means, in words and with the command that helps.

An MLflow client takes a login page that answers 200 for a success (an artifact "logged" and lost), and shows
a 401 as ``INTERNAL_ERROR: Response: {}``. Here each of these becomes an error of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import requests

from mlflow_gatehouse.errors import ClientError, Intercepted, Refused
from mlflow_gatehouse.identity_token import IdentityToken
from mlflow_gatehouse.server import Server, origin_of
from mlflow_gatehouse.sources import objection, remedy

SKEW = 60.0  # seconds by which a clock may be wrong before it is worth a word
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def skew_of(response: requests.Response, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds by which this machine's clock is ahead of the server's; None if the server doesn't say."""
    try:
        return clock() - parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def _is_page(response: requests.Response) -> bool:
    """True for a page meant for a browser.

    MLflow marks an artifact that is one as an attachment, and calls its version number text/html.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "text/html" or "attachment" in response.headers.get("Content-Disposition", "").lower():
        return False
    return response.text.lstrip().startswith("<")


def _is_of_mlflow(response: requests.Response) -> bool:
    """True if the answer explains itself as MLflow does: JSON with an error code or a message."""
    if "json" not in response.headers.get("Content-Type", ""):
        return False
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and bool(body.get("error_code") or body.get("message"))


def problem_of(
    response: requests.Response,
    token: IdentityToken | None,
    server: Server,
    clock: Callable[[], float] = time.time,
) -> ClientError | None:
    """Return the error that an answer amounts to, or None if it is MLflow's own and MLflow's to understand.

    Args:
        response: the answer, after the one retry that a 401 gets.
        token: what was sent with the request; None if the address isn't a tracking server's.
        server: whom the token is for.
        clock: now, in seconds since the epoch.
    """
    status = response.status_code
    if status in REDIRECTS:
        return _redirect(response, token, server)
    if status == 407:
        return Intercepted("a proxy on the way wants a sign-in of its own", "set HTTPS_PROXY=http://USER:PASSWORD@HOST")
    if response.headers.get("X-Goog-IAP-Generated-Response") and status in {401, 403}:
        return Intercepted(
            f"Identity-Aware Proxy in front of {server.origin} refused the request (HTTP {status})",
            "export GATEHOUSE_AUDIENCE=<the OAuth client id of that IAP>",
        )
    if token is None:
        return _without_token(response, server) if status in {401, 403} else None
    # The gate names the rule; what this side knows of the token says what to do about it.
    by_the_gate = 'realm="gatehouse", error=' in response.headers.get("WWW-Authenticate", "")
    mlflows_own = _is_of_mlflow(response) and not by_the_gate
    if status == 401:
        return None if mlflows_own else _unauthenticated(response, token, server, clock)
    if status == 403:
        return None if mlflows_own else _forbidden(response, token, server)
    if status < 400 and _is_page(response):
        return Intercepted(
            f"{_place(response)} answered with a web page where MLflow answers with data; nothing was stored",
            "check that MLFLOW_TRACKING_URI is the tracking server's address, and what stands in between: "
            "mlflow-gatehouse doctor",
        )
    return None


def _place(response: requests.Response) -> str:
    """The address of an answer, without its query."""
    parts = urlsplit(response.url)
    return f"{origin_of(response.url)}{parts.path}"


def _redirect(response: requests.Response, token: IdentityToken | None, server: Server) -> ClientError | None:
    target = urljoin(response.url, response.headers.get("Location", ""))
    same = origin_of(target) == origin_of(response.url)
    if token is None:
        return None
    if same and response.status_code in {307, 308} and not urlsplit(target).path.startswith("/oauth2/"):
        return None  # MLflow's own: a slash too many or too few; method, body and token stay
    if target.startswith(server.origin.replace("http://", "https://", 1) + "/") and not same:
        return Intercepted(
            f"{server.origin} moved to https",
            f"export MLFLOW_TRACKING_URI={server.origin.replace('http', 'https', 1)}",
        )
    where = origin_of(target) or "another page"
    return Intercepted(
        f"{_place(response)} wants a sign-in at {where} (HTTP {response.status_code}); nothing was stored",
        "this address is for browsers, or the server takes no bearer tokens: mlflow-gatehouse doctor",
    )


def _without_token(response: requests.Response, server: Server) -> ClientError:
    return Refused(
        f"{_place(response)} refused the request (HTTP {response.status_code}); no token was sent, because "
        f"{server.origin} isn't the tracking server",
        f"if you trust it with your identity: export GATEHOUSE_SERVERS={server.origin}",
    )


def _unauthenticated(
    response: requests.Response, token: IdentityToken, server: Server, clock: Callable[[], float]
) -> ClientError:
    skew = skew_of(response, clock)
    server_now = clock() - (skew or 0.0)
    who = f"{server.origin} doesn't take the token from {token.source}"
    ends = token.claims.get("exp")
    if isinstance(ends, int | float) and ends <= server_now:
        problem = f"it ended {server_now - ends:.0f} s ago"
        return Refused(f"{who}: {problem}", remedy(problem, token, server))
    if skew is not None and abs(skew) > SKEW:
        direction = "ahead of" if skew > 0 else "behind"
        return Intercepted(
            f"{who}, and this machine's clock is {abs(skew):.0f} s {direction} the server's",
            "set the clock (timedatectl set-ntp true), then try again",
        )
    problem = objection(token, server, server_now) or ""
    if problem:
        return Refused(f"{who}: {problem}", remedy(problem, token, server))
    issuer, audience = token.claims.get("iss", "unknown"), ", ".join(token.audiences) or "none"
    said = f": {response.json().get('message', '')}" if _is_of_mlflow(response) else ""
    return Refused(
        f"{who} (issuer {issuer}, audience {audience}){said}",
        "mlflow-gatehouse token --explain shows where it comes from; the server must be set to take such tokens",
    )


def _forbidden(response: requests.Response, token: IdentityToken, server: Server) -> ClientError:
    if "Your client does not have permission" in response.text[:4000]:
        return Intercepted(
            f"Cloud Run itself refused the request before {server.origin} saw it",
            "deploy the service with --no-invoker-iam-check: the gate is what asks who comes in",
        )
    return Refused(
        f"{server.origin} knows {token.email or token.claims.get('sub')}, and doesn't let this identity in",
        "ask who runs the server to let it in, or use another: mlflow-gatehouse token --explain",
    )
