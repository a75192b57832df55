"""``[database]`` of a PostgreSQL: every setting with its unit and default."""

from __future__ import annotations

from pydantic import Field

from precipiq_contracts.database import DatabaseSettings
from precipiq_contracts.settings import SecretReference


class PostgresConfig(DatabaseSettings):
    """Settings of the connections to a PostgreSQL."""

    url: str = Field(description="postgresql://role@host:port/name (PostgreSQL)")
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
    connections_max: int = Field(10, ge=2, le=1000, description="connections of one server process (PostgreSQL)")
    connection_wait_s: float = Field(
        5.0, gt=0, description="time to wait for a free or a new connection, seconds (PostgreSQL)"
    )
    retry_s: float = Field(
        8.0, ge=0, description="time to go on trying an append while the database is away, seconds (PostgreSQL)"
    )
