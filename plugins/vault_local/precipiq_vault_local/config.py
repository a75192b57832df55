"""``[plugins.vault_local]``: where the master keys lie."""

from __future__ import annotations

from pydantic import Field

from precipiq_contracts.settings import SecretReference
from precipiq_core.plugin import PluginConfig


class VaultLocalConfig(PluginConfig):
    """Settings of the local vault."""

    master_key: SecretReference = Field(
        description="32 bytes as 64 hex digits or as base64; new secrets are wrapped under it. Better a file: a "
        "variable can be seen in the server's environment"
    )
    previous_master_keys: tuple[SecretReference, ...] = Field(
        (), description="keys that secrets may still be wrapped under, until `precipiq vault rewrap` has run"
    )
    create_master_key: bool = Field(
        False,
        description="make the key file at the first start when it is absent and nothing is wrapped yet; not where "
        "several machines serve",
    )
    queue_max: int = Field(1000, ge=1, description="secrets that wait for the vault; more are told to try again")
    check_interval_s: float = Field(30.0, gt=0, description="time between looks whether the vault can serve, seconds")
