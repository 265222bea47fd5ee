"""The ``gatehouse`` command: a table of subcommands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys

from gatehouse.exit_codes import Exit

#: subcommand → (module, what it does). Each module has ``main(argv: list[str]) -> int``.
COMMANDS: dict[str, tuple[str, str]] = {
    "start": (
        "gatehouse.start.supervisor",
        "check all settings, then run MLflow and the proxy (start.sh becomes this)",
    ),
    "serve": ("gatehouse.start.serve", "run MLflow on its private socket (`gatehouse start` calls this)"),
    "monitor": ("gatehouse.monitoring.server", "answer scrapes of METRICS (`gatehouse start` calls this)"),
    "migrate": ("gatehouse.commands.migrate", "upgrade the database's schema to the installed MLflow's"),
    "workspaces": (
        "gatehouse.commands.workspaces",
        "show the workspaces, or make those that the access policy declares",
    ),
    "keys": ("gatehouse.commands.keys", "make, list and revoke keys for programs that can't renew a token"),
    "import": ("gatehouse.commands.move_in", "bring another MLflow's runs, models, traces and artifacts along"),
    "backup": ("gatehouse.commands.backup", "write the database and, by choice, all artifacts to a folder or a bucket"),
    "restore": (
        "gatehouse.commands.restore",
        "put a backup into an empty database, and its artifacts into their store",
    ),
    "gc": ("gatehouse.commands.gc", "remove for good what was deleted long ago, with its artifacts"),
    "doctor": ("gatehouse.commands.doctor", "check settings, database, artifact store and identity provider"),
    "status": (
        "gatehouse.commands.status",
        "what matters now: versions, pools, slow operations, what is misconfigured",
    ),
    "health": ("gatehouse.commands.health", "exit with 0 if the gate and MLflow behind it answer"),
}
#: What somebody may look for here and finds in the client's command.
OF_THE_CLIENT = frozenset({"login", "logout", "token", "whoami"})


def usage() -> str:
    """Return the help text: one line per subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_text}" for name, (_, help_text) in COMMANDS.items()]
    return "usage: gatehouse COMMAND [OPTION ...]\n\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return Exit.OK if arguments else Exit.USAGE
    name, *rest = arguments
    if name in {"-V", "--version"}:
        from gatehouse import __version__

        print(f"gatehouse {__version__}")
        return 0
    if name not in COMMANDS:
        hint = f"; the client has it: mlflow-gatehouse {name} (docs/clients.md)" if name in OF_THE_CLIENT else ""
        print(f"gatehouse: error: no such command: {name}{hint}\n\n{usage()}", file=sys.stderr)
        return Exit.USAGE
    module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(rest))


if __name__ == "__main__":
    sys.exit(main())
