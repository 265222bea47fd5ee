"""Which provider's client each server had people sign in with, as this machine saw it first.

A token is good wherever its audience, the client, is taken. So a hostile server could name the client of an honest one,
have somebody sign in, and use the token there: with a session at the provider, that takes no password. What a server
names is compared with what is known, and a person is asked before it goes on (docs/decisions/0008).
"""

from __future__ import annotations

import json

from mlflow_gatehouse import sign_ins
from mlflow_gatehouse.errors import ConfigurationError

#: Google's own clients, whose tokens every server that takes gcloud's takes too: gcloud, and application default
#: credentials.
SHARED = frozenset(
    {
        "32555940559.apps.googleusercontent.com",
        "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",
    }
)


def _known() -> dict[str, list[str]]:
    try:
        known = json.loads((sign_ins.folder() / "known-clients").read_text(encoding="utf-8"))
        return {str(origin): [str(issuer), str(client)] for origin, (issuer, client) in known.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        path = sign_ins.folder() / "known-clients"
        raise ConfigurationError(
            f"{path} can't be read: {type(error).__name__}",
            f"look who changed it; without it, every server's client is new: rm {path}",
        ) from None


def doubt(origin: str, issuer: str, client_id: str) -> str | None:
    """Return why a person should look before signing in to ``origin`` as the client that it names.

    None if nothing is amiss.

    Raises:
        ConfigurationError: it names a client that no server has for itself.
    """
    if client_id in SHARED:
        raise ConfigurationError(
            f"{origin} names a client of Google's own, {client_id}: a token for it is good at every server that takes "
            "gcloud's",
            "tell whoever runs it to set LOGIN_CLIENT_ID to a client of its own; don't sign in there",
        )
    known = _known()
    before = known.get(origin)
    if before is not None and before != [issuer, client_id]:
        return (
            f"{origin} had this machine sign in at {before[0]} as its client {before[1]}; "
            f"now it names {client_id} at {issuer}"
        )
    others = sorted(other for other, pin in known.items() if other != origin and pin == [issuer, client_id])
    if before is None and others:
        return (
            f"{origin} names the client {client_id} at {issuer}, with which this machine signs in to "
            f"{', '.join(others)}: "
            f"{origin} could use the token there, as you"
        )
    return None


def remember(origin: str, issuer: str, client_id: str) -> None:
    """Take what a sign-in was done with for known."""
    with sign_ins.locked("known-clients"):
        known = _known() | {origin: [issuer, client_id]}
        sign_ins.write_private(sign_ins.folder() / "known-clients", json.dumps(known, indent=1))
