"""Moving in: what another MLflow has comes along whole, once, after any interruption, and is served by the gate."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import func, select

from gatehouse.database import schema
from gatehouse.moving import sources
from gatehouse.moving.groups import GROUPS, LEFT_BEHIND, OF_EXPERIMENTS, PASSED_OVER
from gatehouse.start.settings import parse_database
from tests.support import Gate, Postgres, running, wait_for

#: What people have: odd characters, NaN and infinity, artifacts with spaces, datasets, models, aliases, prompts, traces.
WRITE = r"""
import json, math, sys, warnings
warnings.filterwarnings("ignore")
import mlflow, pandas
client = mlflow.MlflowClient()
folder = not mlflow.get_tracking_uri().startswith(("sqlite", "http"))
mlflow.create_experiment("training", artifact_location=None if folder else sys.argv[1])
mlflow.set_experiment("training")
for number in range(3):
    with mlflow.start_run(run_name=f"r{number}") as run:
        mlflow.log_params({"odd": "tab\t backslash \\N line\n quote ' \" ü 𝄞 \\", "empty": ""})
        for step in range(10):
            mlflow.log_metric("loss", math.nan if step == 3 else 1 / (step + 1), step=step)
        mlflow.log_metric("steep", math.inf)
        mlflow.log_text(f"hello {number}", "folder/a b.txt")
        data = mlflow.data.from_pandas(pandas.DataFrame({"a": [1, 2]}), name="numbers")
        mlflow.log_input(data, context="training")
        model = mlflow.pyfunc.log_model(name="model", python_model=lambda model_input: model_input, pip_requirements=[],
                                        registered_model_name="reg" if number == 0 else None)
client.set_registered_model_alias("reg", "champion", 1)
with mlflow.start_span(name="asked") as span:
    span.set_inputs({"question": "why?"})
mlflow.flush_trace_async_logging()
if not folder:
    mlflow.genai.register_prompt(name="greet", template="Hello {{name}}")
print(json.dumps({"run": run.info.run_id, "trace": span.trace_id}))
"""


def write(uri: str, artifacts: Path) -> dict[str, str]:
    """Have MLflow's own SDK write the above; return the ids."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(artifacts)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def sources_of_all_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, str]]]:
    """A database and a folder that MLflow itself wrote: path and ids."""
    folder = tmp_path_factory.mktemp("sources")
    database = folder / "mlflow.db"
    ids = write(f"sqlite:///{database}", folder / "artifacts")
    return {"database": (database, ids), "folder": (folder / "old", write(str(folder / "old" / "mlruns"), folder))}


def command(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "gatehouse", "import", source, *arguments]


def environment(database: str, destination: Path) -> dict[str, str]:
    return {**os.environ, "BACKEND_STORE_URI": database, "ARTIFACTS_DESTINATION": str(destination)}


def bring(source: str, database: str, destination: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, *arguments),
        env=environment(database, destination), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def engine_of(uri: str) -> sqlalchemy.Engine:
    return schema.make_engine(parse_database(uri))


def counts(uri: str) -> dict[str, int]:
    """Return the rows of each table that comes along."""
    names = [*OF_EXPERIMENTS, *(name for group in GROUPS for name in (group.table, *(part for part, _ in group.parts)))]
    engine = engine_of(uri)
    with engine.connect() as connection:
        return {
            name: int(connection.scalar(select(func.count()).select_from(sources.table(name))) or 0) for name in names
        }


def rows(uri: str, table: str, *without: str) -> list[tuple[Any, ...]]:
    """Return a table's rows, less the marks of an import and some columns."""
    found = sources.table(table)
    chosen = [column for column in sources.columns(found) if column.name not in without]
    with engine_of(uri).connect() as connection:
        return sorted(
            (tuple(row) for row in connection.execute(select(*chosen)) if "gatehouse." not in repr(row)), key=repr
        )


