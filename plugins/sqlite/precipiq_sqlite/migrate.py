"""The schema on SQLite: all missing revisions under the file's write lock, or none.

One process serves the file, so no older server has to end first: steps of both phases are taken at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from precipiq_contracts.database import Migration
from precipiq_schema.branches import missing_steps, take_step
from precipiq_schema.steps import version_table
from precipiq_sqlite.connection import open_for_reading, open_for_writing, translate_errors

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 5.0


def migrate(path: Path, migrations: Sequence[Migration]) -> list[str]:
    """Apply the missing revisions; they are returned in order. Of several processes, one works and the others wait.

    Raises ``DeploymentError`` when the database is newer than the code, ``Unavailable`` when it stays locked.
    """
    with translate_errors(), _lock(path) as connection:
        applied: list[str] = []
        for migration in migrations:
            cursor = cast("sqlite3.Cursor", connection.connection.cursor())
            waiting = _missing_revisions(migration, _versions(cursor, migration.branch))
            if waiting:
                take_step(connection, migration)
            applied.extend(waiting)
        return applied


def pending_revisions(path: Path, migrations: Sequence[Migration]) -> list[str]:
    """The revisions that the database lacks, in order; changes nothing.

    Raises ``DeploymentError`` when the database has a revision that the code does not know.
    """
    if not path.exists():
        return [revision for migration in migrations for revision in _missing_revisions(migration, ())]
    with translate_errors(), closing(open_for_reading(path, READ_TIMEOUT_S)) as connection:
        cursor = connection.cursor()
        return [
            revision
            for migration in migrations
            for revision in _missing_revisions(migration, _versions(cursor, migration.branch))
        ]


@contextmanager
def _lock(path: Path) -> Iterator[Connection]:
    """Lend a connection inside one write transaction: DDL is all or nothing, and other migrations are kept out."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import StaticPool

    raw = open_for_writing(path, LOCK_TIMEOUT_S)
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    try:
        # Python's driver would begin late and deferred; here SQLAlchemy says when, and the lock is taken at once.
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        raw.execute("PRAGMA foreign_keys = OFF")
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
        raw.close()


def _versions(cursor: sqlite3.Cursor, branch: str) -> tuple[str, ...]:
    table = version_table(branch)
    if not cursor.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchall():
        return ()
    return tuple(row[0] for row in cursor.execute(f'SELECT version_num FROM "{table}"').fetchall())  # noqa: S608


def _missing_revisions(migration: Migration, versions: tuple[str, ...]) -> list[str]:
    return [step.revision for step in missing_steps(migration, versions)]
