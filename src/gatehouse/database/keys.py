"""The table of keys, beside MLflow's own tables: a key's hash, whose it is, what it may, until when.

The table is made under the lock by which MLflow's schema is made, when the setting asks for it first; its version
stands in a table of its own, and a database of a newer version is refused (docs/decisions/0039).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import BigInteger, Column, Integer, MetaData, SmallInteger, String, Table, Text, func, select
from sqlalchemy.pool import NullPool

from gatehouse.database import schema, tokens
from gatehouse.database.engine import TCP
from gatehouse.database.reach import SchemaError, told
from gatehouse.exit_codes import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Engine

#: Of our tables.
VERSION = 1
CONNECT_TIMEOUT_S = 5
#: Live keys that one person may have.
MOST = 50

METADATA = MetaData()
VERSIONS = Table("gatehouse_schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))
KEYS = Table(
    "gatehouse_keys",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("owner", String(254), nullable=False, index=True),
    Column("subject", String(255), nullable=False),
    # What the owner was at that time: JSON.
    Column("groups", Text, nullable=False),
    Column("role", SmallInteger, nullable=False),
    # Seconds since the epoch.
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("used", BigInteger),
    Column("revoked", BigInteger),
)


class KeyProblem(Exception):
    """A key can't be made or revoked; the text says why."""


@dataclass(frozen=True)
class Key:
    """One key, without its secret. Times are seconds since the epoch."""

    id: str
    name: str
    owner: str
    subject: str
    groups: tuple[str, ...]
    role: int
    created: int
    expires: int
    used: int | None
    revoked: int | None

    @staticmethod
    def of(row: Any) -> Key:
        """Return the key in a row of the table."""
        values = {name: value for name, value in row._mapping.items() if name != "hash"}
        return Key(**{**values, "groups": tuple(json.loads(values["groups"]))})

    def state(self, now: float) -> str:
        """Return ``live``, ``expired`` or ``revoked``."""
        return "revoked" if self.revoked is not None else "expired" if self.expires <= now else "live"


def ensure(uri: str, say: Callable[[str], None]) -> None:
    """Make the tables where they aren't yet; MLflow's schema must be there.

    Raises:
        SchemaError: if they are those of a newer release, or a right is missing.
    """
    engine = schema.make_engine(uri)
    with told(engine):
        with engine.connect() as connection:
            if _version(connection) == VERSION:
                return
        with schema.locked(engine) as connection:
            # Another instance may have been first.
            version = _version(connection)
            if version is None:
                say("making the table of keys")
                METADATA.create_all(connection)
                connection.execute(VERSIONS.insert().values(version=VERSION))
            elif version != VERSION:
                raise SchemaError(
                    f"the table of keys has the version {version}, and this release knows {VERSION}; nothing was "
                    "changed\n"
                    "    fix: deploy the release again that made it",
                    Exit.SCHEMA_UNKNOWN,
                )


def _version(connection: Any) -> int | None:
    if not sqlalchemy.inspect(connection).has_table(VERSIONS.name):
        return None
    version = connection.execute(select(func.max(VERSIONS.c.version))).scalar()
    return None if version is None else int(version)


class KeyTable:
    """What is done with the keys; each call is a transaction of its own, and blocks.

    Args:
        uri: the database.
        connections: kept open, and used at most at once; 0: one for each call.
        clock: now, in seconds since the epoch.
    """

    def __init__(self, uri: str, connections: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._uri = uri
        self._connections = connections
        self._clock = clock
        self._made: Engine | None = None

    @property
    def _engine(self) -> Engine:
        # Made in the process that uses it: workers are forked.
        if self._made is None:
            url, by_token = tokens.split(sqlalchemy.make_url(self._uri))
            if url.get_backend_name() == "sqlite":
                self._made = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": 60})
            else:
                given = {"connect_timeout": CONNECT_TIMEOUT_S, **TCP}
                arguments = {name: value for name, value in given.items() if name not in url.query}
                pool: dict[str, Any] = (
                    {"pool_size": self._connections, "max_overflow": 0, "pool_pre_ping": True, "pool_timeout": 10}
                    if self._connections
                    else {"poolclass": NullPool}
                )
                self._made = sqlalchemy.create_engine(url, connect_args=arguments, **pool)
                if by_token:
                    tokens.sign_in(self._made)
        return self._made

    def find(self, digest: str) -> Key | None:
        """Return the key with a hash, whatever its state."""
        with self._engine.connect() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.hash == digest)).first()
        return Key.of(row) if row else None

    def listed(self, owner: str | None = None) -> Sequence[Key]:
        """Return somebody's keys, or all, the newest first."""
        wanted = select(KEYS).order_by(KEYS.c.created.desc(), KEYS.c.id).limit(1000)
        with self._engine.connect() as connection:
            rows = connection.execute(wanted.where(KEYS.c.owner == owner) if owner is not None else wanted)
            return [Key.of(row) for row in rows]

    def add(self, key: Key, digest: str) -> None:
        """Store a new key.

        Raises:
            KeyProblem: if its owner has a live one of that name, or too many.
        """
        with self._engine.begin() as connection:
            live = [KEYS.c.owner == key.owner, KEYS.c.revoked.is_(None), KEYS.c.expires > int(self._clock())]
            names = [row[0] for row in connection.execute(select(KEYS.c.name).where(*live))]
            if key.name in names:
                raise KeyProblem(f"{key.owner} has a key named {key.name!r}; revoke it first, or choose another name.")
            if len(names) >= MOST:
                raise KeyProblem(f"{key.owner} has {MOST} keys already; revoke some first.")
            connection.execute(
                KEYS.insert().values(**{**key.__dict__, "groups": json.dumps(key.groups), "hash": digest})
            )

    def revoke(self, key_id: str, owner: str | None = None) -> Key:
        """End a key; with an owner, only one of that person's.

        Raises:
            KeyProblem: if there is no such key, or it is revoked already.
        """
        wanted = [KEYS.c.id == key_id, *([KEYS.c.owner == owner] if owner is not None else [])]
        with self._engine.begin() as connection:
            row = connection.execute(select(KEYS).where(*wanted)).first()
            if row is None:
                raise KeyProblem(f"There is no key {key_id!r}.")
            if row.revoked is not None:
                raise KeyProblem(f"The key {key_id} is revoked already.")
            connection.execute(KEYS.update().where(KEYS.c.id == key_id).values(revoked=int(self._clock())))
            return Key.of(row)

    def note_use(self, key_id: str) -> None:
        """Write down that a key was used now."""
        with self._engine.begin() as connection:
            connection.execute(KEYS.update().where(KEYS.c.id == key_id).values(used=int(self._clock())))
