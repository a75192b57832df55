"""The commands of ``auth_keys`` by name; entering a command imports its module."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (
    Later("orgs", "Make and list organisations.", "precipiq_auth_keys.commands:orgs_group"),
    Later("keys", "Make, list, rotate and revoke API keys.", "precipiq_auth_keys.commands:keys_group"),
)
