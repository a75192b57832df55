"""Organisations, API keys, scopes and rate limits. The plugin is ``precipiq_auth_keys.plugin``."""
