"""Everything that a server's deployment and its database keep, as bytes: what a secret must be in none of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from precipiq_testkit.postgres import SERVER_VARIABLE, PostgresDatabase
from precipiq_testkit.server import ServerProcess


def places_with(server: ServerProcess, *texts: str) -> list[str]:
    """Where one of these texts is stored, as it is or as hexadecimal digits, which bytes of PostgreSQL show as."""
    wanted = [form for text in texts for form in (text.encode(), text.encode().hex().encode())]
    return [place for place, content in everything_stored(server) if any(form in content for form in wanted)]


def everything_stored(server: ServerProcess) -> Iterator[tuple[str, bytes]]:
    """Files of the data folder; on PostgreSQL also every row, and what its server wrote when it is one of our own."""
    yield from files_of(server.data_dir)
    if server.postgres is not None:
        yield from rows_of(server.postgres)
        if SERVER_VARIABLE not in os.environ:
            yield from files_of_postgres(server.postgres)


def rows_of(database: PostgresDatabase) -> Iterator[tuple[str, bytes]]:
    """Every row of every table that is not PostgreSQL's own, all its columns as text."""
    tables = database.sql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    for (table,) in tables:
        for (row,) in database.sql(f"SELECT row_::text FROM {table} AS row_"):
            yield f"table {table}", row.encode()


def files_of_postgres(database: PostgresDatabase) -> Iterator[tuple[str, bytes]]:
    """The database's files, the write-ahead log and the server's log. Needs the right to read them."""
    [(folder, oid)] = database.sql(
        "CHECKPOINT",
        "SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()",
    )
    data = Path(folder)
    yield from files_of(data / "base" / str(oid), data / "global", data / "pg_wal", data.parent / "log")


def files_of(*places: Path) -> Iterator[tuple[str, bytes]]:
    """These files and those in these folders."""
    for place in places:
        for path in (place, *place.rglob("*")):
            try:
                content = path.read_bytes()
            except (IsADirectoryError, FileNotFoundError):
                continue  # others use the same server, whose files come and go
            yield str(path), content
