"""Reading as one tenant: the statement runs in a database of its own that holds this tenant's rows and nothing else.

What a statement may see is what was copied for it, so there is no filter to forget and none to get around. What it
costs: each read copies the tenant's rows of the tables that it names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing

from folder_database.tables import open_in_memory, rows_of
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Row, Statement

TenantTables = Mapping[str, tuple[str, str | None]]
"""Table -> the columns that hold its organisation and, where it has one, its environment."""


def fetch_as(whole: sqlite3.Connection, tables: TenantTables, chain: Chain, statement: Statement) -> list[Row]:
    """The rows that the statement finds among those of that chain."""
    text = statement.sql.lower()
    with closing(open_in_memory()) as own:
        own.execute("PRAGMA foreign_keys = OFF")  # a row may name one of a table that was not copied
        for table, columns in tables.items():
            if table.lower() in text:  # also where it only looks like it: then it is copied for nothing
                _copy(whole, own, table, columns, chain)
        return rows_of(own.execute(statement.sql, dict(statement.parameters)))


def _copy(
    whole: sqlite3.Connection, own: sqlite3.Connection, table: str, columns: tuple[str, str | None], chain: Chain
) -> None:
    [(definition,)] = whole.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
    own.execute(definition)
    org_column, environment_column = columns
    condition, values = f'"{org_column}" = ?', [chain.org_id]
    if environment_column is not None:
        condition, values = f'{condition} AND "{environment_column}" = ?', [*values, chain.environment]
    found = whole.execute(f'SELECT * FROM "{table}" WHERE {condition}', values)
    places = ", ".join("?" * len(found.description))
    own.executemany(f'INSERT INTO "{table}" VALUES ({places})', found)
