"""``mlflow-gatehouse token``: print an identity token, for curl and whatever else takes a bearer token."""

from __future__ import annotations

import time

from mlflow_gatehouse import sources
from mlflow_gatehouse.commands import chosen_origin, parser, run, say
from mlflow_gatehouse.errors import NoIdentity
from mlflow_gatehouse.identity import IdentityToken
from mlflow_gatehouse.server import Server, discover


def main(argv: list[str]) -> int:
    """Print the token alone, or with ``--explain`` all but the token."""
    options = parser("token", 'Print an identity token: curl -H "Authorization: Bearer $(mlflow-gatehouse token)" …')
    options.add_argument(
        "--explain",
        action="store_true",
        help="show which source is used and why the others aren't, and no token",
    )
    arguments = options.parse_args(argv)

    def action() -> int:
        server = discover(chosen_origin(arguments.server))
        if arguments.explain:
            return _explain(server)
        token, _, _ = sources.first_token(server, time.time)
        print(token.value)
        return 0

    return run("token", action)


def _explain(server: Server) -> int:
    candidates = sources.chosen()
    try:
        token, used, tried = sources.first_token(server, time.time, candidates)
    except NoIdentity as error:
        say(str(error))
        return error.exit_code
    outcomes = {item.source.name: item.outcome for item in tried}
    print(f"server    {server.origin}" + ("" if server.about else "  (it doesn't describe itself)"))
    print(f"audience  {server.audience}  (asked for, where a source lets one ask)")
    for source in sources.SOURCES:
        outcome = outcomes.get(source.name)
        if outcome is None:
            outcome = (
                f"not asked: {used.name} came first" if source in candidates else "not asked: not among the chosen"
            )
        print(f"{'→' if source is used else ' '} {source.name:<14} {outcome}")
    print(describe(token, time.time()))
    return 0


def describe(token: IdentityToken, now: float) -> str:
    """The token in words, for a person."""
    if not token.claims:
        return "token     opaque: nothing can be told of it"
    lines = [
        f"identity  {token.email or '(no e-mail)'}",
        f"issuer    {token.claims.get('iss', '(none)')}",
        f"for       {', '.join(token.audiences) or '(none)'}",
    ]
    if token.living(now) and token.ends_at != float("inf"):
        lines.append(f"ends in   {(token.ends_at - now) / 60:.0f} min")
    return "\n".join(lines)
