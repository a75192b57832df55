"""The schema as the file has it, to notice a trigger that was dropped or an index that hides rows."""

from __future__ import annotations

import sqlite3

from precipiq_schema.schema_state import SchemaState

_OBJECTS = (
    "SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
)


def read_schema(connection: sqlite3.Connection) -> SchemaState:
    """Tables and views count as guards: their constraints are in their definitions."""
    rows = connection.execute(_OBJECTS).fetchall()
    named = {f"{kind} {name}": str(sql) for kind, name, sql in rows if kind != "index"}
    indexes = {f"index {name}": str(sql) for kind, name, sql in rows if kind == "index"}
    versions = [name for kind, name, _ in rows if kind == "table" and name.startswith("alembic_version_")]
    revisions = frozenset(
        str(revision)
        for table in versions
        for (revision,) in connection.execute(f'SELECT version_num FROM main."{table}"')  # noqa: S608
    )
    return SchemaState(revisions, named, indexes)
