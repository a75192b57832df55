"""``precipiq vault``, which core adds to a deployment that has a ``KeyVault``."""

from __future__ import annotations

from precipiq_core.cli.later import Later

VAULT_COMMANDS = (
    Later(
        "vault", "The master key, and what is wrapped under it.", "precipiq_core.operations.vault_commands:vault_group"
    ),
)
"""A plugin that provides one names them in the group ``precipiq.commands``."""