def test_a_database_comes_along_and_the_gate_serves_it(
    sources_of_all_kinds: dict[str, tuple[Path, dict[str, str]]], make_gate: Callable[..., Gate], database: str
) -> None:
    path, ids = sources_of_all_kinds["database"]
    gate = make_gate(BACKEND_STORE_URI=database)
    destination = Path(gate.environment["ARTIFACTS_DESTINATION"])
    dry = bring(str(path), database, destination, "--dry-run", "--allow", str(path.parent))
    assert dry.returncode == 0, dry.stderr
    assert "runs: 3" in dry.stdout
    with engine_of(database).connect() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == [], "a dry run changes nothing"

    done = bring(str(path), database, destination, "--allow", str(path.parent))
    assert done.returncode == 0, done.stdout + done.stderr
    before = counts(f"sqlite:///{path}")
    for table in ("params", "metrics", "latest_metrics", "input_tags", "spans", "registered_model_aliases"):
        same = {"params": (), "spans": ("experiment_id",)}.get(table, ())
        assert rows(database, table, *same) == rows(f"sqlite:///{path}", table, *same), table
    marked = {"tags": 6, "logged_model_tags": 3, "registered_model_tags": 2, "trace_tags": 1, "experiment_tags": 2}
    assert counts(database) == {name: count + marked.get(name, 0) for name, count in before.items()}

    again = bring(str(path), database, destination, "--allow", str(path.parent))
    assert "runs: 0 copied and verified, 3 here already" in again.stdout
    assert "artifacts: 0 files" in again.stdout
    assert counts(database) == {name: count + marked.get(name, 0) for name, count in before.items()}

    with running(gate):
        session = gate.session("bob")
        api = f"{gate.url}/api/2.0/mlflow"
        run = session.get(f"{api}/runs/get", params={"run_id": ids["run"]}).json()["run"]
        assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        assert tags["gatehouse.imported"] == str(path)
        assert tags["gatehouse.claimed_owner"] == run["info"]["user_id"]
        listed = session.get(f"{api}/artifacts/list", params={"run_id": ids["run"], "path": "folder"}).json()
        assert [each["path"] for each in listed["files"]] == ["folder/a b.txt"]
        text = session.get(f"{gate.url}/get-artifact", params={"run_id": ids["run"], "path": "folder/a b.txt"}).text
        assert text == "hello 2"
        history = session.get(f"{api}/metrics/get-history", params={"run_id": ids["run"], "metric_key": "loss"}).json()
        assert [str(point["value"]) for point in history["metrics"]][3] == "NaN"
        model = session.get(f"{api}/registered-models/alias", params={"name": "reg", "alias": "champion"}).json()
        assert model["model_version"]["version"] == "1"
        # What is made next has a number of its own.
        made = session.post(f"{api}/experiments/create", json={"name": "next"}).json()
        assert int(made["experiment_id"]) > 1


