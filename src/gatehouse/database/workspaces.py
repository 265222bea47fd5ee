"""The table of workspaces: which there are, asked once in a while; made as the policy declares them; what each holds.

MLflow's own store asks the database for the workspace of each request. This one, in its place, remembers for
:data:`KNOWN_S` seconds that a workspace is there: one statement in that time for each workspace and process. What isn't
there is asked for each time; whoever has no role in it is refused before (:mod:`gatehouse.teams.entrance`).
"""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Any

import sqlalchemy
from cachetools import TTLCache
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore

from gatehouse.database import schema
from gatehouse.database.reach import SchemaError
from gatehouse.exit_codes import Exit
from gatehouse.policy.roles import DEFAULT_WORKSPACE
from gatehouse.teams.entrance import caller, sees
from gatehouse.upstream import workspaces as upstream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlflow.entities import Workspace, WorkspaceDeletionMode
    from sqlalchemy.engine import Connection

#: Seconds for which a workspace that was there is taken to be there.
KNOWN_S = 10.0
#: Workspaces that are remembered so at once, in each process.
KNOWN_MOST = 1024

#: Tables whose rows belong to a workspace by a column of their own (``_WORKSPACE_ROOT_MODELS`` of MLflow's store), by
#: the word for them.
HOLDINGS: Mapping[str, str] = {
    "experiments": "experiments",
    "registered_models": "registered models and prompts",
    "evaluation_datasets": "data sets",
    "webhooks": "webhooks",
    "secrets": "gateway keys",
    "endpoints": "gateway endpoints",
    "model_definitions": "gateway models",
    "budget_policies": "budgets",
    "guardrails": "guardrails",
    "jobs": "jobs",
    "mcp_servers": "MCP servers",
}


class Store(SqlAlchemyStore):  # type: ignore[misc]  # MLflow has no types
    """MLflow's store of workspaces, which remembers for a while, and lists to each caller what is the caller's."""

    def __init__(self, db_uri: str) -> None:
        super().__init__(db_uri)
        # No pool of its own: the tracking store's is for the same database.
        self._engine.dispose()
        engine, self.ManagedSessionMaker = upstream.shared_engine(db_uri)
        self._engine: Any = engine
        self._known: TTLCache[str, Workspace] = TTLCache(KNOWN_MOST, KNOWN_S)
        self._known_lock = Lock()

    def knows(self, name: str) -> bool:
        """Return whether it is known, without asking the database, that there is such a workspace."""
        with self._known_lock:
            return name in self._known

    def exists(self, name: str) -> bool:
        """Return whether there is such a workspace."""
        try:
            self.get_workspace(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def get_workspace(self, workspace_name: str) -> Workspace:
        """Return a workspace.

        Raises:
            MlflowException: if there is none.
        """
        with self._known_lock:
            found = self._known.get(workspace_name)
        if found is None:
            found = super().get_workspace(workspace_name)
            with self._known_lock:
                self._known[workspace_name] = found
        return found

    def list_workspaces(self) -> list[Workspace]:
        """Return the workspaces that the request's identity has a role in; all of them outside of a request."""
        found = list(super().list_workspaces())
        return found if caller.get() is None else [one for one in found if sees(one.name)]

    def update_workspace(self, workspace: Workspace) -> Workspace:
        """Change a workspace."""
        changed = super().update_workspace(workspace)
        self._forget(workspace.name)
        return changed

    def delete_workspace(self, workspace_name: str, mode: WorkspaceDeletionMode) -> None:
        """Delete a workspace."""
        self._forget(workspace_name)
        super().delete_workspace(workspace_name, mode)
        self._forget(workspace_name)

    def _forget(self, name: str) -> None:
        with self._known_lock:
            self._known.pop(name, None)


class Known:
    """Which workspaces there are, as MLflow's server knows it; its store is opened by whoever asks first."""

    def knows(self, name: str) -> bool:
        """Return whether it is known, without asking the database, that there is such a workspace."""
        return bool(upstream.store().knows(name))

    def exists(self, name: str) -> bool:
        """Return whether there is such a workspace."""
        return bool(upstream.store().exists(name))

    def names(self) -> list[str]:
        """Return the names of all workspaces, if nobody's request is in one; the database is asked."""
        return sorted(one.name for one in upstream.store().list_workspaces())


def register() -> None:
    """Let MLflow's server, in this process, use this store, and keep what it remembers apart for each workspace."""

    def open_store(workspace_uri: str) -> Store:
        return Store(workspace_uri)

    for scheme in ("postgresql", "sqlite"):
        upstream.register_store(scheme, open_store)
    upstream.separate_webhooks()


def names(connection: Connection) -> list[str]:
    """Return the names of all workspaces."""
    return [row[0] for row in connection.execute(sqlalchemy.text("SELECT name FROM workspaces ORDER BY name"))]


def missing(connection: Connection, declared: Iterable[str]) -> list[str]:
    """Return which of the declared workspaces aren't there."""
    present = set(names(connection))
    return [name for name in declared if name not in present]


def make(uri: str, declared: Iterable[str]) -> list[str]:
    """Make the declared workspaces that aren't there, one instance at a time; return which ones."""
    engine = schema.make_engine(uri)
    with engine.connect() as connection:
        if not missing(connection, declared):
            return []
    with schema.locked(engine) as connection:
        made = missing(connection, declared)
        for name in made:
            connection.execute(sqlalchemy.text("INSERT INTO workspaces (name) VALUES (:name)"), {"name": name})
    return made


def holdings(connection: Connection) -> dict[str, Counter[str]]:
    """Return how many things each workspace but ``default`` holds, by their word."""
    found: dict[str, Counter[str]] = {}
    for table, word in HOLDINGS.items():
        query = f"SELECT workspace, count(*) FROM {table} WHERE workspace <> :default GROUP BY workspace"  # noqa: S608
        for name, number in connection.execute(sqlalchemy.text(query), {"default": DEFAULT_WORKSPACE}):
            found.setdefault(str(name), Counter())[word] += int(number)
    return found


def told(found: Mapping[str, Counter[str]]) -> str:
    """Return what workspaces hold, in words."""
    return "; ".join(
        f"{name}: {', '.join(f'{number} {word}' for word, number in sorted(counts.items()))}"
        for name, counts in sorted(found.items())
    )


def refuse_if_held(uri: str) -> None:
    """Refuse to serve without workspaces what belongs to one: it would be out of everybody's reach, or in everybody's.

    Raises:
        SchemaError: naming the workspaces that hold something, and how much.
    """
    others = "SELECT 1 FROM workspaces WHERE name <> :default LIMIT 1"
    with schema.make_engine(uri).connect() as connection:
        if connection.execute(sqlalchemy.text(others), {"default": DEFAULT_WORKSPACE}).first() is None:
            return
        found = holdings(connection)
    if found:
        raise SchemaError(
            f"workspaces are off, and the database has some that hold data ({told(found)})\n"
            "    fix: declare `workspaces:` in the access policy again; or bring what they hold into `default`: "
            "`mlflow db migrate-to-default-workspace --dry-run` shows what that would do (docs/teams.md)",
            Exit.SETTINGS,
        )
