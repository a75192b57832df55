"""The commands of ``outcomes`` by name; what runs them is imported when one is entered."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (Later("outcomes", "What links add up to.", "precipiq_outcomes.commands:outcomes_group"),)
