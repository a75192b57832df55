"""Plugins' schemas as Alembic branches, whatever the database: what the plugins of databases share."""
