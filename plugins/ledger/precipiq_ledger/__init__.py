"""The ledger: decisions sealed into an append-only, hash-chained record per organisation and environment.

Imports nothing, so that a verifying process starts fast; the plugin is ``precipiq_ledger.plugin``.
"""
