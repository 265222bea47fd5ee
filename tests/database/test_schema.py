"""The schema is made once, by whoever comes first, and never upgraded by accident."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from alembic.migration import MigrationContext
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from gatehouse.database import schema
from gatehouse.exit_codes import Exit
from gatehouse.start.settings import parse_database
from gatehouse.upstream import migrations
from tests.support import Gate, Postgres, wait_for


def migrate(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``gatehouse migrate`` on a database."""
    environment = {"PATH": os.environ["PATH"], "BACKEND_STORE_URI": uri}
    command = [sys.executable, "-m", "gatehouse", "migrate", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def revision(uri: str) -> str | None:
    """Return the database's Alembic revision."""
    with schema.make_engine(uri).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def make_older(uri: str) -> str:
    """Fill a database with the schema of an older release and one experiment; return its revision."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    older = migrations.scripts().get_revisions("head")[0].down_revision
    engine = sqlalchemy.create_engine(uri)
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
    config.attributes["connection"] = engine.connect()
    command.upgrade(config, older)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time) "
                "VALUES ('precious', 'mlflow-artifacts:/1', 'active', 1, 1)"
            )
        )
    engine.dispose()
    assert revision(uri) == older
    return str(older)


def experiments(gate: Gate) -> set[str]:
    """Return the names of the experiments, by the gate."""
    with gate.session() as session:
        found = session.get(f"{gate.url}/api/2.0/mlflow/experiments/search?max_results=100", timeout=20).json()
    return {experiment["name"] for experiment in found["experiments"]}


def dump(postgres: Postgres, uri: str) -> str:
    """Return the whole database as SQL, without the dump's own random markers."""
    text = postgres._run(
        "pg_dump",
        "-h",
        str(postgres.folder),
        "-p",
        str(postgres.port),
        "-U",
        "gatehouse",
        uri.rpartition("/")[2],
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


@pytest.fixture(params=["postgresql", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind, with the driver named."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'schema.db'}"
    return parse_database(request.getfixturevalue("database"))


def test_four_gates_at_once_on_an_empty_database_all_become_ready(
    make_gate: Callable[..., Gate], database: str
) -> None:
    gates = [make_gate(BACKEND_STORE_URI=database).start() for _ in range(4)]
    for gate in gates:
        gate.wait_ready()
    assert experiments(gates[0]) == {"Default"}
    assert revision(parse_database(database)) == migrations.scripts().get_current_head()


def test_opening_the_stores_for_the_first_time_is_one_instance_s_at_a_time(uri: str) -> None:
    """What serve does after the import, from four processes at the same moment: a barrier of files starts them."""
    assert migrate(uri).returncode == Exit.OK
    script = (
        "import sys, time, pathlib\n"
        "from gatehouse.database import schema\n"
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
        "folder = pathlib.Path(sys.argv[2]); (folder / sys.argv[3]).touch()\n"
        "while len(list(folder.iterdir())) < 4: time.sleep(0.001)\n"
        "with schema.first_comes_first(sys.argv[1]):\n"
        "    SqlAlchemyStore(sys.argv[1], '/unused')\n"
    )
    with tempfile.TemporaryDirectory() as barrier:
        command = [sys.executable, "-W", "ignore", "-c", script, uri, barrier]
        started = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(4)]
        ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0] * 4, "\n".join(text for text, _ in ended)


def test_a_start_killed_while_it_makes_the_schema_leaves_nothing(
    make_gate: Callable[..., Gate], postgres: Postgres, database: str
) -> None:
    gate = make_gate(BACKEND_STORE_URI=database).start()
    name = database.rpartition("/")[2]
    wait_for(lambda: postgres.sql(
        "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND "
        "datname = '" + name + "'"),
             "the lock on the schema", 30, gate.log)  # fmt: skip
    server = gate.children()["server"]
    os.kill(server, signal.SIGKILL)
    assert gate.wait_end(10) == Exit.SERVER_ENDED
    wait_for(
        lambda: postgres.sql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'") == "0",
        "the connection's end",
        10,
    )
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == "0"
    assert experiments(make_gate(BACKEND_STORE_URI=database).start().wait_ready()) == {"Default"}


def test_tables_of_another_program_may_share_the_database(
    make_gate: Callable[..., Gate], postgres: Postgres, database: str
) -> None:
    name = database.rpartition("/")[2]
    postgres.sql("CREATE TABLE of_another_program (id int); INSERT INTO of_another_program VALUES (42)", name)
    make_gate(BACKEND_STORE_URI=database).start().wait_ready()
    assert postgres.sql("SELECT id FROM of_another_program", name) == "42"


def test_an_older_schema_is_refused_untouched_and_migrate_upgrades_it(make_gate: Callable[..., Gate], uri: str) -> None:
    older = make_older(uri)
    gate = make_gate(BACKEND_STORE_URI=uri).start()
    assert gate.wait_end() == Exit.SCHEMA_OLDER
    assert f"({older}) is older" in gate.log()
    assert "gatehouse migrate" in gate.log()
    assert revision(uri) == older

    assert migrate(uri, "--check").returncode == Exit.SCHEMA_OLDER
    assert revision(uri) == older
    done = migrate(uri)
    assert done.returncode == Exit.OK, done.stderr
    assert migrate(uri, "--check").returncode == Exit.OK
    assert experiments(make_gate(BACKEND_STORE_URI=uri).start().wait_ready()) == {"Default", "precious"}


def test_refusing_changes_not_one_byte(make_gate: Callable[..., Gate], postgres: Postgres, database: str) -> None:
    make_older(parse_database(database))
    before = dump(postgres, database)
    assert make_gate(BACKEND_STORE_URI=database).start().wait_end() == Exit.SCHEMA_OLDER
    assert dump(postgres, database) == before


def test_a_failing_migration_changes_nothing(postgres: Postgres, database: str) -> None:
    uri = parse_database(database)
    older = make_older(uri)
    name = database.rpartition("/")[2]
    # A migration's last statement notes its revision: all of its DDL is done by then, and the error tells how much.
    postgres.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'stopped at % columns',"
        " (SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'); END $$;"
        "CREATE TRIGGER fail BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION fail()",
        name,
    )
    count = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'"
    columns = postgres.sql(count, name).strip()
    before = dump(postgres, database)
    failed = migrate(uri)
    stopped = re.search(r"stopped at (\d+) columns", failed.stderr)
    assert stopped, failed.stderr
    assert stopped[1] != columns, "the migration had changed something"
    assert dump(postgres, database) == before
    assert revision(uri) == older
    postgres.sql("DROP TRIGGER fail ON alembic_version; DROP FUNCTION fail()", name)
    assert migrate(uri).returncode == Exit.OK


def test_a_newer_schema_is_refused(make_gate: Callable[..., Gate], uri: str) -> None:
    assert migrate(uri).returncode == Exit.OK
    with schema.make_engine(uri).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
    gate = make_gate(BACKEND_STORE_URI=uri).start()
    assert gate.wait_end() == Exit.SCHEMA_UNKNOWN
    assert "a newer release made it" in gate.log()
    assert migrate(uri).returncode == Exit.SCHEMA_UNKNOWN
    assert revision(uri) == "ffffffffffff"


def test_migrate_on_a_current_schema_does_nothing(uri: str) -> None:
    assert migrate(uri).returncode == Exit.OK
    done = migrate(uri)
    assert done.returncode == Exit.OK
    assert "up to date" in done.stderr


def test_the_schema_is_the_one_that_mlflow_makes_itself(postgres: Postgres) -> None:
    ours, theirs = postgres.create("schema_ours"), postgres.create("schema_theirs")
    assert migrate(ours).returncode == Exit.OK
    script = (
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore; "
        f"SqlAlchemyStore({parse_database(theirs)!r}, '/tmp/unused')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, timeout=120)
    postgres.sql("DELETE FROM experiments", "schema_theirs")
    ours_dump, theirs_dump = dump(postgres, ours), dump(postgres, theirs)

    def structure(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(("SELECT pg_catalog.setval", "--"))]

    assert structure(ours_dump) == structure(theirs_dump)
