"""``[plugins.acme]``: the settings of this plugin."""

from pydantic import Field

from precipiq_core.plugin import PluginConfig


class AcmeConfig(PluginConfig):
    """Every setting has a default, a bound and a description."""

    text_characters_max: int = Field(1000, ge=1, description="longest note, characters")
