"""Links from decisions to money, and what they add up to. The plugin is ``precipiq_outcomes.plugin``."""
