"""Deliberate breaks of the product, one TOML file an area, and what runs the suite against them: see README.md."""
