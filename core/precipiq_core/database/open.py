"""Chooses the database by the scheme of its URL, a file of SQLite or a PostgreSQL, and imports that one alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from precipiq_contracts.database import Database, Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_core.database.settings import DatabaseSettings
from precipiq_core.extras import require_extra

_SQLITE = "sqlite:///"


class ManagedDatabase(Database, Protocol):
    """A database as core handles it: made at boot, opened for the life of the application."""

    def opened(self, migrations: Sequence[Migration]) -> AbstractAsyncContextManager[None]:
        """Open it. Raises ``DeploymentError`` when the schema is not the one these migrations make."""
        ...

    def migrate(self, migrations: Sequence[Migration], *, post: bool = False) -> list[str]:
        """Bring the schema up to date, under a lock; the revisions applied.

        ``post``: also those that servers of the version before could not bear, because none of them runs any more.
        """
        ...


def new_database(settings: DatabaseSettings, data_dir: Path, *, checkpoints: bool = True) -> ManagedDatabase:
    """The database of that URL, not yet open. ``checkpoints``: False in processes beside the server (SQLite).

    Raises ``DeploymentError`` for a URL that no database answers to.
    """
    scheme, colon, _ = settings.url.partition(":")
    if colon and scheme in ("postgresql", "postgres"):
        return _postgres(settings)
    if not colon or scheme != "sqlite":
        known = "known: sqlite, postgresql"
        raise DeploymentError([f"database.url: there is no database for the scheme {scheme!r} ({known})"])
    return _sqlite(settings, data_dir, checkpoints=checkpoints)


def _sqlite(settings: DatabaseSettings, data_dir: Path, *, checkpoints: bool) -> ManagedDatabase:
    path = settings.url.removeprefix(_SQLITE)
    if path == settings.url or not path or "?" in path or path == ":memory:":
        raise DeploymentError(["database.url: write sqlite:///file.db or sqlite:////folder/file.db"])
    from precipiq_core.database.sqlite import SqliteDatabase

    return SqliteDatabase(settings, data_dir / path, checkpoints=checkpoints)


def _postgres(settings: DatabaseSettings) -> ManagedDatabase:
    require_extra("database.url", "asyncpg", "precipiq-core", "postgres")
    from precipiq_core.database.postgres import PostgresDatabase
    from precipiq_core.database.postgres_address import address_problems

    urls = {"url": settings.url, "migrate_url": settings.migrate_url, "listen_url": settings.listen_url}
    problems = [
        problem
        for name, url in urls.items()
        if url is not None
        for problem in address_problems(f"database.{name}", url)
    ]
    if settings.transaction_pooler and settings.listen_url is None:
        problems.append("database.listen_url: is needed behind a pooler, which does not pass notifications on")
    if problems:
        raise DeploymentError(problems)
    return PostgresDatabase(settings)
