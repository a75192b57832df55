"""The commands of ``exports`` by name; entering a command imports its module."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (
    Later("ledger", "Verify and export chains.", "precipiq_exports.commands:ledger_group"),
    Later(
        "signing-keys",
        "Make, list and rotate the keys that sign evidence.",
        "precipiq_exports.commands:signing_keys_group",
    ),
    Later("bundle", "Check evidence bundles.", "precipiq_exports.bundle_commands:bundle_group"),
)
