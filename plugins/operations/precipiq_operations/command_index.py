"""The commands of ``operations``, listed before they are imported."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (Later("vault", "The master key, and what is wrapped under it.", "precipiq_operations.vault:vault_group"),)
