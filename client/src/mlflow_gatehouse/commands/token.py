"""``mlflow-gatehouse token``: print an identity token, for curl and whatever else takes a bearer token."""

from __future__ import annotations

import time
from pathlib import Path

from mlflow_gatehouse import sources
from mlflow_gatehouse.commands import chosen_origin, parser, run, say
from mlflow_gatehouse.errors import ClientError, ConfigurationError, NoIdentity
from mlflow_gatehouse.identity_token import IdentityToken
from mlflow_gatehouse.keeper import keeper_of
from mlflow_gatehouse.server import Server, discover
from mlflow_gatehouse.sign_ins import write_private


def main(argv: list[str]) -> int:
    """Print the token alone, or with ``--explain`` all but the token."""
    options = parser("token", 'Print an identity token: curl -H "Authorization: Bearer $(mlflow-gatehouse token)" …')
    options.add_argument(
        "--explain",
        action="store_true",
        help="show which source is used and why the others aren't, and no token",
    )
    options.add_argument(
        "--watch",
        type=Path,
        metavar="FILE",
        help="keep a living token in this file, readable by you alone, until this command is ended",
    )
    arguments = options.parse_args(argv)
    if arguments.explain and arguments.watch:
        options.error("--explain shows no token, and --watch writes one: give one of the two")

    def action() -> int:
        if arguments.watch:
            return _watch(chosen_origin(arguments.server), arguments.watch)
        server = discover(chosen_origin(arguments.server))
        if arguments.explain:
            return _explain(server)
        token, _, _ = sources.first_token(server, time.time)
        print(token.value)
        return 0

    return run("token", action)


AGAIN = 30.0  # seconds until a renewal that failed is tried again
LOOK = 3600.0  # seconds after which a token that says nothing of its end is looked at anew


def _watch(origin: str, path: Path) -> int:
    """Keep the file fresh for programs that read one.

    What goes wrong later is said, and tried again: the old token stays.
    """
    keeper = keeper_of(origin)
    written = ""
    while True:
        try:
            token = keeper.current()
        except ClientError as error:
            if not written:
                raise
            say(f"mlflow-gatehouse token: {error}")
            time.sleep(AGAIN)
            continue
        if token.value != written:
            try:
                write_private(path, token.value)
            except OSError as error:
                raise ConfigurationError(
                    f"--watch: {path} can't be written: {error.strerror or error}", "name a file in a folder of yours"
                ) from None
            if not written:
                say(f"{path} holds a token of {token.email or 'an opaque kind'}, from {token.source}; it stays fresh.")
            written = token.value
        left = token.renew_at - time.time()
        # A renewal that failed while the token lives: the keeper has said so, and keeps a pause.
        time.sleep(min(left, LOOK) if left > 0 else min(AGAIN, max(token.ends_at - time.time(), 1.0) / 2))


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
