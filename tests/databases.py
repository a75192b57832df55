"""The databases that we ship, made for a test from the settings of a deployment's ``[database]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from precipiq_postgres.config import PostgresConfig
from precipiq_postgres.entries import driver as postgres_driver
from precipiq_postgres.service import PostgresDatabase
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries import driver as sqlite_driver
from precipiq_sqlite.service import SqliteDatabase

(SQLITE_ENTRIES,) = sqlite_driver.SqliteDriver.migrations
(POSTGRES_ENTRIES,) = postgres_driver.PostgresDriver.migrations


def new_database(
    settings: Mapping[str, object], folder: Path, *, checkpoints: bool = True
) -> SqliteDatabase | PostgresDatabase:
    """Of that URL, not open; by itself a file of SQLite in the folder. ``checkpoints``: see ``SqliteDatabase``."""
    if str(settings.get("url", "")).startswith("postgres"):
        return PostgresDatabase(PostgresConfig.model_validate(settings))
    config = SqliteConfig.model_validate(settings)
    return SqliteDatabase(config, config.file(folder), checkpoints=checkpoints)
