"""MLflow's migrations, as Alembic runs them: on a connection and in a transaction of the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def scripts() -> Any:
    """Return Alembic's directory (``alembic.script.ScriptDirectory``) of the installed MLflow's migrations."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return ScriptDirectory.from_config(_get_alembic_config(db_url=""))


def upgrade(connection: Connection, revision: str = "heads") -> None:
    """Run the missing migrations on this connection, inside its transaction.

    MLflow's own ``env.py`` opens a second connection, which neither holds our lock nor shares our transaction.
    """
    from alembic.runtime.environment import EnvironmentContext
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.db.utils import _get_alembic_config

    directory = scripts()

    def revisions(current: Any, _context: object) -> Any:
        return directory._upgrade_revs(revision, current)

    config = _get_alembic_config(db_url="")
    with EnvironmentContext(config, directory, fn=revisions, destination_rev=revision) as environment:
        environment.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
        with environment.begin_transaction():
            environment.run_migrations()
