"""What runs behind the emulated Cloud Run when a test wants the real thing:

the image in Docker, with a real PostgreSQL.

The container gets what Cloud Run gives (PORT, its settings, secrets as variables and files, the database's socket under
/cloudsql) and nothing else, but for the two addresses that stand for Google's network: the storage API
(STORAGE_EMULATOR_HOST) and the host's loopback.
"""

from __future__ import annotations

import http.client
import io
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from tests.deploy.emulator import Emulator
from tests.deploy.emulator.run import Launch
from tests.support import Postgres, free_port

JOB_LIMIT_S = 180


class Server:
    """A Cloud SQL instance's engine:

    the tests' PostgreSQL, reached as `/cloudsql/PROJECT:REGION:INSTANCE/.s.PGSQL.5432`.
    """

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    def create_database(self, name: str) -> None:
        """Create a database owned by the role that every Cloud SQL user is a member of."""
        if not self.postgres.sql("SELECT 1 FROM pg_roles WHERE rolname = 'cloudsqlsuperuser'"):
            self.postgres.sql("CREATE ROLE cloudsqlsuperuser NOLOGIN")
        self.postgres.sql(f'DROP DATABASE IF EXISTS "{name}"')
        self.postgres.sql(f'CREATE DATABASE "{name}" OWNER cloudsqlsuperuser')

    def set_user(self, name: str, password: str) -> None:
        """Create a user (no superuser, as in Cloud SQL) or change the password."""
        if self.postgres.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'"):
            self.postgres.sql(f"ALTER ROLE \"{name}\" PASSWORD '{password}'")
        else:
            self.postgres.sql(
                f"CREATE ROLE \"{name}\" LOGIN CREATEDB CREATEROLE IN ROLE cloudsqlsuperuser PASSWORD '{password}'"
            )

    def ask_for_passwords(self) -> None:
        """From now on, let nobody in without the right password (but the tests' own superuser)."""
        rules = "local all gatehouse trust\nhost all gatehouse 127.0.0.1/32 trust\nlocal all all scram-sha-256\n"
        (self.postgres.data / "pg_hba.conf").write_text(rules)
        self.postgres.sql("SELECT pg_reload_conf()")

    def dump(self) -> bytes:
        """Return a backup: the users with their passwords, and MLflow's database."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, arguments in (
                ("backup-users.sql", ("pg_dumpall", "--roles-only")),
                ("backup-data.sql", ("pg_dump", "--create", "-d", "mlflow")),
            ):
                text = self._with(*arguments).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
        return out.getvalue()

    def load(self, backup: bytes) -> None:
        """Take over what a backup holds."""
        with tarfile.open(fileobj=io.BytesIO(backup)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                path = self.postgres.folder / member.name
                path.write_bytes(file.read().replace(b"CREATE ROLE gatehouse;", b""))
                path.chmod(0o644)
                self._with("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", str(path))

    def _with(self, program: str, *arguments: str) -> str:
        place = ("-h", str(self.postgres.folder), "-p", str(self.postgres.port), "-U", "gatehouse")
        return self.postgres._run(program, *place, *arguments)


class Docker:
    """Runs an image, whatever name the registry knows it by."""

    def __init__(self, cloud: Emulator, server: Server, image: str) -> None:
        self.cloud, self.server, self.image = cloud, server, image
        self.names: list[str] = []
        self.folder = Path(tempfile.mkdtemp(prefix="run", dir="/tmp"))

    def _command(self, launch: Launch, port: int, *options: str) -> list[str]:
        # Docker's environment file, so that no secret is an argument.
        settings = self.folder / f"{launch.name}.env"
        values = {"PORT": str(port), "K_SERVICE": "mlflow-dev", **launch.environment}
        values["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{self.cloud.port}"
        settings.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        settings.chmod(0o600)
        command = [
            "docker",
            "run",
            "--network=host",
            f"--name=gh-{self.cloud.port}-{launch.name}",
            f"--env-file={settings}",
            *options,
        ]
        for instance in launch.sql_instances:
            command.append(
                f"--mount=type=bind,source={self.server.postgres.folder},target=/cloudsql/{instance},readonly"
            )
        for path, data in launch.files.items():
            file = self.folder / f"{launch.name}-{Path(path).name}"
            file.write_bytes(data)
            file.chmod(0o644)
            command.append(f"--mount=type=bind,source={file},target={path},readonly")
        self.names.append(f"gh-{self.cloud.port}-{launch.name}")
        return [*command, self.image, *launch.arguments]

    def start(self, launch: Launch) -> tuple[str, int]:
        """Start the container and wait for the startup probe."""
        if "broken" in launch.image:
            raise RuntimeError("the container called exit(1)")
        port = free_port()
        _docker(*self._command(launch, port, "--detach"))
        deadline = time.monotonic() + max(launch.patience, 120)
        while time.monotonic() < deadline:
            if _probe(port, launch.probe_path):
                return "127.0.0.1", port
            if _docker("docker", "inspect", "--format={{.State.Running}}", self.names[-1]).strip() != "true":
                raise RuntimeError(f"the container ended:\n{self.log()}")
            time.sleep(0.2)
        raise RuntimeError(f"the container is not ready:\n{self.log()}")

    def job(self, launch: Launch) -> tuple[int, str]:
        """Run the container to its end."""
        done = subprocess.run(
            self._command(launch, free_port()),
            capture_output=True,
            text=True,
            timeout=JOB_LIMIT_S,
            check=False,
        )
        assert done.returncode != 125, done.stderr  # docker itself
        return done.returncode, done.stdout + done.stderr

    def log(self) -> str:
        """Return what the last container wrote."""
        done = subprocess.run(
            ["docker", "logs", self.names[-1]], capture_output=True, text=True, timeout=30, check=False
        )
        return (done.stdout + done.stderr)[-6000:]

    def stop(self) -> None:
        """Remove every container of this runtime."""
        if self.names:
            subprocess.run(["docker", "rm", "--force", *self.names], capture_output=True, timeout=60, check=False)
        self.names.clear()


def _docker(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _probe(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 400
    except OSError:
        return False
    finally:
        connection.close()
