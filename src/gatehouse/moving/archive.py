"""A backup: every table's rows and, by choice, every artifact, as files of a folder or a bucket.

``tables/NAME.gz`` has a table's rows in the text form of PostgreSQL's COPY; ``artifacts/…`` has the artifacts as they
are; ``artifacts.gz`` lists them, with sizes and checksums; ``manifest.json`` comes last, and without it there is no
backup.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import JSON, Boolean, Float, Integer, MetaData, select

from gatehouse import __version__
from gatehouse.artifacts.stores.base import PIECE, NotFound
from gatehouse.database import keys, schema
from gatehouse.moving import rows
from gatehouse.moving.sources import columns
from gatehouse.upstream import migrations

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table
    from sqlalchemy.engine import Connection, Engine

    from gatehouse.artifacts.stores.base import Store

MANIFEST = "manifest.json"
LISTING = "artifacts.gz"
FORMAT = 1
#: Bytes of a table's file that are kept in memory; more go to a temporary file.
IN_MEMORY = 8 * 1024 * 1024


class ArchiveError(Exception):
    """The backup can't be made, or can't be used; the text says why, and what to do."""


@dataclass(frozen=True)
class TableFile:
    """A table's file: its columns in order, its rows, and the checksum of its bytes."""

    name: str
    columns: list[str]
    rows: int
    sha256: str


@dataclass
class Manifest:
    """What a backup has; times in seconds since the epoch."""

    format: int
    made: float
    gatehouse: str
    mlflow: str
    revision: str
    tables: list[TableFile] = field(default_factory=list)
    #: Files and bytes, or None if the backup has no artifacts.
    artifacts: dict[str, Any] | None = None

    @staticmethod
    def load(text: bytes) -> Manifest:
        """Read it.

        Raises:
            ArchiveError: if it is none.
        """
        try:
            whole = json.loads(text)
            document = whole["manifest"]
            if whole["sha256"] != _digest(document):
                raise ArchiveError(f"{MANIFEST} is damaged: its checksum is another one; nothing was changed")
            tables = [TableFile(**each) for each in document.pop("tables")]
            manifest = Manifest(**document, tables=tables)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArchiveError(f"{MANIFEST} can't be read: {error}") from None
        if manifest.format != FORMAT:
            raise ArchiveError(f"the backup has the format {manifest.format}, and this release reads {FORMAT}")
        return manifest


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# --- Backup


def backup(engine: Engine, archive: Store, artifacts: Store | None, say: Callable[[str], None]) -> Manifest:
    """Write a backup of the database as it is at one moment, and of all artifacts that are there after it.

    Args:
        engine: of the database.
        archive: the folder or bucket, which holds no backup yet.
        artifacts: the gate's store, or None to leave artifacts out.

    Raises:
        ArchiveError: if there is a backup already.
        SchemaError: if the database's schema is none that the installed MLflow knows.
    """
    from mlflow.version import VERSION

    if _exists(archive, MANIFEST):
        raise ArchiveError(f"there is a backup already\n    fix: another folder, or remove its {MANIFEST} first")
    with engine.connect() as connection:
        snapshot(connection)
        found = schema.inspect(connection)
        if found.state in {schema.State.UNKNOWN, schema.State.FOREIGN}:
            schema.refuse(found)
        if found.revision is None:
            raise ArchiveError(
                "the database has no schema of MLflow's that has a revision: there is nothing to back up"
            )
        # An older one can be backed up too: before `gatehouse migrate`.
        manifest = Manifest(FORMAT, time.time(), __version__, VERSION, found.revision)
        tables = reflected(connection)
        for table in tables:
            manifest.tables.append(_write_table(connection, table, archive))
        say(f"{len(tables)} tables, {sum(each.rows for each in manifest.tables)} rows")
    if artifacts is not None:
        manifest.artifacts = _copy_out(artifacts, archive)
        say(f"{manifest.artifacts['files']} artifacts, {manifest.artifacts['bytes']} bytes")
    document = asdict(manifest)
    _put(archive, MANIFEST, json.dumps({"sha256": _digest(document), "manifest": document}, indent=1).encode())
    return manifest


def snapshot(connection: Connection) -> None:
    """See the database as it is at one moment until the transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT COUNT(*) FROM sqlite_master").all()
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def reflected(connection: Connection) -> list[Table]:
    """Return the database's tables, in an order in which each finds what it refers to."""
    tables = MetaData()
    tables.reflect(connection)
    return [table for table in tables.sorted_tables if table.name != "alembic_version"]


