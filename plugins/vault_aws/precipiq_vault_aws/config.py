"""``[plugins.vault_aws]``: which key of AWS KMS wraps, and how long to wait for it. No credentials: see ``kms``."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from precipiq_core.plugin import PluginConfig


class VaultAwsConfig(PluginConfig):
    """Settings of the vault in AWS KMS."""

    key_id: str = Field(
        min_length=1,
        max_length=2048,
        description="symmetric key that new secrets are wrapped under: ARN, id or alias (`alias/NAME`)",
    )
    previous_key_ids: tuple[str, ...] = Field(
        (),
        description="ARNs or ids, no aliases, of keys that secrets may still be wrapped under, until "
        "`precipiq vault rewrap` has run; other keys are refused",
    )
    region: str = Field(min_length=1, max_length=64, description="AWS region of the keys")
    endpoint_url: str | None = Field(
        None, description="another address than AWS's own, such as a VPC endpoint; https, or http on this machine"
    )
    timeout_s: float = Field(3.0, gt=0, le=10, description="time for KMS to take a connection, and to answer, seconds")
    attempts_max: int = Field(
        3, ge=1, le=5, description="attempts at a call that fails for a moment, the first included"
    )
    calls_max: int = Field(4, ge=1, le=64, description="calls of one process at the same time; further ones wait")

    @field_validator("previous_key_ids")
    @classmethod
    def _check_previous(cls, key_ids: tuple[str, ...]) -> tuple[str, ...]:
        if any("alias/" in key_id for key_id in key_ids):
            raise ValueError("an alias does not tell which key it once stood for: name the key's ARN or id")
        return key_ids

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        """Check the URL: secrets are sent there in plain, inside of TLS."""
        if url is None:
            return None
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(parts.hostname))
        if not is_safe or not parts.hostname or parts.username is not None:
            raise ValueError("must be https://HOST[:PORT], or http:// with an address of this machine")
        return url


def _is_this_machine(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
