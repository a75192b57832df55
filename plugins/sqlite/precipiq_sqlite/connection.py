"""Opens SQLite files as this project needs them, and translates SQLite's errors. Holds no connection."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from precipiq_contracts.database import Row
from precipiq_contracts.errors import Conflict, Unavailable
from precipiq_core.key_files import keep_private

PAGE_SIZE_BYTES = 4096
STATEMENTS_CACHED_COUNT = 256

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process; try again",
    sqlite3.SQLITE_LOCKED: "the database is locked; try again",
    sqlite3.SQLITE_PROTOCOL: "the database is locked; try again",
    sqlite3.SQLITE_INTERRUPT: "the database is closing",
    sqlite3.SQLITE_NOMEM: "the database is out of memory",
    sqlite3.SQLITE_FULL: "the disk that holds the database is full",
    sqlite3.SQLITE_READONLY: "the database cannot be written",
    sqlite3.SQLITE_IOERR: "the disk that holds the database fails; what was being written may or may not be stored",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_NOTADB: "the database file is damaged",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
}
_CONNECTION_IS_BAD = frozenset(
    (
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    )
)
_CONCERNS_ONE_WRITE = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM))


def open_for_writing(path: Path, busy_timeout_s: float, *, checkpoints: bool = True) -> sqlite3.Connection:
    """A connection in autocommit that may write, durable on COMMIT. Makes the file when it is absent.

    ``checkpoints=False``: the server's process alone moves the log into the file. Erased content is overwritten.
    """
    _keep_private(path)
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED_COUNT,
    )
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA recursive_triggers = ON")  # REPLACE then fires the triggers of DELETE
        connection.execute("PRAGMA temp_store = MEMORY")
        if not checkpoints:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_private(path: Path) -> None:
    """The file and those that SQLite keeps beside it are for their owner alone; SQLite says what else is wrong."""
    with suppress(OSError):
        # Only a new one is opened here: closing a file gives up all locks that this process has on it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for end in ("", "-wal", "-shm"):
        keep_private(path.with_name(path.name + end))


def open_for_reading(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that can only read."""
    connection = sqlite3.connect(
        read_only_uri(path),
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED_COUNT,
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def read_only_uri(path: Path) -> str:
    """The URI under which SQLite opens the file for reading."""
    return f"file:{quote(str(path))}?mode=ro"


def rows_of(cursor: sqlite3.Cursor) -> list[Row]:
    """The rows of a cursor by column name; none for a statement that gives none."""
    if cursor.description is None:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def primary_code(error: BaseException) -> int | None:
    """SQLite's primary result code; None when the error is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def translate(error: BaseException) -> BaseException:
    """The project's error for one of SQLite's: ``Unavailable`` or ``Conflict``; any other error as it is."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_CONSTRAINT:
        conflict = Conflict()
        conflict.__cause__ = error
        return conflict
    if code in _UNAVAILABLE:
        unavailable = Unavailable(_UNAVAILABLE[code])
        unavailable.__cause__ = error
        return unavailable
    return error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise the project's error in place of SQLite's."""
    try:
        yield
    except sqlite3.Error as error:
        failure = translate(error)
        if failure is error:
            raise
        raise failure from error


def is_connection_bad(error: BaseException) -> bool:
    """Whether the connection that raised the error must be replaced."""
    return primary_code(error) in _CONNECTION_IS_BAD


def concerns_every_write(error: BaseException) -> bool:
    """Whether every write would fail in the same way, so that retrying each alone is useless."""
    code = primary_code(error)
    return code in _UNAVAILABLE and code not in _CONCERNS_ONE_WRITE
