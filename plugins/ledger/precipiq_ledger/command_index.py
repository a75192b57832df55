"""The commands of ``ledger`` by name; entering a command imports its module."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (
    Later(
        "ledger",
        "Whole chains: verify them, write them out, go on after a restore.",
        "precipiq_ledger.commands:ledger_group",
    ),
)
