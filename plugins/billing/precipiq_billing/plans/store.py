"""The table of subscriptions, as typed functions over the core's database: the greatest state of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from precipiq_billing.plans.subscriptions import SubscriptionState
from precipiq_contracts.database import Database, Row, Statement

Kept: TypeAlias = Literal["kept", "known", "outdated"]
"""The outcomes: the state was stored, was stored before, or a greater state is stored."""

_COLUMNS = (
    "subscription_id, org_id, status, price_ids, period_start_s, period_end_s, event_created_s, event_rank, "
    "is_deleted, event_id"
)
_MORE_COLUMNS = f"{_COLUMNS}, version"
_CHANGED = ", ".join(f"{name} = excluded.{name}" for name in f"{_MORE_COLUMNS}, change".split(", ")[1:])

_COUNT_CHANGE = Statement("UPDATE plan_changes SET changes = changes + 1 WHERE id = 1")
"""The first statement of every transaction that writes: the row's lock serialises writes on all nodes. So changes
become visible in their order, and a process that has read up to a change has missed none."""


@dataclass(frozen=True, slots=True)
class Changed:
    """States and the count at which the last of them changed."""

    states: tuple[SubscriptionState, ...]
    change: int


class SubscriptionStore:
    """Subscriptions of all organisations, and subscriptions that name none."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, state: SubscriptionState) -> Kept:
        """Store the state unless one as great is stored; durable on return. Raises ``Unavailable``."""
        values = ", ".join(f":{name}" for name in _MORE_COLUMNS.split(", "))
        put = Statement(
            f"INSERT INTO plan_subscriptions ({_MORE_COLUMNS}, change) "  # noqa: S608
            f"VALUES ({values}, (SELECT changes FROM plan_changes WHERE id = 1)) "
            f"ON CONFLICT (subscription_id) DO UPDATE SET {_CHANGED} "
            "WHERE excluded.version > plan_subscriptions.version RETURNING version",
            {
                "subscription_id": state.subscription_id,
                "org_id": state.org_id,
                "status": state.status,
                "price_ids": json.dumps(state.price_ids, separators=(",", ":")),
                "period_start_s": state.period_start_s,
                "period_end_s": state.period_end_s,
                "event_created_s": state.event_created_s,
                "event_rank": state.event_rank,
                "is_deleted": int(state.is_deleted),
                "event_id": state.event_id,
                "version": state.version,
            },
        )
        look = Statement(
            "SELECT version FROM plan_subscriptions WHERE subscription_id = :subscription_id",
            {"subscription_id": state.subscription_id},
        )
        _, stored, found = await self._database.transaction([_COUNT_CHANGE, put, look])
        if stored:
            return "kept"
        return "known" if found[0]["version"] == state.version else "outdated"

    async def changed_after(self, change: int, limit: int) -> Changed:
        """Up to ``limit`` states that changed after that count (0: all), in the order of their changes."""
        sql = (
            f"SELECT {_COLUMNS}, change FROM plan_subscriptions "  # noqa: S608
            "WHERE change > :change ORDER BY change LIMIT :limit"
        )
        rows = await self._database.fetch(Statement(sql, {"change": change, "limit": limit}))
        return Changed(tuple(map(_state, rows)), cast("int", rows[-1]["change"]) if rows else change)

    async def all_of_organisations(self) -> Sequence[SubscriptionState]:
        """Every subscription that names an organisation, ended ones included; for the operator's command."""
        sql = (
            f"SELECT {_COLUMNS} FROM plan_subscriptions "  # noqa: S608
            "WHERE org_id <> '' ORDER BY org_id, subscription_id"
        )
        return [_state(row) for row in await self._database.fetch(Statement(sql))]


def _state(row: Row) -> SubscriptionState:
    return SubscriptionState(
        str(row["subscription_id"]),
        str(row["org_id"]),
        str(row["status"]),
        tuple(json.loads(cast("str", row["price_ids"]))),
        cast("int", row["period_start_s"]),
        cast("int", row["period_end_s"]),
        cast("int", row["event_created_s"]),
        cast("int", row["event_rank"]),
        bool(row["is_deleted"]),
        str(row["event_id"]),
    )
