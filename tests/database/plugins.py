"""Schemas for the tests of PostgreSQL: those of our own plugins, and a made-up plugin's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import precipiq_auth_keys
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Migration
from precipiq_postgres.config import PostgresConfig
from precipiq_postgres.service import PostgresDatabase
from precipiq_testkit import postgres
from tests.databases import POSTGRES_ENTRIES

COLUMNS = ("org_id", "environment")
LEDGER = POSTGRES_ENTRIES
KEYS = Migration(
    "auth_keys",
    Path(precipiq_auth_keys.__file__).parent / "sql" / "migrations",
    {"organisations": ("org_id", None), "api_keys": COLUMNS, "key_events": COLUMNS},
)
ALPHA, ALPHA_TEST, BETA = Chain("org_alpha", "live"), Chain("org_alpha", "test"), Chain("org_beta", "live")

_NOTES = (
    "CREATE TABLE notes (org_id TEXT NOT NULL, environment TEXT NOT NULL, note TEXT NOT NULL UNIQUE, number BIGINT, "
    "ratio DOUBLE PRECISION, content BYTEA, CHECK (number <> -1))",
    "CREATE TABLE members (org_id TEXT NOT NULL, name TEXT NOT NULL, number SERIAL)",
    "CREATE TABLE reserved (org_id TEXT NOT NULL, environment TEXT NOT NULL, note TEXT)",
    "CREATE TABLE hidden (note TEXT)",
    "CREATE VIEW own_notes WITH (security_invoker = true) AS SELECT note FROM notes",
    "CREATE INDEX notes_number ON notes (number)",
)
"""Of a made-up plugin: ``reserved`` is for its driver alone, ``hidden`` is nobody's."""


def write_revision(
    location: Path, branch: str, number: int, *statements: str, phase: str | None = None, code: str = "pass"
) -> Path:
    """A revision of that branch, after the one with the number before."""
    location.mkdir(parents=True, exist_ok=True)
    before = None if number == 1 else f"{branch}_{number - 1:04}"
    labels = (branch,) if number == 1 else None
    lines = [
        "from alembic import op",
        f"revision, down_revision, branch_labels = {f'{branch}_{number:04}'!r}, {before!r}, {labels!r}",
        "depends_on = None",
        *([f"phase = {phase!r}"] if phase is not None else []),
        "def upgrade():",
        *(f"    op.execute({statement!r})" for statement in statements),
        f"    {code}",
    ]
    file = location / f"{number:04}_step.py"
    file.write_text("\n".join(lines) + "\n")
    return file


def notes_plugin(folder: Path) -> Migration:
    """The made-up plugin's schema."""
    write_revision(folder / "notes", "notes", 1, *_NOTES)
    tables = {"notes": COLUMNS, "members": ("org_id", None), "reserved": COLUMNS}
    return Migration("notes", folder / "notes", tables, frozenset({"reserved"}))


def new_database(database: postgres.PostgresDatabase, **settings: object) -> PostgresDatabase:
    """The core's database over that one, not open; it does not migrate unless told to."""
    return PostgresDatabase(
        PostgresConfig.model_validate({**database.settings(), "migrate_at_start": False} | settings)
    )


@asynccontextmanager
async def opened(
    database: postgres.PostgresDatabase, migrations: Sequence[Migration], **settings: object
) -> AsyncIterator[PostgresDatabase]:
    """The core's database over that one, open."""
    opening = new_database(database, **settings)
    async with opening.open(migrations):
        yield opening
