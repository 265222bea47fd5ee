"""The local OpenID provider: three people, one click each. For a laptop and for tests; it asks for no password.

``python -m local.provider --port 4181`` serves on loopback and prints its issuer when it is ready.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from datetime import timedelta

#: The local people. Their roles stand in local/access.yaml.
PEOPLE = {"alice": "Alice", "bob": "Bob", "carol": "Carol"}
DOMAIN = "example.com"
TOKEN_LIFE_S = 3600


def email(person: str) -> str:
    """Return the e-mail address of a local person, given with or without the domain."""
    return person if "@" in person else f"{person}@{DOMAIN}"


def serve(host: str, port: int, token_life_s: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    # Plain http is right on loopback only, and this server listens on nothing else outside compose.yaml.
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    # Authlib shows its deprecations always, from its import on; they concern nobody here.
    import authlib.deprecate  # noqa: F401

    warnings.filterwarnings("ignore")
    import oidc_provider_mock
    import werkzeug.serving

    people = [
        oidc_provider_mock.User(
            sub=email(person), claims={"email": email(person), "email_verified": True, "name": name}
        )
        for person, name in PEOPLE.items()
    ]
    app = oidc_provider_mock.app(user_claims=people, access_token_max_age=timedelta(seconds=token_life_s))
    # The package wraps itself in Werkzeug's debugger, which has no place next to a sign-in page.
    app.debug = False
    app.wsgi_app = app.wsgi_app.app
    server = werkzeug.serving.make_server(host, port, app, threaded=True, request_handler=quiet_handler())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"http://localhost:{server.port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def quiet_handler() -> type:
    """Return a request handler that logs nothing."""
    from werkzeug.serving import WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object, **__: object) -> None:
            """Log nothing: addresses hold one-time codes."""

    return Quiet


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--token-life", type=int, default=TOKEN_LIFE_S, metavar="SECONDS")
    arguments = parser.parse_args()
    serve(arguments.host, arguments.port, arguments.token_life)


if __name__ == "__main__":
    main()
