"""A token stands for the database's password: Cloud SQL's IAM sign-in, with a metadata server and a real PostgreSQL that asks."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import sqlalchemy

from gatehouse.commands import migrate
from gatehouse.database import engine, schema, shortway, tokens
from gatehouse.database.connections import Connection
from gatehouse.database.reach import SchemaError, wait_for_database
from gatehouse.start.settings import Invalid, parse_database
from tests.support import Postgres

USER = "mlflow-dev@demo-project.iam"


class Metadata(http.server.BaseHTTPRequestHandler):
    """What answers at metadata.google.internal: the account's token, with the seconds that it lives."""

    token: ClassVar[str] = ""
    life_s: ClassVar[int] = 3600
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        body: Any = {}
        if "/token" in self.path:
            self.asked.append(self.path)
            body = {"access_token": self.token, "expires_in": self.life_s, "token_type": "Bearer"}
        elif "recursive=true" in self.path:
            body = {"email": f"{USER}.gserviceaccount.com", "scopes": [tokens.SCOPE], "aliases": ["default"]}
        data = json.dumps(body).encode()
        self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" and self.token else 403)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[type[Metadata]]:
    """A metadata server, found as on Cloud Run."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    place = f"127.0.0.1:{server.server_address[1]}"
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, place)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))  # nobody's own credentials
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", place, raising=False)
    monkeypatch.setattr(
        "google.auth.compute_engine._metadata._METADATA_ROOT", f"http://{place}/computeMetadata/v1/", raising=False
    )
    monkeypatch.setattr("google.auth.compute_engine._metadata._METADATA_IP_ROOT", f"http://{place}", raising=False)
    monkeypatch.setattr(tokens, "tokens", tokens.Tokens())
    Metadata.token, Metadata.life_s = "first", 3600
    Metadata.asked.clear()
    yield Metadata
    server.shutdown()
    server.server_close()


@pytest.fixture
def uri(postgres: Postgres, database: str) -> Iterator[str]:
    """The URL of a database whose user signs in with what the server asks for: a password, the token."""
    rules, name = postgres.data / "pg_hba.conf", sqlalchemy.make_url(database).database
    before = rules.read_text()
    postgres.sql(f"CREATE ROLE \"{USER}\" LOGIN SUPERUSER PASSWORD 'first'")
    rules.write_text(f'host all "{USER}" 127.0.0.1/32 password\n{before}')
    postgres.sql("SELECT pg_reload_conf()")
    yield f"postgresql://{USER.replace('@', '%40')}@127.0.0.1:{postgres.port}/{name}?gatehouse_auth=google"
    rules.write_text(before)
    postgres.sql("SELECT pg_reload_conf()")
    postgres.sql(f'REASSIGN OWNED BY "{USER}" TO gatehouse', str(name))
    postgres.sql(f'DROP ROLE "{USER}"')


def who(made: sqlalchemy.Engine) -> str:
    with made.connect() as connection:
        return str(connection.execute(sqlalchemy.text("SELECT current_user")).scalar_one())


async def read(arguments: Any) -> str:
    connection = await Connection.open(arguments, 10, 10)
    try:
        return str(connection.backend)
    finally:
        connection.close()


def test_all_that_connects_signs_in_with_the_token_of_the_moment(
    postgres: Postgres, uri: str, metadata: type[Metadata]
) -> None:
    """MLflow's engine, the schema's, and the reads; and again once the token is another."""
    engine.register()
    url = parse_database(uri)
    pooled = sqlalchemy.create_engine(engine.named(url, 60))
    migrate.migrate(url, check_only=False, limit_s=20)
    reads = shortway.arguments(sqlalchemy.make_url(url))
    assert who(pooled) == who(schema.make_engine(url)) == USER
    assert int(asyncio.run(read(reads))) > 0
    assert len(metadata.asked) == 1, "a token that lives is kept"
    assert tokens.SCOPE in metadata.asked[0].replace("%3A", ":").replace("%2F", "/")
    # Its end comes: what is open goes on, and what is new has the next one.
    with pooled.connect() as opened:
        postgres.sql(f"ALTER ROLE \"{USER}\" PASSWORD 'second'")
        metadata.token, metadata.life_s = "second", 1
        tokens.tokens = tokens.Tokens()
        assert opened.execute(sqlalchemy.text("SELECT 1")).scalar_one() == 1
        assert who(pooled) == USER
    assert who(schema.make_engine(url)) == USER
    assert int(asyncio.run(read(reads))) > 0
    # A second before its end it is as good as over: each of the three asked for its own.
    assert len(metadata.asked) == 4
    pooled.dispose()


def test_a_token_that_cannot_be_had_is_told_with_its_reason(uri: str, metadata: type[Metadata]) -> None:
    metadata.token = ""
    with pytest.raises(SchemaError, match="no access token stands for the password"):
        wait_for_database(schema.make_engine(parse_database(uri)), 0.1, lambda _: None)


def test_a_token_and_a_password_are_not_both_taken() -> None:
    with pytest.raises(Invalid, match="has a password, and gatehouse_auth"):
        parse_database("postgresql://u:p@h/d?gatehouse_auth=google")
    with pytest.raises(Invalid, match="gatehouse_auth='aws'"):
        parse_database("postgresql://u@h/d?gatehouse_auth=aws")
