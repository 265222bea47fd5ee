"""What a database, or a pooler in front of it, refuses with is told with its fix:

by start, migrate and doctor alike.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from gatehouse.commands import doctor, migrate
from gatehouse.database import schema
from gatehouse.database.reach import SchemaError
from gatehouse.exit_codes import Exit
from gatehouse.start.settings import LIBPQ_PARAMETERS, Invalid, connections_needed, parse_database
from tests.support import Gate, Postgres, free_port, missing, wait_for

Ways = Callable[[str], dict[str, tuple[int, str]]]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Ask start, migrate and doctor about a database; return the exit code and the words of each."""

    def ask(uri: str) -> dict[str, tuple[int, str]]:
        said: dict[str, tuple[int, str]] = {}
        monkeypatch.setenv("BACKEND_STORE_URI", uri)

        def start() -> None:
            schema.ensure(migrate.database_uri(), 1, lambda _: None)

        def upgrade() -> None:
            migrate.migrate(migrate.database_uri(), False, 1)

        for name, command in (("start", start), ("migrate", upgrade)):
            try:
                command()
                said[name] = (Exit.OK, "")
            except SchemaError as error:
                said[name] = (error.code, str(error))
        (finding,) = doctor.look_at_database(1)
        said["doctor"] = (finding.code, finding.text)
        return said

    return ask


def user(postgres: Postgres, name: str) -> str:
    """Make a user without any right."""
    postgres.sql(f'CREATE ROLE "{name}" LOGIN')
    return name


def as_user(uri: str, name: str) -> str:
    return uri.replace("gatehouse:unused@", f"{name}:topsecret@")


def of_database(uri: str) -> str:
    return uri.rpartition("/")[2]


def refused(said: dict[str, tuple[int, str]], code: Exit, *words: str) -> None:
    """Check that all three say the same."""
    for way, (found, text) in said.items():
        assert found == code, (way, text)
        assert "\n    fix: " in text, (way, text)
        for word in words:
            assert word in text, (way, text)
        assert "topsecret" not in text


def test_a_user_who_may_not_create_tables(postgres: Postgres, database: str, ways: Ways) -> None:
    name = user(postgres, f"guest_{of_database(database)}")
    uri = as_user(database, name)
    refused(
        ways(uri),
        Exit.UNAVAILABLE,
        f"gives {name} no right to create tables in the schema public",
        "GRANT USAGE, CREATE ON SCHEMA",
    )
    # The statement that is told is the fix.
    told = ways(uri)["doctor"][1].partition("as its owner: ")[2]
    postgres.sql(told, of_database(database))
    assert {code for code, _ in ways(uri).values()} == {Exit.OK}


def test_a_start_says_so_too(make_gate: Callable[..., Gate], postgres: Postgres, database: str) -> None:
    name = user(postgres, f"guest_{of_database(database)}")
    gate = make_gate(BACKEND_STORE_URI=as_user(database, name)).start()
    assert gate.wait_end() == Exit.UNAVAILABLE
    assert "no right to create tables" in gate.log()
    assert "Traceback" not in gate.log()


