"""``precipiq vault``, as a plugin that provides a ``KeyVault`` contributes it."""

from __future__ import annotations

from precipiq_core.cli.later import Later

VAULT_COMMANDS = (
    Later("vault", "The master key, and what is wrapped under it.", "precipiq_core.cli.vault:vault_group"),
)
"""For its hook ``commands`` and for the entry point group ``precipiq.commands``."""
