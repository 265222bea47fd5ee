"""A database without a password: an access token of the platform's stands for it, and renews itself.

Cloud SQL takes a token of a service account for the password of the user of that account's name (IAM database
authentication, https://cloud.google.com/sql/docs/postgres/iam-authentication). The URL says so by
``gatehouse_auth=google`` and has no password. google-auth finds the token: the metadata server's on Cloud Run and
Kubernetes, a person's own on a laptop. Each *new* connection needs a token that lives; open ones go on without.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

#: The URL's parameter, and the one value that it has.
PARAMETER, GOOGLE = "gatehouse_auth", "google"
#: Good for signing in to a database, and for nothing else.
SCOPE = "https://www.googleapis.com/auth/sqlservice.login"


class Tokens:
    """Keeps a token, and asks for the next one a few minutes before its end (google-auth's REFRESH_THRESHOLD).

    Safe to use from several threads; a process that was forked asks for its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credentials: Any = None

    def password(self) -> str:
        """Return a token that lives for a while yet.

        Raises:
            psycopg2.OperationalError: if there is none to be had: for whoever connects, as if the database refused.
        """
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=[SCOPE])
                if not self._credentials.valid:
                    self._credentials.refresh(Request())
            except GoogleAuthError as error:
                raise psycopg2.OperationalError(f"no access token stands for the password: {error}") from error
            return str(self._credentials.token)


tokens = Tokens()


class Renewed(Mapping[str, Any]):
    """What a driver takes to connect, with the password of the moment: it is asked for at each look."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = {**arguments, "password": ""}

    def __getitem__(self, name: str) -> Any:
        return tokens.password() if name == "password" else self._arguments[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments)

    def __len__(self) -> int:
        return len(self._arguments)


def split(url: URL) -> tuple[URL, bool]:
    """Return a URL as a driver takes it, and whether a token stands for its password."""
    return url.difference_update_query([PARAMETER]), url.query.get(PARAMETER) == GOOGLE


def sign_in(engine: Engine) -> None:
    """Give each new connection of an engine the token of the moment."""

    @event.listens_for(engine, "do_connect")
    def _with_token(_dialect: object, _entry: object, _args: object, parameters: dict[str, Any]) -> None:
        parameters["password"] = tokens.password()
