"""MLflow's engine on PostgreSQL:

rows go together, and a connection is asked whether it is alive only after it was idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import psycopg2.extensions
import pytest
import sqlalchemy
from sqlalchemy.engine import Engine

from gatehouse.database import engine
from gatehouse.start.settings import parse_database
from tests.support import Postgres


@pytest.fixture
def connections(database: str) -> Iterator[Engine]:
    """An engine as MLflow makes it."""
    engine.register()
    made = sqlalchemy.create_engine(engine.named(parse_database(database)), pool_pre_ping=True)
    yield made
    made.dispose()


def backend(connections: Engine) -> int:
    """Use a connection; return the id of the server's process behind it."""
    with connections.connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar_one())


def test_a_connection_that_died_while_idle_is_replaced(
    postgres: Postgres, connections: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PING_AFTER_S", 0.0)
    first = backend(connections)
    assert backend(connections) == first
    postgres.sql(f"SELECT pg_terminate_backend({first}, 5000)")
    assert backend(connections) not in {0, first}


def test_a_connection_in_use_is_not_pinged(connections: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    pings: list[object] = []
    ping = connections.dialect.do_ping

    def counted(connection: Any) -> bool:
        pings.append(connection)
        return ping(connection)

    monkeypatch.setattr(connections.dialect, "do_ping", counted)
    monkeypatch.setattr(engine, "PING_AFTER_S", 600.0)
    first = backend(connections)
    assert (backend(connections), pings) == (first, [])
    monkeypatch.setattr(engine, "PING_AFTER_S", 0.0)
    assert backend(connections) == first
    assert len(pings) == 1


def test_one_that_dies_in_between_costs_one_request(postgres: Postgres, connections: Engine) -> None:
    first = backend(connections)
    postgres.sql(f"SELECT pg_terminate_backend({first}, 5000)")
    with pytest.raises(sqlalchemy.exc.OperationalError):
        backend(connections)
    assert backend(connections) not in {0, first}


class Counting(psycopg2.extensions.cursor):
    """A cursor that keeps what it was told to send: each execution is a round trip, executemany one for each row."""

    sent: ClassVar[list[str]] = []

    def execute(self, query: Any, parameters: Any = None) -> None:
        self.sent.append(str(query))
        super().execute(query, parameters)

    def executemany(self, query: Any, parameters: Any) -> None:
        self.sent.extend([query] * len(parameters))
        super().executemany(query, parameters)


@pytest.mark.parametrize(("with_the_plugin", "round_trips"), [(True, 2), (False, 150)])
def test_the_updates_of_many_rows_go_together(database: str, with_the_plugin: bool, round_trips: int) -> None:
    uri = parse_database(database)
    engine.register()
    made = sqlalchemy.create_engine(
        engine.named(uri) if with_the_plugin else uri, connect_args={"cursor_factory": Counting}
    )
    table = sqlalchemy.Table("numbers", sqlalchemy.MetaData(), sqlalchemy.Column("n", sqlalchemy.Integer))
    with made.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [{"n": n} for n in range(150)])
        Counting.sent.clear()
        update = sqlalchemy.text("UPDATE numbers SET n = :new WHERE n = :old")
        connection.execute(update, [{"old": n, "new": n + 1000} for n in range(150)])
        assert len(Counting.sent) == round_trips
        assert connection.execute(sqlalchemy.select(sqlalchemy.func.min(table.c.n))).scalar_one() == 1000
    made.dispose()


@pytest.mark.parametrize(
    ("uri", "password", "query"),
    [
        ("postgresql+psycopg2://u:p@h/d", "p", {}),
        ("postgresql+psycopg2://u:a%3Fb%26c%40%2F%25@h/d", "a?b&c@/%", {}),
        ("postgresql+psycopg2://u:a?b@h/d", "a?b", {}),
        ("postgresql+psycopg2://u:p@/d?host=/cloudsql/p:r:i", "p", {"host": "/cloudsql/p:r:i"}),
    ],
)
def test_the_rest_of_the_url_stays(uri: str, password: str, query: dict[str, str]) -> None:
    url = sqlalchemy.make_url(engine.named(uri))
    assert (url.username, url.password, url.database) == ("u", password, "d")
    assert url.query == {**query, "plugin": engine.NAME}
    assert sqlalchemy.make_url(uri).difference_update_query(["plugin"]) == url.difference_update_query(["plugin"])


def test_other_databases_keep_sqlalchemys_ways() -> None:
    assert engine.named("sqlite:////x.db") == "sqlite:////x.db"
