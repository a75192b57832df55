"""Plugins' transactions on the writer's connection: rows of the plugins' tables, and none of the drivers'."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from precipiq_contracts.database import Row, Statement
from precipiq_sqlite.connection import rows_of, translate

_ALLOWED = frozenset(
    (
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    )
)

# SQLite asks the authorizer when it prepares a statement, and Python keeps prepared statements by their text: with
# this ending a plugin's text never equals a text that was prepared for a driver or for the writer itself.
_ENDING = "\n-- plugin"


class TransactionGuard:
    """Runs statements of ``Database.transaction``, and is the authorizer of the writer's connection.

    The guard refuses reserved tables, changes of the schema, PRAGMA, ATTACH and the control of transactions.
    """

    def __init__(self) -> None:
        self._reserved: set[str] = set()
        self._guarding = False

    def reserve(self, table: str) -> None:
        """Refuse every statement that touches that table."""
        self._reserved.add(table)

    def authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, source: str | None
    ) -> int:
        """SQLite's authorizer callback; drivers, which run outside of :meth:`run`, may do anything."""
        if not self._guarding or (action in _ALLOWED and first not in self._reserved):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def run(
        self, connection: sqlite3.Connection, items: Sequence[Sequence[Statement]]
    ) -> list[list[list[Row]] | Exception]:
        """The writer's handler: each item is a list of statements that are executed all or none."""
        if len(items) == 1:
            return [self._execute(connection, items[0])]
        return [self._execute_apart(connection, item) for item in items]

    def _execute_apart(
        self, connection: sqlite3.Connection, statements: Sequence[Statement]
    ) -> list[list[Row]] | Exception:
        connection.execute("SAVEPOINT item")
        try:
            result: list[list[Row]] | Exception = self._execute(connection, statements)
        except Exception as error:
            if not connection.in_transaction:  # SQLite undid the whole group
                raise
            connection.execute("ROLLBACK TO item")
            failure = translate(error)
            result = failure if isinstance(failure, Exception) else error
        connection.execute("RELEASE item")
        return result

    def _execute(self, connection: sqlite3.Connection, statements: Sequence[Statement]) -> list[list[Row]]:
        self._guarding = True
        try:
            return [rows_of(connection.execute(item.sql + _ENDING, dict(item.parameters))) for item in statements]
        finally:
            self._guarding = False
