"""The embedded database: one file of SQLite, its writer, its tenant connections, and the entries in it."""
