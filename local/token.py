"""`make token`: an identity token of the local provider, the counterpart of `gcloud auth print-identity-token`.

It signs in as a browser would: authorization code with PKCE, then the token endpoint.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import secrets
import sys
from urllib.parse import parse_qs, urlsplit

import requests

from local.provider import PEOPLE, email
from local.run import CLIENT_ID, STATE, data_folder

TIMEOUT_S = 10


def identity_token(issuer: str, client_id: str, subject: str, *, scope: str = "openid email profile") -> str:
    """Return an identity token of ``subject`` (here an e-mail address) for the audience ``client_id``.

    Raises:
        requests.RequestException: if the provider doesn't answer, or refuses.
    """
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    redirect_uri = "http://localhost/callback"
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": secrets.token_urlsafe(16),
        "nonce": secrets.token_urlsafe(16),
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    answer = requests.post(
        f"{issuer}/oauth2/authorize",
        params=query,
        data={"sub": subject},
        allow_redirects=False,
        timeout=TIMEOUT_S,
    )
    answer.raise_for_status()
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": client_id,
        "client_secret": "local",
        "code_verifier": verifier,
    }
    answer = requests.post(f"{issuer}/oauth2/token", data=form, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return str(answer.json()["id_token"])


def main() -> int:
    """Print a token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("person", nargs="?", default="alice", help=f"one of {', '.join(PEOPLE)}, or an e-mail address")
    parser.add_argument(
        "--issuer", help="the provider's address, for a gate that `make run` didn't start (compose.yaml)"
    )
    arguments = parser.parse_args()
    try:
        given = {"issuer": arguments.issuer, "client_id": CLIENT_ID}
        state = given if arguments.issuer else json.loads((data_folder() / STATE).read_text())
    except OSError:
        print(
            "make token: error: the local gate isn't running\n    fix: make run, in another terminal",
            file=sys.stderr,
        )
        return 69
    try:
        print(identity_token(state["issuer"], state["client_id"], email(arguments.person)))
    except requests.RequestException as error:
        print(
            f"make token: error: the local provider doesn't answer: {error}\n    fix: make run again",
            file=sys.stderr,
        )
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
