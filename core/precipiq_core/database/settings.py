"""``[database]``: every setting with its unit and default."""

from __future__ import annotations

from pydantic import Field

from precipiq_core.settings import Settings


class DatabaseSettings(Settings):
    """Settings of the database."""

    url: str = Field("sqlite:///precipiq.db", description="a relative path starts at the data folder")
    migrate_at_start: bool = Field(False, description="bring the schema up to date when the server starts")
    readers_max: int = Field(4, ge=1, le=64, description="connections that read at the same time")
    reader_queue_max: int = Field(10_000, ge=1, description="reads that wait; more are told to try again")
    writer_queue_max: int = Field(10_000, ge=1, description="writes that wait; more are told to try again")
    group_rows_max: int = Field(1_000, ge=1, description="rows that one transaction takes in, at least one write")
    busy_timeout_s: float = Field(5.0, ge=0, description="time to wait for another process that writes, seconds")
