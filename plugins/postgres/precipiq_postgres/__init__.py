"""PostgreSQL: its pool, roles, rights and row-level security, and the entries in it."""