def _write_table(connection: Connection, table: Table, archive: Store) -> TableFile:
    chosen = columns(table)
    jsons = [isinstance(column.type, JSON) for column in chosen]
    count = 0
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0) as packed:
            result = connection.execution_options(yield_per=rows.CHUNK).execute(select(*chosen))
            for part in result.partitions():
                lines = ("\t".join(map(rows.field_text, row, jsons)) + "\n" for row in part)
                packed.write("".join(lines).encode())
                count += len(part)
        digest = _send(archive, f"tables/{table.name}.gz", file)
    return TableFile(table.name, [column.name for column in chosen], count, digest)


def _send(archive: Store, path: str, file: IO[bytes]) -> str:
    """Store a file; return its checksum."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256()
    sink = archive.create(path, size)
    try:
        while piece := file.read(PIECE):
            digest.update(piece)
            sink.write(piece)
        sink.commit()
    except BaseException:
        sink.abort()
        raise
    return digest.hexdigest()


def _put(archive: Store, path: str, data: bytes) -> None:
    _send(archive, path, io.BytesIO(data))


def walk(store: Store, path: str = "") -> Iterator[tuple[str, int]]:
    """Yield the path and size of all that a store has."""
    for entry in store.list(path):
        name = f"{path}/{entry.name}" if path else entry.name
        if entry.is_folder:
            yield from walk(store, name)
        else:
            yield name, entry.size or 0


def transfer(source: Store, path: str, target: Store, to: str) -> tuple[int, str]:
    """Copy one artifact; return its size and checksum."""
    digest = hashlib.sha256()
    size = 0
    opened = source.open(path)
    try:
        sink = target.create(to, opened.stat.size)
        try:
            while piece := opened.read():
                digest.update(piece)
                size += len(piece)
                sink.write(piece)
            sink.commit()
        except BaseException:
            sink.abort()
            raise
    finally:
        opened.close()
    return size, digest.hexdigest()


def _copy_out(artifacts: Store, archive: Store) -> dict[str, Any]:
    files = total = 0
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
            for path, _ in walk(artifacts):
                try:
                    size, digest = transfer(artifacts, path, archive, f"artifacts/{path}")
                except NotFound:
                    continue  # deleted meanwhile
                packed.write(json.dumps([path, size, digest]).encode() + b"\n")
                files += 1
                total += size
        listing = _send(archive, LISTING, file)
    return {"files": files, "bytes": total, "sha256": listing}


# --- Restore


def restore(uri: str, archive: Store, artifacts: Store | None, say: Callable[[str], None]) -> Manifest:
    """Put a backup into an empty database, and its artifacts, if it has some, into the gate's store.

    The database is there whole or not at all. A backup of an older schema is brought up to date.

    Args:
        uri: of the database.
        artifacts: the gate's store, or None to leave artifacts out.

    Raises:
        ArchiveError: if it is no backup, it is damaged, or the database isn't empty.
        SchemaError: if the database can't be reached.
    """
    try:
        manifest = Manifest.load(_get(archive, MANIFEST))
    except NotFound:
        raise ArchiveError(f"there is no backup: {MANIFEST} is missing; one that was interrupted has none") from None
    known = {script.revision for script in migrations.scripts().walk_revisions()}
    if manifest.revision not in known:
        raise ArchiveError(
            f"the backup has the schema {manifest.revision}, which the installed MLflow doesn't know: MLflow "
            f"{manifest.mlflow} made it\n    fix: restore with the release of Gatehouse that has it, or a newer one"
        )
    if artifacts is not None and manifest.artifacts is not None:
        _copy_in(manifest.artifacts, archive, artifacts)
        say(f"{manifest.artifacts['files']} artifacts, {manifest.artifacts['bytes']} bytes")
    engine = schema.make_engine(uri)
    with schema.locked(engine) as connection:
        if schema.inspect(connection).state is not schema.State.EMPTY:
            raise ArchiveError("the database isn't empty; nothing was changed\n    fix: restore into an empty one")
        schema.create(connection, manifest.revision)
        if any(each.name == keys.VERSIONS.name for each in manifest.tables):
            keys.METADATA.create_all(connection)
        present = {table.name: table for table in reflected(connection)}
        # What a migration had put there comes with the backup, too.
        for table in reversed(list(present.values())):
            connection.execute(table.delete())
        files = {each.name: each for each in manifest.tables}
        if missing := sorted(files.keys() - present.keys()):
            raise ArchiveError(f"the schema {manifest.revision} has no tables {', '.join(missing)}")
        for name, table in present.items():
            if name in files:
                _read_table(connection, table, files[name], archive)
        if keys.VERSIONS.name in files and (connection.scalar(select(keys.VERSIONS.c.version)) or 0) > keys.VERSION:
            raise ArchiveError(
                "the backup has keys of a newer release; nothing was changed\n    fix: restore with that one"
            )
        if connection.dialect.name == "postgresql":
            _set_sequences(connection, present.values())
        if manifest.revision != schema.wanted_revision():
            say(f"bringing the schema from {manifest.revision} to {schema.wanted_revision()}")
            migrations.upgrade(connection)
        schema.refuse(schema.inspect(connection))
    say(f"{len(manifest.tables)} tables, {sum(each.rows for each in manifest.tables)} rows, all verified")
    return manifest


def _set_sequences(connection: Connection, tables: Any) -> None:
    """Let the next number of each table be one that is free."""
    for table in tables:
        for column in table.primary_key.columns:
            if not isinstance(column.type, Integer):
                continue
            name = connection.dialect.identifier_preparer.quote(table.name)
            sequence = connection.scalar(
                sqlalchemy.text("SELECT pg_get_serial_sequence(:table, :column)"),
                {"table": name, "column": column.name},
            )
            largest = connection.scalar(select(sqlalchemy.func.max(column)))
            if sequence and largest:
                connection.execute(
                    sqlalchemy.text("SELECT setval(CAST(:s AS regclass), :n)"), {"s": sequence, "n": largest}
                )


def _read_table(connection: Connection, table: Table, file: TableFile, archive: Store) -> None:
    path = f"tables/{file.name}.gz"
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as stored:
        if _fetch(archive, path, stored) != file.sha256:
            raise ArchiveError(f"{path} is damaged: its checksum is another one; nothing was changed")
        stored.seek(0)
        chosen = [table.columns[name] for name in file.columns]
        parsers = [_parser(column.type) for column in chosen]
        count = 0
        with gzip.GzipFile(fileobj=stored, mode="rb") as packed:
            lines = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
            for part in rows.chunks(iter(lines), rows.CHUNK):
                count += len(part)
                rows.write(connection, table, [rows.parse_line(line, parsers) for line in part], chosen)
    there = connection.scalar(select(sqlalchemy.func.count()).select_from(table))
    if not count == there == file.rows:
        raise ArchiveError(f"{path} has {count} rows, {there} arrived, and there should be {file.rows}")


def _parser(kind: Any) -> Callable[[str], Any]:
    if isinstance(kind, JSON):
        return json.loads
    if isinstance(kind, Boolean):
        return lambda text: text in {"t", "1"}
    if isinstance(kind, Float):
        return float
    if isinstance(kind, Integer):
        return int
    return str


def _fetch(archive: Store, path: str, file: IO[bytes]) -> str:
    """Read a file of the archive; return its checksum."""
    digest = hashlib.sha256()
    try:
        opened = archive.open(path)
    except NotFound:
        raise ArchiveError(f"{path} is missing; nothing was changed") from None
    try:
        while piece := opened.read():
            digest.update(piece)
            file.write(piece)
    finally:
        opened.close()
    return digest.hexdigest()


def _get(archive: Store, path: str) -> bytes:
    opened = archive.open(path)
    try:
        return b"".join(iter(opened.read, b""))
    finally:
        opened.close()


def _copy_in(listed: dict[str, Any], archive: Store, artifacts: Store) -> None:
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        if _fetch(archive, LISTING, file) != listed["sha256"]:
            raise ArchiveError(f"{LISTING} is damaged: its checksum is another one; nothing was changed")
        file.seek(0)
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            for line in packed:
                path, size, digest = json.loads(line)
                try:
                    if artifacts.stat(path).size == size:
                        continue  # an earlier try brought it
                except NotFound:
                    pass
                try:
                    came = transfer(archive, f"artifacts/{path}", artifacts, path)
                except NotFound:
                    raise ArchiveError(f"artifacts/{path} is missing") from None
                if came != (size, digest):
                    artifacts.delete(path)
                    raise ArchiveError(f"artifacts/{path} is damaged: its checksum is another one")


def _exists(store: Store, path: str) -> bool:
    try:
        store.stat(path)
    except NotFound:
        return False
    return True
