"""`restore`: to a new server, verified, switched; the old one stays. With a real PostgreSQL behind each emulated server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.resources.secrets import password_of
from tests.deploy import snapshot
from tests.deploy.conftest import PROJECT, ROOT, TIMEOUT_S, Tool, image
from tests.deploy.emulator.core import Call
from tests.deploy.emulator.run import Launch, Pretended
from tests.deploy.runtimes import Server
from tests.support import Postgres

OLD, ROWS = "mlflow-dev", {"experiments": 3, "runs": 12, "metrics": 400}


def identity(tool: Tool) -> str:
    """Return the newest backup's id."""
    return str(tool.cloud.sql.instances[OLD].backups[0]["id"])


def serves_on(tool: Tool) -> str:
    notes = tool.cloud.run.services["mlflow-dev"].meta["spec"]["template"]["metadata"]["annotations"]
    return str(notes["run.googleapis.com/cloudsql-instances"]).rsplit(":", 1)[-1]


@pytest.fixture
def backed_up(deployed: Tool) -> Tool:
    """A deployment with a backup, of before the tables lost rows."""
    deployed.here_good("backup")
    runtime = deployed.cloud.run.runtime
    assert isinstance(runtime, Pretended)
    new = f"{OLD}-from-{identity(deployed)}"
    runtime.rows = {OLD: ROWS | {"runs": 2}, new: ROWS}
    deployed.cloud.requests.clear()
    return deployed


def test_a_backup_is_restored_verified_and_switched_to_and_the_old_server_stays(backed_up: Tool) -> None:
    cloud, new = backed_up.cloud, f"{OLD}-from-{identity(backed_up)}"
    before = snapshot.take(cloud)["sql"][OLD]
    told = backed_up.here_good("restore", "--backup", "latest", "--yes", "--no-smoke")
    assert "runs: 2 rows now, 12 rows restored" in told.out
    assert "2 of 3 tables have as many rows as now" in told.out
    assert serves_on(backed_up) == new
    assert snapshot.take(cloud)["sql"][OLD] == before
    assert sorted(cloud.run.jobs) == ["mlflow-dev-schema"]
    assert not backed_up.refused()
    # Until the file says so, nothing leads the service back to where people's work is not.
    refused = backed_up.here("plan")
    assert refused.code == 78
    assert f"names: {{sql: {new}}}" in refused.out
    backed_up.configure(names={"sql": new})
    assert "Nothing to do" in backed_up.here_good("plan").out
    status = json.loads(backed_up.here("status", "--json").out)
    assert status["kept_databases"] == [OLD]
    # The way back is a rollback: the revision of before, with its server and its password.
    backed_up.here_good("rollback", "--no-smoke")
    backed_up.configure()
    assert "Nothing to do" in backed_up.here_good("plan").out
    backed_up.here_good("destroy", "--data", "--confirm", "dev")
    assert snapshot.take(cloud)["sql"] == {}
    assert "database server" not in str(cloud.project.policy.bindings)


def test_what_lost_its_rows_is_not_switched_to(backed_up: Tool) -> None:
    runtime = backed_up.cloud.run.runtime
    assert isinstance(runtime, Pretended)
    runtime.rows = {OLD: ROWS}
    result = backed_up.here("restore", "--backup", "latest", "--yes", "--no-smoke")
    assert result.code == 1
    assert "experiments, metrics, runs" in result.text
    assert "gcloud sql instances delete mlflow-dev-from-" in result.text
    assert serves_on(backed_up) == OLD
    backed_up.here_good("restore", "--backup", "latest", "--yes", "--no-smoke", "--even-if-less")
    assert serves_on(backed_up) != OLD


def test_a_moment_is_restored_to_a_clone(deployed: Tool) -> None:
    deployed.cloud.sql.instances[OLD].meta["settings"]["backupConfiguration"]["pointInTimeRecoveryEnabled"] = True
    deployed.configure(sql={"point_in_time_recovery": True})
    deployed.here_good("restore", "--at", "2026-01-02T03:04:05+01:00", "--yes", "--no-smoke")
    assert serves_on(deployed) == f"{OLD}-at-20260102t020405"
    (clone,) = [r for r in deployed.cloud.requests if r.method == "sql.instances.clone"]
    assert json.loads(clone.body)["cloneContext"]["pointInTime"].startswith("2026-01-02T02:04:05")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--backup", "1"), "no good backup 1. It has these"),
        (("--backup", "latest", "--into", OLD), "nothing is restored over data"),
        (("--backup", "latest", "--into", "somebody-elses"), "is another's"),
        (("--at", "2026-01-02T03:04:05Z"), "no point-in-time recovery"),
        (("--at", "2026-01-02T03:04:05"), "of which zone"),
        (("--at", "2999-01-02T03:04:05Z"), "is yet to come"),
    ],
)
def test_nothing_is_restored_over_data_or_out_of_nothing(
    backed_up: Tool, arguments: tuple[str, ...], told: str
) -> None:
    sql = backed_up.cloud.sql
    other = sql.instances[OLD].meta | {"name": "somebody-elses"}
    other["settings"] = other["settings"] | {"userLabels": {"app": "gatehouse", "environment": "prod"}}
    sql.instances["somebody-elses"] = type(sql.instances[OLD])(other)
    result = backed_up.here("restore", *arguments, "--yes", "--no-smoke")
    assert result.code == 1
    assert told in result.text
    assert {r.method for r in backed_up.cloud.writes} <= {"cloudresourcemanager.projects.setIamPolicy"}


