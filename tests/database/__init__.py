"""The core's databases: SQLite, PostgreSQL, and upgrades from one version to the next."""
