"""A backup is whole or none, comes back byte for byte, also onto a newer schema, and damage is told before anything changes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import MetaData, select

from gatehouse.database import keys, schema
from gatehouse.moving.sources import columns
from gatehouse.start.settings import parse_database
from tests.support import Postgres, wait_for

OLDER = "acf3f17fdcc7"  # of MLflow 2.9
FILES = 400


def engine_of(uri: str) -> sqlalchemy.Engine:
    return schema.make_engine(parse_database(uri))


def start(verb: str, uri: str, destination: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "BACKEND_STORE_URI": uri, "ARTIFACTS_DESTINATION": str(destination)}
    return subprocess.Popen(
        [sys.executable, "-m", "gatehouse", verb, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(verb: str, uri: str, destination: Path, *arguments: str) -> tuple[int, str]:
    process = start(verb, uri, destination, *arguments)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def content(uri: str) -> dict[str, list[str]]:
    """Return all rows of all tables, as text."""
    tables = MetaData()
    engine = engine_of(uri)
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: sorted(repr(tuple(map(_plain, row))) for row in connection.execute(select(*columns(table))))
            for table in tables.sorted_tables
        }


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A database with odd values, and a store of artifacts."""
    folder = tmp_path_factory.mktemp("kept")
    path = folder / "kept.db"
    with schema.locked(schema.make_engine(f"sqlite:///{path}")) as connection:
        schema.create(connection)
        keys.METADATA.create_all(connection)
        connection.execute(keys.VERSIONS.insert().values(version=keys.VERSION))
        row = {"id": "k", "hash": "h", "name": "ci", "owner": "a@b.c", "subject": "s", "groups": '["x\\ty"]', "role": 2}
        connection.execute(keys.KEYS.insert().values(**row, created=1, expires=2**40))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (7, 'e', 'x', 'active')"
        )
        ids = [f"{number:032x}" for number in range(200)]
        connection.executemany(
            "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, 'r', 'FINISHED', 5, 'active', 'x', 7)",
            [(key,) for key in ids],
        )
        connection.executemany(
            "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('m', ?, ?, ?, ?, ?)",
            ((1 / (step + 3), step, step, step % 7 == 0, key) for key in ids for step in range(50)),
        )
        odd = "tab\t \\N back\\slash \r\n line\x0b\x1c\x85\u2028 ü 𝄞 \\t"
        connection.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
            [(name, value, ids[0]) for name, value in {"odd": odd, "empty": "", "N": "\\N", "back": "\\"}.items()],
        )
        connection.commit()
    for number in range(FILES):
        file = folder / "artifacts" / "7" / f"{number % 5}" / f"ü {number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(1000 + number))
    return f"sqlite:///{path}", folder / "artifacts"


@pytest.fixture(scope="module")
def archive(kept: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    place = tmp_path_factory.mktemp("archive") / "backup"
    code, errors = run("backup", *kept, str(place), "--artifacts")
    assert code == 0, errors
    return place


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_comes_back_is_what_was_there_from_one_kind_of_database_to_the_other(
    kept: tuple[str, Path], archive: Path, database: str, tmp_path: Path
) -> None:
    code, errors = run("restore", database, tmp_path / "artifacts", str(archive))
    assert code == 0, errors
    assert content(database) == content(kept[0])
    assert files(tmp_path / "artifacts") == files(kept[1])
    with engine_of(database).begin() as connection:
        made = connection.exec_driver_sql(
            "INSERT INTO experiments (name, lifecycle_stage) VALUES ('next', 'active') RETURNING experiment_id"
        ).scalar()
    assert made == 8
    again, back = tmp_path / "again", f"sqlite:///{tmp_path / 'back.db'}"
    with engine_of(database).begin() as connection:
        connection.exec_driver_sql("DELETE FROM experiments WHERE experiment_id = 8")
    assert run("backup", database, tmp_path / "artifacts", str(again))[0] == 0
    assert run("restore", back, tmp_path / "other", str(again))[0] == 0
    assert content(back) == content(kept[0])


def test_a_backup_that_is_killed_is_none(kept: tuple[str, Path], database: str, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    process = start("backup", *kept, str(place), "--artifacts")
    try:
        wait_for(lambda: len(list(place.glob("artifacts/7/*/*"))) > 3, "some artifacts", 120)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (place / "manifest.json").exists()
    code, errors = run("restore", database, tmp_path / "artifacts", str(place))
    assert code == 74
    assert "there is no backup: manifest.json is missing" in errors
    # The same place serves the next try.
    assert run("backup", *kept, str(place), "--artifacts")[0] == 0
    code, errors = run("backup", *kept, str(place))
    assert code == 74
    assert "there is a backup already" in errors


def test_a_restore_that_is_killed_leaves_the_database_empty_and_can_be_done_again(
    kept: tuple[str, Path], archive: Path, database: str, postgres: Postgres, tmp_path: Path
) -> None:
    name = database.rpartition("/")[2]
    process = start("restore", database, tmp_path / "artifacts", str(archive))

    def begun() -> bool:
        return (
            postgres.sql(
                f"SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = '{name}' AND mode = 'AccessExclusiveLock'"
            )
            != "0"
        )

    try:
        wait_for(begun, "the restore's transaction", 120)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    wait_for(lambda: not begun(), "the end of the transaction", 60)
    assert postgres.sql("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'", name) == "0"
    code, errors = run("restore", database, tmp_path / "artifacts", str(archive))
    assert code == 0, errors
    assert content(database) == content(kept[0])
    assert files(tmp_path / "artifacts") == files(kept[1])
    code, errors = run("restore", database, tmp_path / "artifacts", str(archive))
    assert code == 74
    assert "the database isn't empty; nothing was changed" in errors


@pytest.mark.parametrize("file", ["tables/metrics.gz", "artifacts.gz", "artifacts/7/3/ü 3.bin", "manifest.json"])
def test_damage_is_told_and_the_database_stays_empty(archive: Path, file: str, tmp_path: Path) -> None:
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(archive, damaged)
    data = bytearray((damaged / file).read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / file).write_bytes(data)
    target = f"sqlite:///{tmp_path / 'target.db'}"
    code, errors = run("restore", target, tmp_path / "artifacts", str(damaged))
    assert code == 74, errors
    assert file.removesuffix(".json") in errors or "manifest" in errors or "can't be read" in errors
    with engine_of(target).connect() as connection:
        assert schema.inspect(connection).state is schema.State.EMPTY


def test_an_older_releases_backup_comes_back_with_the_newer_schema(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    from alembic import command as alembic
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    engine = sqlalchemy.create_engine(parse_database(database))
    InitialBase.metadata.create_all(engine)
    alembic.upgrade(_get_alembic_config(parse_database(database)), OLDER)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (3, 'old', 'active')"
        )
        connection.exec_driver_sql(
            "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id) "
            "VALUES ('abc', 'r', 'FINISHED', 5, 'active', 3)"
        )
        connection.exec_driver_sql(
            "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('m', 0.1, 1, 2, true, 'abc')"
        )
    engine.dispose()
    place = tmp_path / "backup"
    code, errors = run("backup", database, tmp_path / "artifacts", str(place))
    assert code == 0, errors
    assert json.loads((place / "manifest.json").read_text())["manifest"]["revision"] == OLDER
    target = postgres.create("newer")
    code, errors = run("restore", target, tmp_path / "artifacts", str(place))
    assert code == 0, errors
    with engine_of(target).connect() as connection:
        assert schema.inspect(connection).state is schema.State.CURRENT
    assert content(target)["metrics"] == content(database)["metrics"]