def test_killed_after_every_write_in_turn_the_same_command_ends_it(backed_up: Tool) -> None:
    """`kill -9` as soon as a write of each kind has taken effect, once for each kind that there is."""
    cloud = backed_up.cloud
    stopped: list[str] = []
    while True:
        process = backed_up.start("restore", "--backup", "latest", "--yes", "--no-smoke")

        def kill(call: Call, process: subprocess.Popen[str] = process) -> None:
            if call.method not in stopped:
                stopped.append(call.method)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

        cloud.after_write = kill
        out, err = process.communicate(timeout=TIMEOUT_S)
        if process.returncode != -signal.SIGKILL:
            break
        assert len(stopped) < 30, stopped
    assert process.returncode == 0, out + err
    assert {
        "sql.instances.insert", "sql.instances.restoreBackup", "secretmanager.projects.secrets.addVersion", "sql.users.update",
        "run.namespaces.jobs.run", "run.namespaces.services.replaceService", "cloudresourcemanager.projects.setIamPolicy",
        "run.namespaces.jobs.delete",
    } <= set(stopped)  # fmt: skip
    new = f"{OLD}-from-{identity(backed_up)}"
    assert serves_on(backed_up) == new
    assert len([r for r in cloud.writes if r.method == "sql.instances.restoreBackup"]) == 1
    url = cloud.secrets.value("mlflow-dev-database-url", "2").decode()
    assert len(cloud.secrets.all["mlflow-dev-database-url"].versions) == 2
    assert cloud.sql.instances[new].users["mlflow"] == password_of(url)
    backed_up.configure(names={"sql": new})
    assert "Nothing to do" in backed_up.here_good("plan").out


# With real databases
# ---------------------------------------------------------------------------------------------------------------------


class Local(Pretended):
    """Jobs run `gatehouse` of this checkout on the real databases; the service itself is pretended."""

    def __init__(self, servers: dict[str, Server]) -> None:
        super().__init__()
        self.servers = servers

    def url(self, launch: Launch) -> str:
        """Return the launch's database URL, as it reaches the server from here."""
        connection = launch.sql_instances[0]
        postgres = self.servers[connection.rsplit(":", 1)[-1]].postgres
        url = launch.environment["BACKEND_STORE_URI"]
        assert f"host=/cloudsql/{connection}" in url
        return url.replace(f"host=/cloudsql/{connection}", f"host={postgres.folder}&port={postgres.port}")

    def job(self, launch: Launch) -> tuple[int, str]:
        self.launched.append(launch)
        done = subprocess.run(
            [sys.executable, "-m", *launch.arguments],
            env=os.environ | {"BACKEND_STORE_URI": self.url(launch), "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def servers(postgres: Postgres) -> Iterator[dict[str, Server]]:
    """Database server's name → PostgreSQL of its own, which asks for passwords."""
    made = {OLD: Server(postgres)}
    yield made
    for name, server in made.items():
        if name != OLD:
            server.postgres.remove()


def test_a_dropped_table_comes_back_with_its_rows(deployed: Tool, servers: dict[str, Server], tmp_path: Path) -> None:
    del tmp_path
    cloud, old = deployed.cloud, servers[OLD]

    def new_server(name: str) -> Server:
        servers[name] = Server(Postgres())
        return servers[name]

    cloud.sql.engines, cloud.sql.make_engine = {OLD: old}, new_server
    runtime: Any = Local(servers)
    cloud.run.runtime = runtime
    old.create_database("mlflow")
    old.set_user("mlflow", cloud.sql.instances[OLD].users["mlflow"])
    old.ask_for_passwords()
    deployed.here_good("migrate")
    old.postgres.sql(
        "INSERT INTO experiments (name, lifecycle_stage) VALUES ('a', 'active'), ('b', 'active')", "mlflow"
    )
    deployed.here_good("backup")
    # Since: a rotation, so the backup's password is no secret's any more; and the accident.
    deployed.here_good("rotate", "database", "--no-smoke")
    old.postgres.sql("DROP TABLE experiments CASCADE", "mlflow")
    told = deployed.here_good("restore", "--backup", "latest", "--yes", "--no-smoke")
    assert "experiments: no table now, 2 rows restored" in told.out
    new = servers[serves_on(deployed)]
    assert new is not old
    new.ask_for_passwords()
    url = runtime.url(runtime.launched[-1])
    import sqlalchemy

    with sqlalchemy.create_engine(url).connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT name FROM experiments ORDER BY name")).scalars().all()
    assert rows == ["a", "b"]
    assert old.postgres.sql("SELECT to_regclass('experiments') IS NULL", "mlflow") == "t"
    deployed.configure(names={"sql": serves_on(deployed)}, image=image("1"))
    assert "Nothing to do" in deployed.here_good("plan").out
    assert PROJECT in url or new.postgres.port
