"""The ``mlflow-gatehouse`` command: a table of subcommands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys

from mlflow_gatehouse import __version__
from mlflow_gatehouse.errors import EX_USAGE

#: subcommand → (module, what it does). Each module has ``main(argv: list[str]) -> int``.
COMMANDS: dict[str, tuple[str, str]] = {
    "login": ("mlflow_gatehouse.commands.login", "sign in to a tracking server, once for this machine"),
    "logout": ("mlflow_gatehouse.commands.logout", "forget that sign-in"),
    "token": ("mlflow_gatehouse.commands.token", "print an identity token, for curl"),
    "whoami": ("mlflow_gatehouse.commands.whoami", "show the identity that the server sees"),
    "doctor": ("mlflow_gatehouse.doctor", "check the way from this machine to the tracking server"),
}


def usage() -> str:
    """Return the help text: one line per subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_text}" for name, (_, help_text) in COMMANDS.items()]
    return "usage: mlflow-gatehouse COMMAND [OPTION ...]\n\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if arguments else EX_USAGE
    name, *rest = arguments
    if name in {"-V", "--version"}:
        print(f"mlflow-gatehouse {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"mlflow-gatehouse: error: no such command: {name}\n\n{usage()}", file=sys.stderr)
        return EX_USAGE
    module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(rest))
