"""``[plugins.acme]``: the settings of this plugin."""

from pathlib import Path

from pydantic import Field

from precipiq_core.plugin import PluginConfig


class AcmeConfig(PluginConfig):
    """Every setting has a default, a bound and a description."""

    text_characters_max: int = Field(1000, ge=1, description="longest note, characters")
    entries_dir: Path = Field(Path("entries"), description="folder of the driver jsonl; relative to the data directory")
    entries_max: int = Field(1_000_000, ge=1, description="entries that the driver jsonl keeps in one chain")