def test_a_folder_comes_along_with_numbers_that_the_database_takes(
    sources_of_all_kinds: dict[str, tuple[Path, dict[str, str]]], database: str, tmp_path: Path
) -> None:
    path, ids = sources_of_all_kinds["folder"]
    done = bring(str(path), database, tmp_path / "artifacts", "--report", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["copied"]["runs"] == 3
    assert report["rows"]["metrics"] == 3 * 11 - 0
    assert any("'training' has the number 1 here, not" in note for note in report["notes"])
    location = f"mlflow-artifacts:/1/{ids['run']}/artifacts"
    assert location in {row[0] for row in rows(database, "runs", *_all_but("runs", "artifact_uri"))}
    assert (tmp_path / "artifacts" / "1" / ids["run"] / "artifacts" / "folder" / "a b.txt").read_text() == "hello 2"
    models = list((tmp_path / "artifacts" / "1" / "models").glob("*/artifacts/MLmodel"))
    assert len(models) == 3


def _all_but(table: str, column: str) -> list[str]:
    return [each.name for each in sources.table(table).columns if each.name != column]


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with 1,000 runs of 200 values each, written by SQL."""
    path = tmp_path_factory.mktemp("many") / "many.db"
    with schema.locked(schema.make_engine(f"sqlite:///{path}")) as connection:
        schema.create(connection)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (7, 'many', '/old/7', 'active')"
        )
        ids = [f"{number:032x}" for number in range(1000)]
        connection.executemany(
            "INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, 'r', 'ann', 'FINISHED', 5, 'active', '/old/7/' || ? || '/artifacts', 7)",
            [(key, key) for key in ids],
        )
        connection.executemany(
            "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('m', ?, ?, ?, 0, ?)",
            ((step / 3, step, step, key) for key in ids for step in range(200)),
        )
        connection.commit()
    return path


def test_an_import_that_is_killed_goes_on_where_it_ended(
    many_runs: Path, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    name = database.rpartition("/")[2]
    keep = ("--artifacts", "keep", "--jobs", "1", "--staging", str(tmp_path / "staging"))
    process = subprocess.Popen(
        command(str(many_runs), *keep),
        env=environment(database, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def some() -> int:
        with contextlib.suppress(AssertionError):
            return int(postgres.sql("SELECT count(*) FROM runs", name))
        return 0

    try:
        wait_for(some, "some runs", 120)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    came = some()
    assert 0 < came < 1000
    assert came % 100 == 0, "a batch comes whole or not at all"
    assert int(postgres.sql("SELECT count(*) FROM metrics", name)) == came * 200
    done = bring(str(many_runs), database, tmp_path, *keep)
    assert f"runs: {1000 - came} copied and verified, {came} here already, 0 couldn't come" in done.stdout, done.stderr
    assert rows(database, "metrics") == rows(f"sqlite:///{many_runs}", "metrics")
    assert (
        postgres.sql("SELECT experiment_id, artifact_location FROM experiments WHERE name = 'many'", name) == "7|/old/7"
    )


def test_what_cannot_come_along_is_told_and_keeps_nothing_else_from_it(
    many_runs: Path, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    name = database.rpartition("/")[2]
    bad = tmp_path / "bad.db"
    with contextlib.closing(sqlite3.connect(many_runs)) as old, contextlib.closing(sqlite3.connect(bad)) as new:
        old.backup(new)
        new.execute("DELETE FROM runs WHERE run_uuid > ?", (f"{149:032x}",))
        new.execute("DELETE FROM metrics WHERE run_uuid > ?", (f"{149:032x}",))
        new.execute("UPDATE runs SET name = 'nul' || char(0) || 'x' WHERE run_uuid = ?", (f"{42:032x}",))
        new.execute(
            "INSERT INTO secrets (secret_id, secret_name, encrypted_value, wrapped_dek, kek_version, created_at, "
            "last_updated_at, masked_value) VALUES ('s', 'key', 'x', 'y', 1, 1, 1, '{}')"
        )
        new.commit()
    done = bring(str(bad), database, tmp_path, "--artifacts", "keep", "--report", str(tmp_path / "report.json"))
    assert done.returncode == 74
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["could_not_come_along"]) == [f"runs {42:032x}"]
    assert postgres.sql("SELECT count(*) FROM runs", name) == "149"
    assert postgres.sql("SELECT count(*) FROM metrics", name) == str(149 * 200)
    assert report["left_behind"]["secrets"].startswith("1: ")


def test_a_source_makes_the_server_read_nothing_that_it_was_not_told_to(
    many_runs: Path, database: str, tmp_path: Path
) -> None:
    evil = tmp_path / "evil.db"
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("the server's own")
    trusted = tmp_path / "trusted"
    (trusted / "1").mkdir(parents=True)
    (trusted / "1" / "link").symlink_to(secret / "key")
    with contextlib.closing(sqlite3.connect(many_runs)) as old, contextlib.closing(sqlite3.connect(evil)) as new:
        old.backup(new)
        new.execute("DELETE FROM runs WHERE run_uuid > ?", (f"{3:032x}",))
        new.execute("DELETE FROM metrics")
        places = (secret, f"{trusted}/../secret", f"{trusted}/1", "mlflow-artifacts:/../../etc")
        for number, place in enumerate(places):
            new.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (str(place), f"{number:032x}"))
        new.commit()
    destination = tmp_path / "artifacts"
    done = bring(str(evil), database, destination, "--allow", str(trusted), "--served-artifacts", str(trusted))
    assert done.returncode == 74, done.stdout
    assert done.stderr.count("isn't read unasked") >= 3, done.stderr
    assert "leads out of its folder" in done.stderr
    assert [path for path in destination.rglob("*") if path.is_file()] == []


def test_names_that_are_taken_are_told_and_nothing_is_mixed(many_runs: Path, database: str, tmp_path: Path) -> None:
    small = tmp_path / "small.db"
    with contextlib.closing(sqlite3.connect(many_runs)) as old, contextlib.closing(sqlite3.connect(small)) as new:
        old.backup(new)
        new.execute("DELETE FROM runs")
        new.execute("DELETE FROM metrics")
        new.execute("INSERT INTO registered_models (workspace, name) VALUES ('default', 'iris')")
        new.commit()
    other = tmp_path / "other.db"
    other.write_bytes(small.read_bytes())
    assert bring(str(small), database, tmp_path, "--artifacts", "keep").returncode == 0
    assert bring(str(small), database, tmp_path, "--artifacts", "keep").returncode == 0, "its own names aren't taken"
    done = bring(str(other), database, tmp_path, "--artifacts", "keep")
    assert "its name is taken" in done.stdout
    assert done.returncode == 74
    assert "registered_models iris: the name is taken here" in done.stderr
    found = rows(database, "experiments", *_all_but("experiments", "name"))
    assert ("many",) in found
    assert (f"many ({other})",) in found


def test_what_is_no_source_is_refused_with_the_fix(database: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    text = tmp_path / "text"
    text.write_text("nothing")
    for source, words in {
        "https://ann:secret@mlflow.example.com": "has a credential in it",
        str(tmp_path / "missing"): "is neither a folder",
        str(empty): "has no tables of MLflow's",
        str(text): "can't be read as a database of SQLite",
        "postgresql://nobody@127.0.0.1:1/x": "can't be reached",
    }.items():
        done = bring(source, database, tmp_path)
        assert done.returncode == 64, done.stderr
        assert words in done.stderr, done.stderr


def test_every_table_of_mlflow_comes_along_or_is_told_of() -> None:
    told = {*OF_EXPERIMENTS, *PASSED_OVER, *LEFT_BEHIND}
    told |= {name for group in GROUPS for name in (group.table, *(part for part, _ in group.parts))}
    # What belongs to a table that is left behind is left with it.
    belonging = {"endpoint_", "guardrail_", "webhook_", "review_queue_", "mcp_"}
    rest = {name for name in sources.metadata().tables if name not in told and not name.startswith(tuple(belonging))}
    assert rest == set(), "classify MLflow's new tables in gatehouse/moving/groups.py"


@pytest.fixture(scope="module")
def older_revision() -> str:
    """A schema of MLflow's that is two years old: that of 2.9."""
    return "acf3f17fdcc7"


def test_an_older_schema_comes_along_from_sqlite_and_postgresql(
    older_revision: str, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    from alembic import command as alembic
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    for source in (f"sqlite:///{tmp_path / 'older.db'}", database):
        engine = sqlalchemy.create_engine(parse_database(source))
        InitialBase.metadata.create_all(engine)
        alembic.upgrade(_get_alembic_config(parse_database(source)), older_revision)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
                "VALUES (3, 'old', '/old/3', 'active')"
            )
            connection.exec_driver_sql(
                "INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES ('abc', 'r', 'ann', 'FINISHED', 5, 'active', '/old/3/abc/artifacts', 3)"
            )
            connection.exec_driver_sql(
                "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('m', 0.1, 1, 2, false, 'abc')"
            )
            connection.exec_driver_sql("INSERT INTO params (key, value, run_uuid) VALUES ('p', 'v', 'abc')")
        engine.dispose()
        target = postgres.create(f"older_{engine.dialect.name}")
        done = bring(source, target, tmp_path, "--artifacts", "keep")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "runs: 1 copied and verified" in done.stdout
        assert rows(target, "metrics") == [("m", 0.1, 1, 2, False, "abc")]
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == older_revision
