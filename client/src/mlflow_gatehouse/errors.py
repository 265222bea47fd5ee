"""What goes wrong at the client, each with the fix and an exit code of its own (``sysexits.h`` names)."""

from __future__ import annotations

EX_USAGE = 64
EX_NOUSER = 67  # no identity: no source gave a token
EX_UNAVAILABLE = 69  # the server or the provider can't be reached
EX_PROTOCOL = 76  # something that isn't the server answered, or a clock is wrong
EX_NOPERM = 77  # the server knows who asks, and says no
EX_CONFIG = 78  # a setting is missing or wrong


class ClientError(Exception):
    """A problem, its fix, and the exit code of a command that ends with it. Never holds a token."""

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        self.problem = problem
        self.fix = fix
        super().__init__(f"{problem}\n  Fix: {fix}" if fix else problem)


class ConfigurationError(ClientError):
    """A setting is missing, malformed or unsafe."""

    exit_code = EX_CONFIG


class NoIdentity(ClientError):
    """No source gave a token that the server would take."""

    exit_code = EX_NOUSER


class Unreachable(ClientError):
    """No answer from the server or the provider."""

    exit_code = EX_UNAVAILABLE


class Intercepted(ClientError):
    """The answer isn't the tracking server's: a login page, a proxy in between, a wrong clock."""

    exit_code = EX_PROTOCOL


class Refused(ClientError):
    """The server verified the request and said no (401 or 403)."""

    exit_code = EX_NOPERM
