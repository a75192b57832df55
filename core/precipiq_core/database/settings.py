"""``[database]``: every setting with its unit and default."""

from __future__ import annotations

from pydantic import Field

from precipiq_contracts.settings import SecretReference, Settings


class DatabaseSettings(Settings):
    """Settings of the database. Those of one kind of database say so."""

    url: str = Field(
        "sqlite:///precipiq.db",
        description="sqlite:///file (a relative path starts at the data folder) or postgresql://role@host:port/name",
    )
    password: SecretReference | None = Field(None, description="password of the URL's role (PostgreSQL)")
    migrate_url: str | None = Field(
        None, description="how `precipiq migrate` connects: a role that may make roles and a schema (PostgreSQL)"
    )
    migrate_password: SecretReference | None = Field(None, description="password of that role (PostgreSQL)")
    listen_url: str | None = Field(
        None, description="direct address for LISTEN when `url` is a pooler's; same role and password (PostgreSQL)"
    )
    transaction_pooler: bool = Field(
        False, description="`url` is a pooler that shares connections between transactions (PostgreSQL)"
    )
    migrate_at_start: bool = Field(False, description="bring the schema up to date when the server starts")
    connections_max: int = Field(10, ge=2, le=1000, description="connections of one server process (PostgreSQL)")
    connection_wait_s: float = Field(
        5.0, gt=0, description="time to wait for a free or a new connection, seconds (PostgreSQL)"
    )
    retry_s: float = Field(
        8.0, ge=0, description="time to go on trying an append while the database is away, seconds (PostgreSQL)"
    )
    readers_max: int = Field(4, ge=1, le=64, description="connections that read at the same time (SQLite)")
    reader_queue_max: int = Field(10_000, ge=1, description="reads that wait; more are told to try again")
    writer_queue_max: int = Field(10_000, ge=1, description="writes that wait; more are told to try again")
    group_rows_max: int = Field(1_000, ge=1, description="rows that one transaction takes in, at least one write")
    busy_timeout_s: float = Field(
        5.0, ge=0, description="time to wait for another process that writes, seconds (SQLite)"
    )
