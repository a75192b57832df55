"""The commands of ``outcomes`` by name; entering a command imports its module."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (Later("outcomes", "What links add up to.", "precipiq_outcomes.commands:outcomes_group"),)
