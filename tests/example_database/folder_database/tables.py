"""The tables: SQL over an SQLite database in memory, which is what the files in a folder say.

``base.db`` is the whole database as it once was, ``<number>.json`` each commit since: the statements of a transaction.
Every process replays what it has not seen before it reads, and before it writes, under the lock. So a commit is one
file, durable when it has its name, and nothing has to be repaired after a crash. What it costs: all rows lie in the
memory of each process, and statements must do the same each time: those that ask for time or chance are refused.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, BinaryIO

from folder_database.files import make_folder, write_whole, writing_alone
from folder_database.migrate import apply_missing, missing_revisions
from precipiq_contracts.database import Migration, Row, Statement
from precipiq_contracts.errors import Conflict

_UNSTABLE = re.compile(
    "changes|current_(date|time|timestamp)|date|datetime|julianday|last_insert_rowid|random|randomblob|strftime|time|"
    "timediff|total_changes|unixepoch",
    re.IGNORECASE,
)
_VERSION = slice(60, 64)
"""Where a file of SQLite holds ``user_version``: here the number of the last commit that is in it."""
_BYTES = ":base64"


class Tables:
    """The tables as this process has them. For one thread.

    ``commits_max``: commits that lie beside the base before a new one is written.
    """

    def __init__(self, folder: Path, *, lock_timeout_s: float, commits_max: int) -> None:
        self._folder = folder
        self._lock_timeout_s = lock_timeout_s
        self._commits_max = commits_max
        make_folder(folder)
        self._connection = open_in_memory()
        self._number = 0
        self._base: BinaryIO | None = None
        self._take_base()  # before any commit: a crash may have left some that are in it

    def close(self) -> None:
        self._connection.close()
        if self._base is not None:
            self._base.close()

    def current(self) -> sqlite3.Connection:
        """The tables with every commit that has returned, of whatever process."""
        # In this order: whoever writes a base removes commits behind it.
        while self._take_commit() or self._take_base():
            pass
        return self._connection

    def read(self, statement: Statement) -> list[Row]:
        """What a statement finds; it cannot change anything."""
        connection = self.current()
        connection.execute("PRAGMA query_only = ON")
        try:
            return rows_of(connection.execute(statement.sql, dict(statement.parameters)))
        finally:
            connection.execute("PRAGMA query_only = OFF")

    def commit(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Execute all or none; on disk on return. Raises ``Conflict`` when a constraint is violated."""
        with self._writing():
            connection = self.current()
            before = connection.total_changes
            connection.execute("BEGIN")
            try:
                rows = [rows_of(connection.execute(item.sql, dict(item.parameters))) for item in statements]
                if connection.total_changes > before:
                    write_whole(self._commit_file(self._number + 1), _text_of(statements))
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.IntegrityError):
                    raise Conflict from error
                raise
            connection.execute("COMMIT")
            if connection.total_changes > before:
                self._number += 1
                if self._number % self._commits_max == 0:
                    self._write_base(connection, self._number)
            return rows

    def missing(self, migrations: Sequence[Migration]) -> list[str]:
        """The revisions that the tables lack, in order."""
        return missing_revisions(self.current(), migrations)

    def migrate(self, migrations: Sequence[Migration]) -> list[str]:
        """Apply them, all or none; what was applied. The changed tables are a new base."""
        with self._writing(), closing(open_in_memory()) as changed:
            changed.deserialize(self.current().serialize())
            applied = apply_missing(changed, migrations)
            if applied:
                self._write_base(changed, self._number + 1)
                self.current()
            return applied

    def _writing(self) -> AbstractContextManager[None]:
        return writing_alone(self._folder, self._lock_timeout_s)

    def _commit_file(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _take_commit(self) -> bool:
        try:
            text = self._commit_file(self._number + 1).read_bytes()
        except FileNotFoundError:
            return False
        self._connection.execute("BEGIN")
        for statement in _statements_in(text):
            self._connection.execute(statement.sql, dict(statement.parameters)).fetchall()
        self._connection.execute("COMMIT")
        self._number += 1
        return True

    def _take_base(self) -> bool:
        path = self._folder / "base.db"
        try:
            if self._base is not None and os.path.samestat(os.fstat(self._base.fileno()), path.stat()):
                return False
            base = path.open("rb")
        except FileNotFoundError:
            return False
        if self._base is not None:
            self._base.close()
        self._base = base  # stays open, so that no other base can have its place among the inodes
        content = base.read()
        number = int.from_bytes(content[_VERSION])
        if number > self._number:
            self._connection.deserialize(content)
            self._number = number
        return True

    def _write_base(self, connection: sqlite3.Connection, number: int) -> None:
        connection.execute(f"PRAGMA user_version = {number}")
        write_whole(self._folder / "base.db", connection.serialize())
        for path in self._folder.glob("*.json"):
            if int(path.stem) <= number:
                path.unlink()


def open_in_memory() -> sqlite3.Connection:
    """An empty database in memory that reaches no file, and refuses what gives another result each time."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA user_version = 0")  # it has a first page then, and can be serialized
    connection.execute("PRAGMA foreign_keys = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(_authorize)
    return connection


def _authorize(action: int, first: str | None, second: str | None, schema: str | None, source: str | None) -> int:
    is_unstable = action == sqlite3.SQLITE_FUNCTION and _UNSTABLE.fullmatch(second or "")
    return sqlite3.SQLITE_DENY if is_unstable else sqlite3.SQLITE_OK


def rows_of(cursor: sqlite3.Cursor) -> list[Row]:
    """The rows of a cursor by column name; none for a statement that gives none."""
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _text_of(statements: Sequence[Statement]) -> bytes:
    return json.dumps([[item.sql, dict(item.parameters)] for item in statements], default=_written).encode()


def _statements_in(text: bytes) -> list[Statement]:
    return [Statement(sql, parameters) for sql, parameters in json.loads(text, object_hook=_read)]


def _written(value: bytes) -> dict[str, str]:
    return {_BYTES: base64.b64encode(value).decode()}  # JSON has no bytes, and no parameter has such a name


def _read(found: dict[str, Any]) -> Any:
    return base64.b64decode(found[_BYTES]) if _BYTES in found else found
