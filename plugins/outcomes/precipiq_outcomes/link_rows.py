"""Links as rows of their table, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import attrgetter
from typing import Any, cast

from precipiq_contracts.database import ColumnType, Row, Scalar
from precipiq_outcomes.links import Link, LinkType, Status

COLUMNS: tuple[tuple[str, ColumnType], ...] = (
    ("link_id", "TEXT"),
    ("seq", "BIGINT"),
    ("decision_id", "TEXT"),
    ("event_id", "TEXT"),
    ("decided_us", "BIGINT"),
    ("occurred_us", "BIGINT"),
    ("agent_id", "TEXT"),
    ("action_type", "TEXT"),
    ("low_confidence", "BIGINT"),
    ("human_in_loop", "BIGINT"),
    ("amount", "TEXT"),
    ("currency", "TEXT"),
    ("link_type", "TEXT"),
    ("strength", "TEXT"),
    ("method", "TEXT"),
    ("notes", "TEXT"),
    ("score", "TEXT"),
    ("request_key", "TEXT"),
    ("status", "TEXT"),
    ("created_us", "BIGINT"),
    ("confirmed_us", "BIGINT"),
    ("rejected_us", "BIGINT"),
    ("deleted_us", "BIGINT"),
    ("entries", "BIGINT"),
)
NAMES = ", ".join(name for name, _ in COLUMNS)
CHANGING = ("method", "notes", "status", "confirmed_us", "rejected_us", "deleted_us", "entries")
"""The columns of a link that later entries change."""


_VALUES = attrgetter(*(name for name, _ in COLUMNS))
_SHOWN: tuple[tuple[int, Callable[[Any], Scalar]], ...] = tuple(
    ([name for name, _ in COLUMNS].index(name), shown)
    for name, shown in (
        ("low_confidence", int),
        ("human_in_loop", int),
        ("amount", str),
        ("strength", json.dumps),
        ("score", lambda score: None if score is None else json.dumps(score, separators=(",", ":"))),
    )
)


def row_of(link: Link) -> list[Scalar]:
    """The link's values in the order of ``COLUMNS``."""
    values = list(_VALUES(link))
    for index, shown in _SHOWN:
        values[index] = shown(values[index])
    return values


def link_in(row: Row) -> Link:
    """The link in a row of ``NAMES``."""
    return Link(
        str(row["link_id"]),
        cast("int", row["seq"]),
        str(row["decision_id"]),
        str(row["event_id"]),
        cast("int", row["decided_us"]),
        cast("int", row["occurred_us"]),
        str(row["agent_id"]),
        str(row["action_type"]),
        bool(row["low_confidence"]),
        bool(row["human_in_loop"]),
        int(str(row["amount"])),
        str(row["currency"]),
        cast("LinkType", row["link_type"]),
        json.loads(str(row["strength"])),
        str(row["method"]),
        cast("str | None", row["notes"]),
        None if row["score"] is None else json.loads(str(row["score"])),
        cast("str | None", row["request_key"]),
        cast("Status", row["status"]),
        cast("int", row["created_us"]),
        cast("int | None", row["confirmed_us"]),
        cast("int | None", row["rejected_us"]),
        cast("int | None", row["deleted_us"]),
        cast("int", row["entries"]),
    )
