"""``mlflow-gatehouse logout``: forget the sign-in for a server, here and at the provider."""

from __future__ import annotations

from mlflow_gatehouse import oidc
from mlflow_gatehouse.commands import chosen_origin, parser, run, say


def main(argv: list[str]) -> int:
    """Forget; it is no error if there was nothing to forget."""
    arguments = parser("logout", "Forget the sign-in for a server, and revoke it at the provider.").parse_args(argv)

    def action() -> int:
        origin = chosen_origin(arguments.server)
        found, left = oidc.forget(origin)
        say(f"Signed out of {origin}." if found else f"Nobody was signed in to {origin}.")
        if left:
            say(left)
        return 0

    return run("logout", action)
