"""Signing in at an OpenID provider: by browser (RFC 8252 with PKCE) or by device code (RFC 8628).

The identity token comes straight from the provider's token endpoint over TLS, which OpenID Connect Core
3.1.3.7 accepts in place of checking its signature; issuer, audience, nonce and life are checked here, all
else at the server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from mlflow_gatehouse import sign_ins
from mlflow_gatehouse.errors import ClientError, ConfigurationError, NoIdentity, Unreachable
from mlflow_gatehouse.identity_token import IdentityToken, claims_of
from mlflow_gatehouse.server import TIMEOUT, is_loopback

SIGN_IN_TIMEOUT = 300.0  # seconds that a person has in the browser
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
GOOGLE = "https://accounts.google.com"


class SignInFailed(ClientError):
    """The provider, or the person, said no."""

    exit_code = NoIdentity.exit_code


def _require_private_endpoint(name: str, url: str) -> None:
    if urlsplit(url).scheme != "https" and not (urlsplit(url).scheme == "http" and is_loopback(url)):
        raise ConfigurationError(f"the provider's {name} isn't https: {url}", "use a provider that is reached by https")


def _call(method: str, url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """One request to the provider; return the status and the JSON object. Redirects are not followed."""
    try:
        with requests.Session() as session:
            session.auth = lambda request: request  # else ~/.netrc would be asked
            answer = session.request(
                method,
                url,
                timeout=TIMEOUT,
                allow_redirects=False,
                headers={"Accept": "application/json"},
                **options,
            )
    except requests.RequestException as error:
        raise Unreachable(
            f"no answer from {url}: {type(error).__name__}", "check the network and HTTPS_PROXY"
        ) from None
    try:
        body = answer.json()
    except ValueError:
        body = {}
    return answer.status_code, body if isinstance(body, dict) else {}


@dataclass(frozen=True)
class Provider:
    """An OpenID provider's metadata (OpenID Connect Discovery 1.0)."""

    issuer: str
    metadata: Mapping[str, Any]

    @classmethod
    def discover(cls, issuer: str) -> Provider:
        """Read the provider's metadata.

        Raises:
            ConfigurationError: it isn't a provider, or not this issuer, or has an endpoint in the clear.
            Unreachable: no answer.
        """
        _require_private_endpoint("address", issuer)
        status, metadata = _call("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
        if status != 200 or metadata.get("issuer") != issuer:
            raise ConfigurationError(
                f"{issuer} doesn't describe itself as an OpenID provider of that name (HTTP {status})",
                "check the issuer: it must be letter for letter what the provider says",
            )
        for name, value in metadata.items():
            if name.endswith("_endpoint"):
                _require_private_endpoint(name, str(value))
        return cls(issuer, metadata)

    def endpoint(self, name: str) -> str | None:
        """The address of an endpoint such as ``token_endpoint``, or None."""
        value = self.metadata.get(name)
        return value if isinstance(value, str) else None

    def require(self, name: str) -> str:
        """The address of an endpoint that there must be."""
        value = self.endpoint(name)
        if value is None:
            raise ConfigurationError(f"{self.issuer} has no {name}", "use a provider that has one")
        return value

    def scope(self, wanted: str) -> str:
        """Of the wanted scopes, those that the provider knows, if it lists them."""
        known = self.metadata.get("scopes_supported")
        if not isinstance(known, list):
            return wanted
        return " ".join(scope for scope in wanted.split() if scope in known or scope != "offline_access")


@dataclass(frozen=True)
class Client:
    """The command line's registration at the provider."""

    id: str
    secret: str | None = None  # Google's desktop clients have one, which isn't treated as a secret

    def credentials(self) -> dict[str, str]:
        """What identifies the client at the token endpoint."""
        return {"client_id": self.id} | ({"client_secret": self.secret} if self.secret else {})


# --- by browser ------------------------------------------------------------------------------------------

PAGE = (
    "<!doctype html><meta charset=utf-8><title>Gatehouse</title>"
    "<style>body{font:1.1rem system-ui;margin:20vh auto;max-width:30rem;text-align:center}</style>"
    "<h1>%s</h1><p>%s</p>"
)


class _Callback(http.server.BaseHTTPRequestHandler):
    """Takes the provider's redirect. What lacks the right ``state`` is turned away; the wait goes on."""

    server: _CallbackServer
    timeout = 10  # browsers open connections ahead of need and leave them idle

    def do_GET(self) -> None:
        """Answer one request."""
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        if parts.path != "/callback" or not hmac.compare_digest(
            query.get("state", "").encode(), self.server.state.encode()
        ):
            self._answer(404, "Not found", "This isn't the sign-in that was begun here.")
        elif "code" in query:
            self._answer(200, "Signed in", "You can close this window and return to the terminal.")
            self.server.answers.put(query)
        else:
            self._answer(200, "Not signed in", "The terminal says why.")
            self.server.answers.put(query)

    def _answer(self, status: int, title: str, text: str) -> None:
        body = (PAGE % (title, text)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the request line holds the code."""


class _CallbackServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, state: str) -> None:
        self.state = state
        self.answers: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        super().__init__(("127.0.0.1", port), _Callback)


def _proof_key() -> tuple[str, dict[str, str]]:
    """Return a verifier and the challenge made of it (RFC 7636): who has seen the code alone can't have the tokens."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return verifier, {"code_challenge": challenge, "code_challenge_method": "S256"}


def sign_in_by_browser(
    provider: Provider,
    client: Client,
    scope: str,
    *,
    show: Callable[[str], object],
    port: int = 0,
    host: str = "127.0.0.1",
    timeout: float = SIGN_IN_TIMEOUT,
) -> dict[str, Any]:
    """Sign in with the authorization code flow and PKCE, on a loopback address; return the token response.

    Args:
        show: gets the address at which the person signs in.
        port: the loopback port, for a provider that wants it registered; 0 takes a free one.
        host: how the loopback address is spelt in the redirect, ``127.0.0.1`` or ``localhost``.
        timeout: seconds to wait for the person.

    Raises:
        SignInFailed: refused, or nobody came back in time.
    """
    verifier, challenge = _proof_key()
    state, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(48)
    token_endpoint = provider.require("token_endpoint")
    authorization_endpoint = provider.require("authorization_endpoint")
    try:
        listener = _CallbackServer(port, state)
    except OSError as error:
        raise ConfigurationError(f"port {port} isn't free: {error.strerror}", "name another with --port") from None
    with listener:
        redirect_uri = f"http://{host}:{listener.server_port}/callback"
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": redirect_uri,
            "scope": provider.scope(scope),
            "state": state,
            "nonce": nonce,
            **challenge,
        }
        if provider.issuer == GOOGLE:
            query |= {"access_type": "offline", "prompt": "consent"}  # how Google grants a refresh token
        elif "offline_access" in query["scope"]:
            query["prompt"] = "consent"  # OpenID Connect Core 11
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        try:
            joint = "&" if "?" in authorization_endpoint else "?"
            show(authorization_endpoint + joint + urlencode(query))
            answer = listener.answers.get(timeout=timeout)
        except queue.Empty:
            raise SignInFailed(
                f"nobody signed in within {timeout / 60:.0f} minutes",
                "try again, or --device on a machine without a browser",
            ) from None
        finally:
            listener.shutdown()
    if "code" not in answer:
        raise SignInFailed(f"{provider.issuer} said: {_said(answer)}", "ask who runs the provider to let you in")
    if answer.get("iss", provider.issuer) != provider.issuer:  # RFC 9207: another provider's code
        raise SignInFailed(f"the answer came from {answer['iss']}, not {provider.issuer}", "try again")
    status, tokens = _call(
        "POST",
        token_endpoint,
        data=client.credentials()
        | {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        },
    )
    return _checked(provider, client, status, tokens, nonce)


# --- by device code --------------------------------------------------------------------------------------


def sign_in_by_device(
    provider: Provider,
    client: Client,
    scope: str,
    *,
    show: Callable[[str, str, str | None], object],
    wait: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Sign in on another device; return the token response.

    Args:
        show: gets the address, the code to type there, and an address that holds the code already (or None).
        wait: sleeps so many seconds between two questions to the provider.

    Raises:
        SignInFailed: refused, or the code ran out.
    """
    endpoint = provider.endpoint("device_authorization_endpoint")
    if endpoint is None:
        raise ConfigurationError(
            f"{provider.issuer} offers no device code",
            "sign in on a machine with a browser, without --device",
        )
    token_endpoint = provider.require("token_endpoint")
    verifier, challenge = _proof_key()  # Keycloak refuses a client without, where it is asked for
    status, begun = _call("POST", endpoint, data=client.credentials() | {"scope": provider.scope(scope)} | challenge)
    try:
        device_code, user_code = str(begun["device_code"]), str(begun["user_code"])
        address = str(begun.get("verification_uri") or begun["verification_url"])  # Google spells it so
        ends = time.monotonic() + float(begun["expires_in"])
        interval = float(begun.get("interval", 5))
    except (KeyError, TypeError, ValueError):
        raise SignInFailed(
            f"{provider.issuer} refused a device code (HTTP {status}): {_said(begun)}",
            f"if that doesn't say what to mend: let the client {client.id} use the device code grant",
        ) from None
    complete = begun.get("verification_uri_complete")
    show(address, user_code, str(complete) if complete else None)
    while time.monotonic() < ends:
        wait(interval)
        status, tokens = _call(
            "POST",
            token_endpoint,
            data=client.credentials()
            | {"grant_type": DEVICE_GRANT, "device_code": device_code, "code_verifier": verifier},
        )
        error = tokens.get("error")
        if error == "slow_down":
            interval += 5  # RFC 8628, 3.5
        elif error != "authorization_pending":
            return _checked(provider, client, status, tokens, None)
    raise SignInFailed("the device code expired before anybody signed in", "mlflow-gatehouse login --device")


# --- tokens ----------------------------------------------------------------------------------------------


def _said(answer: Mapping[str, Any]) -> str:
    """An OAuth error in words (RFC 6749, 5.2), of harmless length and without line breaks."""
    said = " ".join(str(answer.get(name, "")) for name in ("error", "error_description"))
    return " ".join(said.split())[:300] or "nothing that explains it"


def _checked(
    provider: Provider, client: Client, status: int, tokens: dict[str, Any], nonce: str | None
) -> dict[str, Any]:
    """Check a token response (OpenID Connect Core 3.1.3.7)."""
    if status != 200:
        fix = "mlflow-gatehouse login"
        if tokens.get("error") == "invalid_client":
            fix = f"register {client.id} as a public client (no secret), or give --client-secret-file"
        raise SignInFailed(f"{provider.issuer} refused (HTTP {status}): {_said(tokens)}", fix)
    identity = tokens.get("id_token")
    claims = claims_of(identity) if isinstance(identity, str) else {}
    audience = claims.get("aud")
    if not claims:
        raise SignInFailed(f"{provider.issuer} gave no identity token", "make sure that the scope openid is granted")
    if claims.get("iss") != provider.issuer:
        raise SignInFailed(f"the identity token is of {claims.get('iss')}, not {provider.issuer}", "try again")
    if client.id not in (audience if isinstance(audience, list) else [audience]):
        raise SignInFailed(f"the identity token is for {audience}, not {client.id}", "check --client-id")
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise SignInFailed("the identity token belongs to another sign-in (nonce)", "try again")
    return tokens


def keep(origin: str, provider: Provider, client: Client, tokens: Mapping[str, Any]) -> str:
    """Keep the result of a sign-in for a server; return where, in words."""
    with sign_ins.locked(origin):
        return sign_ins.save(
            origin,
            {
                "issuer": provider.issuer,
                "client_id": client.id,
                "client_secret": client.secret,
                "token_endpoint": provider.require("token_endpoint"),
                "revocation_endpoint": provider.endpoint("revocation_endpoint"),
                "id_token": tokens["id_token"],
                "refresh_token": tokens.get("refresh_token"),
            },
        )


def living_token(origin: str, refused: str | None = None) -> str:
    """Return an identity token of the sign-in kept for a server, renewed if it is due or was ``refused``.

    Raises:
        SignInFailed: the sign-in has ended, or there was none.
    """
    with sign_ins.locked(origin):
        record = sign_ins.load(origin)
        if record is None:
            raise SignInFailed("nobody has signed in", f"mlflow-gatehouse login {origin}")
        identity = str(record["id_token"])
        if identity != refused and IdentityToken.parse(identity, "login", minted=False).fresh(time.time()):
            return identity
        if not record.get("refresh_token"):
            raise SignInFailed(
                f"the sign-in at {record['issuer']} has ended, and it gave no refresh token",
                f"mlflow-gatehouse login {origin}",
            )
        client = Client(record["client_id"], record.get("client_secret"))
        status, tokens = _call(
            "POST",
            record["token_endpoint"],
            data=client.credentials() | {"grant_type": "refresh_token", "refresh_token": record["refresh_token"]},
        )
        if status >= 500:
            raise Unreachable(f"{record['issuer']} is out of order (HTTP {status})", "try again later")
        try:
            tokens = _checked(Provider(record["issuer"], {}), client, status, tokens, None)
        except SignInFailed as error:
            raise SignInFailed(
                f"the sign-in can't be renewed: {error.problem}", f"sign in anew: mlflow-gatehouse login {origin}"
            ) from None
        if claims_of(tokens["id_token"]).get("sub") != claims_of(identity).get("sub"):
            raise SignInFailed("the renewed token is somebody else's", f"sign in anew: mlflow-gatehouse login {origin}")
        record["id_token"] = tokens["id_token"]
        record["refresh_token"] = tokens.get("refresh_token") or record["refresh_token"]
        sign_ins.save(origin, record)
        return str(tokens["id_token"])


def forget(origin: str) -> tuple[bool, str]:
    """Forget the sign-in for a server, and revoke it at the provider (RFC 7009).

    Return if there was one, and what is left of it.

    Raises:
        Unreachable: it is forgotten here, and the provider hasn't revoked it.
    """
    if not sign_ins.exists(origin):
        return False, ""
    with sign_ins.locked(origin):
        try:
            record = sign_ins.load(origin) or {}
        except ConfigurationError:
            record = {}  # damaged, or read by others: it goes all the same
        found = sign_ins.delete(origin)
    if not record.get("refresh_token"):
        return found, ""
    issuer = record["issuer"]
    fix = f"end the session on your account's page at {issuer}, or ask who runs it to"
    if not record.get("revocation_endpoint"):
        return found, f"{issuer} has no way to revoke a sign-in: there it ends by itself, or {fix}."
    client = Client(record["client_id"], record.get("client_secret"))
    form = client.credentials() | {"token": record["refresh_token"], "token_type_hint": "refresh_token"}
    try:
        status, said = _call("POST", record["revocation_endpoint"], data=form)
    except Unreachable as error:
        raise Unreachable(f"forgotten here, and not revoked: {error.problem}", fix) from None
    if status != 200:
        raise Unreachable(f"forgotten here, and {issuer} didn't revoke it (HTTP {status}): {_said(said)}", fix)
    return found, ""
