"""The client's subcommands, one module each, with ``main(argv) -> exit code``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from mlflow_gatehouse.errors import EX_USAGE, ClientError, ConfigurationError
from mlflow_gatehouse.server import origin_of


class Parser(argparse.ArgumentParser):
    """argparse with the exit code of ``sysexits.h`` for a wrong command line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the usage and what is wrong with it, and exit."""
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: error: {message}\n")


def parser(command: str, description: str) -> Parser:
    """A parser for ``mlflow-gatehouse COMMAND [SERVER]``."""
    result = Parser(prog=f"mlflow-gatehouse {command}", description=description)
    result.add_argument(
        "server", nargs="?", help="address of the tracking server; MLFLOW_TRACKING_URI if it isn't given"
    )
    return result


def chosen_origin(server: str | None) -> str:
    """The origin of the tracking server that a command is about.

    Raises:
        ConfigurationError: none was given, or it isn't an http(s) address.
    """
    address = (server or os.environ.get("MLFLOW_TRACKING_URI", "")).strip()
    if not address:
        raise ConfigurationError(
            "no tracking server was named",
            "export MLFLOW_TRACKING_URI=https://…, or give the address as an argument",
        )
    origin = origin_of(address if "://" in address else f"https://{address}")
    if origin is None:
        raise ConfigurationError(f"{address} isn't the address of a tracking server", "give it as https://…")
    return origin


def say(*lines: str) -> None:
    """Print for a person: on stderr, so that stdout holds only what a script wants."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask a person; False where nobody can be asked."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    say(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def run(command: str, action: Callable[[], int]) -> int:
    """Run a command; print a :class:`ClientError` and return its exit code."""
    try:
        return action()
    except ClientError as error:
        say(f"mlflow-gatehouse {command}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say(f"mlflow-gatehouse {command}: interrupted")
        return 130