def test_a_user_who_may_read_alone(postgres: Postgres, database: str, ways: Ways) -> None:
    migrate.migrate(parse_database(database), False, 5)
    name = user(postgres, f"reader_{of_database(database)}")
    postgres.sql(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"', of_database(database))
    said = ways(as_user(database, name))
    # An upgrade isn't needed, so migrate has nothing to say.
    assert said.pop("migrate")[0] == Exit.OK
    refused(said, Exit.UNAVAILABLE, "no right to write to MLflow's tables", "GRANT ALL ON ALL TABLES")


def test_a_read_only_database(postgres: Postgres, database: str, ways: Ways) -> None:
    postgres.sql(f'ALTER DATABASE "{of_database(database)}" SET default_transaction_read_only = on')
    refused(ways(database), Exit.UNAVAILABLE, "is read-only (default_transaction_read_only)", "name the primary")


def test_a_search_path_without_a_schema(postgres: Postgres, database: str, ways: Ways) -> None:
    uri = database + "?options=-csearch_path%3Dmlflow"
    refused(ways(uri), Exit.UNAVAILABLE, "has none of the schemas in its search path (mlflow)", "CREATE SCHEMA")
    postgres.sql("CREATE SCHEMA mlflow", of_database(database))
    assert {code for code, _ in ways(uri).values()} == {Exit.OK}
    tables = postgres.sql("SELECT schemaname FROM pg_tables WHERE tablename = 'experiments'", of_database(database))
    assert tables == "mlflow"


def test_another_programs_revision_is_called_what_it_is(postgres: Postgres, database: str, ways: Ways) -> None:
    """Optuna's, for one: its storage makes these tables, with Alembic too."""
    name = of_database(database)
    postgres.sql("CREATE TABLE studies (id int); CREATE TABLE trials (id int)", name)
    postgres.sql(
        "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('v3.0.0.d')", name
    )
    refused(ways(database), Exit.SCHEMA_UNKNOWN, "another program's tables", "v3.0.0.d", "CREATE SCHEMA mlflow")
    postgres.sql("CREATE SCHEMA mlflow", name)
    assert {code for code, _ in ways(database + "?options=-csearch_path%3Dmlflow").values()} == {Exit.OK}
    assert postgres.sql("SELECT version_num FROM public.alembic_version", name) == "v3.0.0.d"


def test_no_such_user_isnt_waited_for(database: str) -> None:
    said: list[str] = []
    with pytest.raises(SchemaError, match='role "nobody" does not exist'):
        schema.ensure(parse_database(as_user(database, "nobody")), 30, said.append)
    assert not said


@pytest.mark.parametrize(
    ("query", "what", "fix"),
    [
        ("pgbouncer=true", "pgbouncer=, which libpq doesn't know", "it is Prisma's"),
        ("ssl=true", "ssl=, which libpq doesn't know", "sslmode=require"),
        ("schema=mlflow", "schema=, which libpq doesn't know", "options=-csearch_path%3DSCHEMA"),
        ("sslmode=required", "sslmode='required'", "sslmode=require"),
        ("sslmod=require", "sslmod=, which", "sslmode=…"),
        ("connect_timeout=5s", "connect_timeout='5s'", "connect_timeout takes"),
        ("plugin=x", "plugin=, which", "nothing"),
        ("pgbouncer=true&ssl=true", "pgbouncer=, which libpq doesn't know, and ssl=", "; "),
    ],
)
def test_parameters_of_other_programs_are_told(query: str, what: str, fix: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_database(f"postgresql://u:p@h/d?{query}")
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_doctor_and_migrate_name_them_too(database: str, ways: Ways) -> None:
    for code, text in ways(database + "?ssl=true").values():
        assert code == Exit.SETTINGS
        assert "ssl=, which libpq doesn't know" in text


def test_the_parameters_are_libpqs() -> None:
    """Of the libpq that the driver brings; it lists none, but refuses those that it doesn't know before it connects."""
    import psycopg2

    for name in LIBPQ_PARAMETERS:
        dsn = f"host=/nonexistent {name}=1"
        with pytest.raises(psycopg2.Error) as caught:
            psycopg2.connect(dsn)
        assert "invalid connection option" not in str(caught.value), name
        assert "invalid dsn" not in str(caught.value), name


class Bouncer:
    """PgBouncer in transaction mode, in front of the tests' PostgreSQL."""

    def __init__(self, folder: Path, postgres: Postgres, pool: int) -> None:
        program = next((p for p in ("/usr/sbin/pgbouncer", "/usr/bin/pgbouncer") if Path(p).exists()), None)
        if program is None:
            missing("PgBouncer", "apt-get install pgbouncer")
        self.port = free_port()
        self.log = folder / "pgbouncer.log"
        users = folder / "users.txt"
        users.write_text('"gatehouse" "unused"\n')
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port "
            f"= {self.port}\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = {pool}\nlogfile = "
            f"{self.log}\n"
            "ignore_startup_parameters = extra_float_digits,options\nunix_socket_dir =\n"
        )
        for path in (folder, *folder.iterdir()):
            path.chmod(0o777)
        run_as = ["-u", "postgres"] if os.getuid() == 0 else []
        self.process = subprocess.Popen([str(program), *run_as, str(config)], stderr=subprocess.DEVNULL)
        wait_for(self.listens, "PgBouncer", 20, lambda: self.log.read_text() if self.log.exists() else "no log")

    def listens(self) -> bool:
        import socket

        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def uri(self, name: str) -> str:
        return f"postgresql://gatehouse:unused@127.0.0.1:{self.port}/{name}"


@pytest.fixture
def bouncer(postgres: Postgres) -> Iterator[Callable[[int], Bouncer]]:
    """Start PgBouncers with a pool of so many connections."""
    import tempfile

    made: list[Bouncer] = []
    with tempfile.TemporaryDirectory(prefix="pgb", dir="/tmp") as folder:
        Path(folder).chmod(0o755)

        def make(pool: int) -> Bouncer:
            own = Path(folder) / str(len(made))
            own.mkdir()
            made.append(Bouncer(own, postgres, pool))
            return made[-1]

        yield make
        for part in made:
            part.process.terminate()
            part.process.wait(10)


@pytest.mark.parametrize(("pool", "workers"), [(1, 1), (4, 2)])
def test_a_pooler_that_is_too_small_is_refused_at_the_start(
    bouncer: Callable[[int], Bouncer], database: str, pool: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehouse.database.reach.check_pooler.__defaults__", (2.0,))
    uri = parse_database(bouncer(pool).uri(of_database(database)))
    needed = connections_needed(workers)
    assert needed > pool
    with pytest.raises(SchemaError) as caught:
        schema.ensure(uri, 10, lambda _: None, needed)
    assert caught.value.code == Exit.UNAVAILABLE
    assert f"lets in {pool} transactions at once, and {needed} are needed" in str(caught.value)
    assert "default_pool_size" in str(caught.value)


def test_through_a_pooler_with_as_many_as_are_needed_all_works(
    make_gate: Callable[..., Gate], bouncer: Callable[[int], Bouncer], database: str
) -> None:
    """Transaction mode, two workers, the smallest pool:

    an empty database, and batches of metrics that each take two connections.
    """
    pool = connections_needed(2)
    gate = make_gate(BACKEND_STORE_URI=bouncer(pool).uri(of_database(database)), WORKERS="2").start().wait_ready()
    start = threading.Barrier(12)

    def work(number: int) -> list[int]:
        with gate.session("bob") as session:

            def post(path: str, document: dict[str, object]) -> requests.Response:
                return session.post(f"{gate.url}/api/2.0/mlflow/{path}", json=document, timeout=60)

            made = post("runs/create", {"experiment_id": "0"}).json()
            run = made["run"]["info"]["run_id"]
            start.wait(60)
            metrics = [{"key": f"m{n}", "value": number, "timestamp": 1, "step": n} for n in range(20)]
            return [post("runs/log-batch", {"run_id": run, "metrics": metrics}).status_code for _ in range(5)]

    with ThreadPoolExecutor(12) as pool_of_threads:
        assert [code for codes in pool_of_threads.map(work, range(12)) for code in codes] == [200] * 60


@pytest.fixture(scope="module")
def replica(postgres: Postgres) -> Iterator[Postgres]:
    """A streaming replica of the tests' PostgreSQL."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="pgr", dir="/tmp"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    folder.chmod(0o755)
    part = object.__new__(Postgres)
    part.bin, part.user, part.folder, part.port = postgres.bin, postgres.user, folder, free_port()
    part._run(
        "pg_basebackup", "-h", str(postgres.folder), "-p", str(postgres.port), "-U", "gatehouse", "-D", str(part.data), "-R",
        "--checkpoint=fast", "--no-sync",
    )  # fmt: skip
    (folder / ".s.PGSQL.5432").symlink_to(f".s.PGSQL.{part.port}")
    part.start()
    yield part
    part.remove()


def test_a_read_replica_serves_reads_and_the_database_writes(
    make_gate: Callable[..., Gate], postgres: Postgres, replica: Postgres, database: str
) -> None:
    name = of_database(database)
    uri = database.replace(f":{postgres.port}/", f":{replica.port}/")
    wait_for(lambda: replica.sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"), "the replica to follow")
    gate = make_gate(BACKEND_STORE_URI=database, MLFLOW_READ_REPLICA_BACKEND_STORE_URI=uri, WORKERS="2")
    gate.start().wait_ready()
    with gate.session("bob") as session:
        answer = session.post(f"{gate.url}/api/2.0/mlflow/experiments/create", json={"name": "replicated"}, timeout=20)
        assert answer.status_code == 200, answer.text
        wait_for(
            lambda: replica.sql("SELECT 1 FROM experiments WHERE name = 'replicated'", name), "the row at the replica"
        )
        # Paused, it shows an older state: reads come from there.
        replica.sql("SELECT pg_wal_replay_pause()")
        try:
            session.post(
                f"{gate.url}/api/2.0/mlflow/experiments/create", json={"name": "later"}, timeout=20
            ).raise_for_status()
            found = session.get(f"{gate.url}/api/2.0/mlflow/experiments/search?max_results=100", timeout=20).json()
            assert sorted(e["name"] for e in found["experiments"]) == ["Default", "replicated"]
            assert postgres.sql("SELECT count(*) FROM experiments", name) == "3"
        finally:
            replica.sql("SELECT pg_wal_replay_resume()")


def test_a_replica_that_does_not_follow_is_named(postgres: Postgres, database: str) -> None:
    migrate.migrate(parse_database(database), False, 5)
    stranger = postgres.create(f"{of_database(database)}_stranger")
    with pytest.raises(SchemaError, match=r"has the schema \(none\)") as caught:
        schema.ensure_replica(parse_database(stranger), "MLFLOW_READ_REPLICA_BACKEND_STORE_URI", 0.5, lambda _: None)
    assert caught.value.code == Exit.UNAVAILABLE
    assert "check MLFLOW_READ_REPLICA_BACKEND_STORE_URI" in str(caught.value)


def test_doctor_survives_whatever_a_database_says(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    (gate.folder / "mlflow.db").write_bytes(b"no database at all" * 100)
    done = subprocess.run(
        [sys.executable, "-m", "gatehouse", "doctor", "--wait", "1"], env=gate.environment, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == Exit.UNAVAILABLE
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr
    assert gate.start().wait_end() == Exit.UNAVAILABLE
    assert "Traceback" not in gate.log()
