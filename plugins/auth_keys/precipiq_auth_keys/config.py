"""``[plugins.auth_keys]``: every setting with its unit and default."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, field_validator, model_validator

from precipiq_auth_keys.redis_server import RedisServer, parse_redis_url
from precipiq_contracts.settings import SecretReference
from precipiq_core.plugin import PluginConfig

_ADDRESSES_MAX = 65_536


class AddressLimitsConfig(PluginConfig):
    """``[plugins.address_limits]``: settings of the limits by address where ``auth_keys`` is off."""

    addresses_max: int = Field(
        _ADDRESSES_MAX, ge=1, description="as `addresses_max` of `[plugins.auth_keys]`, which counts where it is on"
    )


class AuthKeysConfig(PluginConfig):
    """Settings of keys and limits."""

    writes_per_second_max: int = Field(100, ge=1, description="single writes per organisation and environment")
    batches_per_second_max: int = Field(10, ge=1, description="batches per organisation and environment")
    reads_per_second_max: int = Field(1000, ge=1, description="reads per organisation and environment")
    rate_limit_redis_url: str | None = Field(
        None,
        description="Redis server that counts for all server processes, redis:// or rediss://HOST:PORT/DATABASE; "
        "without it each process counts for itself",
    )
    rate_limit_redis_password: SecretReference | None = Field(None, description="password for it")
    rate_limit_redis_timeout_s: float = Field(
        0.25, gt=0, le=1, description="longest wait of a request for it, then the process counts for itself, seconds"
    )
    rate_limit_redis_connections_max: int = Field(10, ge=1, le=1000, description="connections of a process to it")
    addresses_max: int = Field(
        _ADDRESSES_MAX,
        ge=1,
        description="client addresses that a process remembers for each limit by address, some 300 bytes each "
        "and 8 more for each request within the window",
    )
    cached_keys_max: int = Field(10_000, ge=1, description="verified keys kept in memory")
    revocation_poll_s: float = Field(
        1.0, gt=0, le=4, description="time between looks for another process's changes, seconds"
    )
    last_used_interval_s: float = Field(60.0, gt=0, description="time between writes of keys' last use, seconds")
    active_keys_max: int = Field(1000, ge=1, description="active keys of one organisation and environment")
    rotation_grace_max_s: int = Field(30 * 86_400, ge=0, description="longest grace of a rotation, seconds")
    first_start_organisation: str | None = Field(
        None, min_length=1, max_length=200, description="make this organisation and a test key when there is none yet"
    )

    @field_validator("rate_limit_redis_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None:
            parse_redis_url(url)
        return url

    @model_validator(mode="after")
    def _check_password(self) -> AuthKeysConfig:
        url, password = self.rate_limit_redis_url, self.rate_limit_redis_password
        if url is None and password is not None:
            raise ValueError("rate_limit_redis_password is set, but rate_limit_redis_url is not")
        if url is not None and password is None and parse_redis_url(url).username is not None:
            raise ValueError("rate_limit_redis_url names a user, but rate_limit_redis_password is not set")
        return self

    def redis_server(self) -> RedisServer | None:
        """The server of rate limits, if the settings name one. Raises ``DeploymentError`` without its password."""
        if self.rate_limit_redis_url is None:
            return None
        secret = self.rate_limit_redis_password
        return replace(
            parse_redis_url(self.rate_limit_redis_url),
            password=None if secret is None else secret.reveal("plugins.auth_keys.rate_limit_redis_password"),
            timeout_s=self.rate_limit_redis_timeout_s,
            connections_max=self.rate_limit_redis_connections_max,
        )
