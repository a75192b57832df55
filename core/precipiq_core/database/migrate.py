"""The schema: runs the plugins' Alembic branches on an SQLite file under its write lock, all of them or none.

Each branch has a version table of its own, so that a plugin can be switched off without its tables becoming unknown.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from precipiq_core.contracts.database import Migration
from precipiq_core.database.sqlite_connection import open_for_reading, open_for_writing, translating
from precipiq_core.errors import DeploymentError

LOCK_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 5.0

_SCRIPTS = Path(__file__).parent / "alembic"


def migrate(path: Path, migrations: Sequence[Migration]) -> list[str]:
    """Apply what is missing; the revisions applied, in order. Of several processes, one works and the others wait.

    Raises ``DeploymentError`` when the database is newer than the code, ``Unavailable`` when it stays locked.
    """
    with translating(), _locked(path) as connection:
        applied: list[str] = []
        for migration in migrations:
            cursor = cast("sqlite3.Cursor", connection.connection.cursor())
            waiting = _missing(migration, _versions(cursor, migration.branch))
            if waiting:
                _upgrade(connection, migration)
            applied.extend(waiting)
        return applied


def pending(path: Path, migrations: Sequence[Migration]) -> list[str]:
    """The revisions that the database lacks, in order; changes nothing.

    Raises ``DeploymentError`` when the database has a revision that the code does not know.
    """
    if not path.exists():
        return [revision for migration in migrations for revision in _missing(migration, ())]
    with translating(), closing(open_for_reading(path, READ_TIMEOUT_S)) as connection:
        cursor = connection.cursor()
        return [
            revision
            for migration in migrations
            for revision in _missing(migration, _versions(cursor, migration.branch))
        ]


@contextmanager
def _locked(path: Path) -> Iterator[Connection]:
    """A connection inside one write transaction, which makes DDL all or nothing and keeps other migrations out."""
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


def _config(migration: Migration) -> Config:
    config = Config()
    config.set_main_option("script_location", _escaped(_SCRIPTS))
    config.set_main_option("version_locations", _escaped(migration.location))
    config.set_main_option("path_separator", "os" if os.pathsep not in str(migration.location) else "newline")
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _version_table(branch: str) -> str:
    return f"alembic_version_{branch}"


def _versions(cursor: sqlite3.Cursor, branch: str) -> tuple[str, ...]:
    table = _version_table(branch)
    if not cursor.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchall():
        return ()
    return tuple(row[0] for row in cursor.execute(f'SELECT version_num FROM "{table}"').fetchall())  # noqa: S608


def _missing(migration: Migration, versions: tuple[str, ...]) -> list[str]:
    scripts = ScriptDirectory.from_config(_config(migration))
    try:
        if versions:
            scripts.get_revisions(versions)
        steps = list(scripts.iterate_revisions("heads", versions or "base"))
    except CommandError as error:
        raise DeploymentError(
            [f"the database's tables of {migration.branch} are newer than this program knows: {error}"]
        ) from error
    return [step.revision for step in reversed(steps) if step.revision not in versions]


def _upgrade(connection: Connection, migration: Migration) -> None:
    config = _config(migration)
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _version_table(migration.branch)
    command.upgrade(config, "heads")
