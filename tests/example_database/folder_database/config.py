"""``[database]`` of a folder: every setting with its unit and default."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from precipiq_contracts.database import DatabaseSettings

_PREFIX = "folder:///"


class FolderConfig(DatabaseSettings):
    """Settings of the folder; what every database has comes from the contract."""

    url: str = Field("folder:///store", description="folder:///path; a relative path starts at the data folder")
    lock_timeout_s: float = Field(10.0, ge=0, description="time to wait for another process that writes, seconds")
    commits_max: int = Field(1_000, ge=1, description="commits that lie beside the tables before they are put together")

    @field_validator("url")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        path = value.removeprefix(_PREFIX)
        if path == value or not path:
            raise ValueError("write folder:///name or folder:////path/name")
        return value

    def folder(self, data_dir: Path) -> Path:
        """Where everything lies."""
        return data_dir / self.url.removeprefix(_PREFIX)
