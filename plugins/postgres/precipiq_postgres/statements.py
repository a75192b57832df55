"""Plugins' portable statements (``:name`` parameters) in PostgreSQL's form, and their rows.

Only statements that read or write rows are taken: a statement that ends the transaction, or changes the role or
settings of the connection, would change the connection's next work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import asyncpg

from precipiq_contracts.database import Row, Scalar, Statement
from precipiq_contracts.errors import InternalError

_ROWS = re.compile(
    r"(?:\s+|\(|--[^\n\r]*[\n\r]|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/)*+"  # nested comments are refused
    r"(?:SELECT|WITH|VALUES|INSERT|UPDATE|DELETE|MERGE)\b",
    re.IGNORECASE,
)
_ARGUMENT = re.compile(r"invalid input for query argument \$(\d+)")
_PARAMETER = re.compile(r"(?<![:\w]):([A-Za-z_]\w*)")  # not the type of a cast, ``::text``


@lru_cache(maxsize=2048)
def number_parameters(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with ``$1``, ``$2`` for its names, and which name each number stands for."""
    if _ROWS.match(sql) is None:
        raise InternalError("a statement must begin with SELECT, WITH, VALUES, INSERT, UPDATE, DELETE or MERGE")
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
    return _PARAMETER.sub(lambda match: numbers[match[1]], sql), names


async def fetch_rows(connection: asyncpg.Connection, statement: Statement) -> list[Row]:
    """Execute a statement; its rows by column name, none for a statement that gives none."""
    sql, names = number_parameters(statement.sql)
    missing = [name for name in names if name not in statement.parameters]
    if missing:
        raise InternalError(f"a statement has no value for {', '.join(missing)}")
    try:
        records: Sequence[Any] = await connection.fetch(sql, *(statement.parameters[name] for name in names))
    except asyncpg.DataError as error:
        found = _ARGUMENT.match(str(error))  # asyncpg refuses a value before it is sent, and quotes it
        if found is None:
            raise
        name = names[int(found[1]) - 1]
        raise InternalError(f"the value of :{name} is not of the type that PostgreSQL wants there") from None
    return [cast("Row", {name: _scalar(value) for name, value in record.items()}) for record in records]


def _scalar(value: Any) -> Any:
    """The value as another database gives it: ``sum`` of integers is an integer."""
    if isinstance(value, Decimal):
        plain: Scalar = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
        return plain
    return str(value) if isinstance(value, UUID) else value
