"""Plugins' portable statements (``:name`` parameters) as PostgreSQL takes them, and the rows they give."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import asyncpg
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from precipiq_core.contracts.database import Row, Statement

_DIALECT = PGDialect_asyncpg(paramstyle="numeric_dollar")


@lru_cache(maxsize=2048)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with ``$1``, ``$2`` for its names, and which name each number stands for."""
    compiled = text(sql).compile(dialect=_DIALECT)
    return str(compiled), tuple(compiled.positiontup or ())


async def fetch_rows(connection: asyncpg.Connection, statement: Statement) -> list[Row]:
    """Execute a statement; its rows by column name, none for a statement that gives none."""
    sql, names = numbered(statement.sql)
    records: Sequence[Any] = await connection.fetch(sql, *(statement.parameters[name] for name in names))
    return [cast("Row", dict(record)) for record in records]
