"""Many rows in one statement, on both databases: they travel as one JSON text, and are taken apart there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Literal

from precipiq_contracts.database import Scalar

Dialect = Literal["sqlite", "postgresql"]
ColumnType = Literal["TEXT", "BIGINT"]


def rows_as_json(rows: Iterable[Sequence[Scalar]]) -> str:
    """The rows as an array of arrays."""
    return json.dumps([list(row) for row in rows], separators=(",", ":"))


def select_rows(dialect: Dialect, columns: Sequence[tuple[str, ColumnType]], parameter: str = "rows") -> str:
    """A SELECT that gives the rows in that parameter, one column for each name; for INSERT, and for IN."""
    if dialect == "sqlite":
        taken = [f"json_extract(value, '$[{index}]') AS {name}" for index, (name, _) in enumerate(columns)]
        return f"SELECT {', '.join(taken)} FROM json_each(:{parameter})"  # noqa: S608
    taken = [f"CAST(value->>{index} AS {kind}) AS {name}" for index, (name, kind) in enumerate(columns)]
    array = f"jsonb_array_elements(CAST(:{parameter} AS jsonb))"
    return f"SELECT {', '.join(taken)} FROM {array} AS item (value)"  # noqa: S608


def texts_in(dialect: Dialect, parameter: str) -> str:
    """What follows IN: the texts that travel in that parameter, as one-column rows."""
    return f"({select_rows(dialect, [('text', 'TEXT')], parameter)})"
