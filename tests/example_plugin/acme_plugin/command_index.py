"""The plugin's commands by name; what runs them is imported when one is entered."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (Later("acme", "Notes beside the decisions.", "acme_plugin.commands:acme_group"),)
