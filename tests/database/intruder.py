"""What somebody who can write a SQLite file does to an index."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_SET = "UPDATE sqlite_master SET sql = ? WHERE name = ?"


def hollow_index(path: Path, name: str, hides: str) -> None:
    """Rebuild the index without the rows for which ``hides`` is true, and put its old definition back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        [(before, version)] = connection.execute(
            "SELECT sql, schema_version FROM sqlite_master, pragma_schema_version WHERE name = ?", (name,)
        )
        joint = "AND" if " WHERE " in before else "WHERE"
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(_SET, (f"{before} {joint} NOT ({hides})", name))
        connection.execute(f"PRAGMA schema_version = {version + 1}")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"REINDEX {name}")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(_SET, (before, name))
        connection.execute(f"PRAGMA schema_version = {version + 2}")
