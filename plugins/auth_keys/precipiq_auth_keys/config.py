"""``[plugins.auth_keys]``: every setting with its unit and default."""

from __future__ import annotations

from pydantic import Field

from precipiq_core.plugin import PluginConfig


class AuthKeysConfig(PluginConfig):
    """Settings of keys and limits."""

    writes_per_second_max: int = Field(100, ge=1, description="single writes per organisation and environment")
    batches_per_second_max: int = Field(10, ge=1, description="batches per organisation and environment")
    reads_per_second_max: int = Field(1000, ge=1, description="reads per organisation and environment")
    cached_keys_max: int = Field(10_000, ge=1, description="verified keys kept in memory")
    revocation_poll_s: float = Field(
        1.0, gt=0, le=4, description="time between looks for another process's changes, seconds"
    )
    last_used_interval_s: float = Field(60.0, gt=0, description="time between writes of keys' last use, seconds")
    rotation_grace_max_s: int = Field(30 * 86_400, ge=0, description="longest grace of a rotation, seconds")
    first_start_organisation: str | None = Field(
        None, min_length=1, max_length=200, description="make this organisation and a test key when there is none yet"
    )
