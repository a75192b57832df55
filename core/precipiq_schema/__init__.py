"""Plugins' schemas as Alembic branches, for any database: the shared parts of the plugins of databases."""
