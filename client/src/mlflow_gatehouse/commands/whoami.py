"""``mlflow-gatehouse whoami``: as whom this machine comes, by its token and by the server's word."""

from __future__ import annotations

import time

import requests

from mlflow_gatehouse import sources
from mlflow_gatehouse.auth import GatehouseAuth
from mlflow_gatehouse.commands import chosen_origin, parser, run
from mlflow_gatehouse.commands.token import describe
from mlflow_gatehouse.errors import Unreachable
from mlflow_gatehouse.keeper import keeper_of
from mlflow_gatehouse.server import TIMEOUT


def main(argv: list[str]) -> int:
    """Print the identity; end with a non-zero code if the server doesn't know it."""
    arguments = parser("whoami", "Show the identity with which this machine comes to the server.").parse_args(argv)

    def action() -> int:
        origin = chosen_origin(arguments.server)
        token = keeper_of(origin).current()
        source = next(source for source in sources.SOURCES if source.name == token.source)
        print(f"{describe(token, time.time())}\nsource    {source.summary}")
        print(f"server    {origin} knows you as {seen_as(origin)}")
        return 0

    return run("whoami", action)


def seen_as(origin: str) -> str:
    """Ask the gate whom it sees (oauth2-proxy's ``/oauth2/userinfo``).

    Raises:
        ClientError: it sees nobody, or doesn't let this identity in, or gave no answer.
    """
    try:
        with requests.Session() as session:
            session.auth = GatehouseAuth(frozenset({origin}))
            session.headers["Accept"] = "application/json"
            # The proxy's own page answers 401 also to an identity that it knows and doesn't let in.
            session.get(f"{origin}/version", timeout=TIMEOUT)
            answer = session.get(f"{origin}/oauth2/userinfo", timeout=TIMEOUT)
    except requests.RequestException as error:
        raise Unreachable(f"no answer from {origin}: {error}", "check the network and HTTPS_PROXY") from None
    try:
        seen = answer.json()
        return str(seen.get("email") or seen.get("user") or "nobody")
    except (ValueError, AttributeError):
        return f"nobody: HTTP {answer.status_code}"
