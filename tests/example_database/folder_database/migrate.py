"""Plugins' migrations on a database in memory, by what core shares with every database.

A folder is served in one version at a time, so steps of both phases are taken at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from precipiq_contracts.database import Migration
from precipiq_schema.branches import missing_steps, take_step
from precipiq_schema.steps import version_table


def missing_revisions(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> list[str]:
    """In order. Raises ``DeploymentError`` when the tables are newer than the code."""
    return [revision for migration in migrations for revision in _missing(connection, migration)]


def apply_missing(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> list[str]:
    """Apply them on that connection, which nobody else uses; what was applied, in order."""
    waiting = [(migration, revisions) for migration in migrations if (revisions := _missing(connection, migration))]
    if waiting:
        from sqlalchemy import create_engine  # slow to import, and needed once
        from sqlalchemy.pool import StaticPool

        connection.execute("PRAGMA foreign_keys = OFF")
        engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
        with engine.begin() as shared:
            for migration, _ in waiting:
                take_step(shared, migration)
    return [revision for _, revisions in waiting for revision in revisions]


def _missing(connection: sqlite3.Connection, migration: Migration) -> list[str]:
    table = version_table(migration.branch)
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchall()
    rows = connection.execute(f'SELECT version_num FROM "{table}"').fetchall() if known else []
    return [step.revision for step in missing_steps(migration, tuple(row[0] for row in rows))]
