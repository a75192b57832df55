"""Many rows in one statement: they are sent as one JSON text, and the database unpacks them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from precipiq_contracts.database import Database, Scalar


def rows_as_json(rows: Iterable[Sequence[Scalar]]) -> str:
    """The rows as an array of arrays."""
    return orjson.dumps(list(rows), default=list).decode()


def texts_in(database: Database, parameter: str) -> str:
    """The SQL behind IN: the texts of that parameter, as one-column rows."""
    return f"({database.select_rows([('text', 'TEXT')], parameter)})"
