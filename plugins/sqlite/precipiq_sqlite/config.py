"""``[database]`` of a file of SQLite: every setting with its unit and default."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from precipiq_contracts.database import DatabaseSettings

_PREFIX = "sqlite:///"


class SqliteConfig(DatabaseSettings):
    """Settings of the file, its one writer and its readers."""

    url: str = Field(
        "sqlite:///precipiq.db", description="sqlite:///file; a relative path starts at the data folder (SQLite)"
    )
    readers_max: int = Field(4, ge=1, le=64, description="connections that read at the same time (SQLite)")
    busy_timeout_s: float = Field(
        5.0, ge=0, description="time to wait for another process that writes, seconds (SQLite)"
    )

    @field_validator("url")
    @classmethod
    def _names_a_file(cls, value: str) -> str:
        path = value.removeprefix(_PREFIX)
        if path == value or not path or "?" in path or path == ":memory:":
            raise ValueError("write sqlite:///file.db or sqlite:////folder/file.db")
        return value

    def file(self, data_dir: Path) -> Path:
        """Where the database lies."""
        return data_dir / self.url.removeprefix(_PREFIX)
