"""``[plugins.operations]``: it has no settings; ``operations = false`` under ``[plugins]`` switches it off."""

from __future__ import annotations

from precipiq_core.plugin import PluginConfig


class OperationsConfig(PluginConfig):
    """Nothing to set."""
