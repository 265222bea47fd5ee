"""``mlflow-gatehouse login``: sign in at the server's OpenID provider, once, for this machine."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from mlflow_gatehouse import oidc, pins, sign_ins
from mlflow_gatehouse.commands import agreed, chosen_origin, parser, run, say
from mlflow_gatehouse.errors import ConfigurationError
from mlflow_gatehouse.identity_token import IdentityToken
from mlflow_gatehouse.server import discover


def main(argv: list[str]) -> int:
    """Sign in and keep the result; training scripts then renew it by themselves."""
    options = parser("login", "Sign in to a tracking server with the company's account.")
    way = options.add_mutually_exclusive_group()
    way.add_argument("--device", action="store_true", help="show a code to type on another device")
    way.add_argument("--browser", action="store_true", help="sign in in a browser of this machine")
    options.add_argument("--issuer", help="the OpenID provider, if the server doesn't say or isn't to be believed")
    options.add_argument("--client-id", help="the provider's client for the command line, likewise")
    options.add_argument("--client-secret-file", type=Path, help="what Google calls the secret of a desktop client")
    options.add_argument("--scope", help="what to ask the provider for (openid email profile offline_access)")
    options.add_argument("--port", type=int, default=0, help="the loopback port, if the provider wants it registered")
    options.add_argument("--redirect-host", choices=["127.0.0.1", "localhost"], default="127.0.0.1")
    arguments = options.parse_args(argv)

    def action() -> int:
        origin = chosen_origin(arguments.server)
        server = discover(origin)
        issuer, client_id = arguments.issuer or server.issuer, arguments.client_id or server.client_id
        if not issuer or not client_id:
            raise ConfigurationError(
                f"{origin} doesn't say at which provider and as which client to sign in",
                "mlflow-gatehouse login --issuer https://… --client-id …, or set LOGIN_CLIENT_ID at the server",
            )
        with sign_ins.locked(origin):
            pass  # what can't be kept is said before anybody signs in
        if not arguments.client_id:
            _look(origin, issuer, client_id)
        client = oidc.Client(client_id, _secret(arguments.client_secret_file))
        provider = oidc.Provider.discover(issuer)
        say(f"Signing in to {origin} at {issuer} as its client {client_id}.")
        scope = arguments.scope or server.scope
        if arguments.device or (not arguments.browser and _headless() and provider.endpoint(DEVICE)):
            tokens = oidc.sign_in_by_device(provider, client, scope, show=_show_code)
        else:
            tokens = oidc.sign_in_by_browser(
                provider, client, scope, show=_open, port=arguments.port, host=arguments.redirect_host
            )
        place = oidc.keep(origin, provider, client, tokens)
        pins.remember(origin, issuer, client_id)
        token = IdentityToken.parse(str(tokens["id_token"]), "login")
        say(f"Signed in as {token.email or token.claims.get('sub')}; kept in {place}.")
        if not tokens.get("refresh_token"):
            say(
                "The provider gave no refresh token: this sign-in ends with its first token. "
                "Let the client have the scope offline_access."
            )
        if server.audiences and not server.audiences.intersection(token.audiences):
            say(
                f"Warning: the token is for {', '.join(token.audiences)}, which {origin} doesn't take. "
                f"Whoever runs it must add that audience."
            )
        return 0

    return run("login", action)


def _look(origin: str, issuer: str, client_id: str) -> None:
    """Have a person decide on a client that a server has no business to name, as far as this machine knows.

    Raises:
        ConfigurationError: declined, or nobody there to ask.
    """
    doubt = pins.doubt(origin, issuer, client_id)
    if doubt is None:
        return
    say(f"Look twice: {doubt}.")
    if not agreed("Does whoever runs it say that this is right? Sign in?"):
        raise ConfigurationError(
            f"not signed in: {doubt}",
            f"if that is right: mlflow-gatehouse login {origin} --issuer {issuer} --client-id {client_id}",
        )


DEVICE = "device_authorization_endpoint"


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"--client-secret-file: {path}: {error.strerror}", "correct the path") from None


def _headless() -> bool:
    """True where no browser can show up: over ssh, or without a display."""
    if os.environ.get("SSH_CONNECTION"):
        return True
    return sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    say("Sign in in the browser. If none opens, go to:", f"  {address}")
    if not _headless() or os.environ.get("BROWSER"):
        webbrowser.open(address)


def _show_code(address: str, code: str, complete: str | None) -> None:
    say(f"On any device, go to {address} and type the code {code}")
    if complete:
        say(f"or go to {complete}")
