"""The tables of Stripe's deliveries: each event once, each register raised once. One transaction a delivery."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from precipiq_billing.stripe_events import Booking
from precipiq_chain.chain_columns import chain_in, chain_values
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement

_COLUMNS = "org_id, environment, event_id, register, difference, draft, entry_id"
_EVENT = "org_id = :org_id AND environment = :environment AND event_id = :event_id"
_REGISTER = "org_id = :org_id AND environment = :environment AND register = :register"

# Makes the register or takes its lock, so that the next statements see its total and no other process changes it.
_LOCK_REGISTER = """
INSERT INTO stripe_registers (org_id, environment, register, booked)
VALUES (:org_id, :environment, :register, 0)
ON CONFLICT (org_id, environment, register) DO UPDATE SET booked = stripe_registers.booked
"""
_STORE = f"""
INSERT INTO stripe_deliveries
    (org_id, environment, event_id, register, total, difference, draft, entry_id, received_us)
SELECT :org_id, :environment, :event_id, :register, :total,
    CASE WHEN booked < :total THEN :total - booked ELSE 0 END,
    CASE WHEN booked < :total THEN :draft ELSE NULL END, NULL, :received_us
FROM stripe_registers WHERE {_REGISTER}
ON CONFLICT (org_id, environment, event_id) DO NOTHING
RETURNING {_COLUMNS}
"""  # noqa: S608
_RAISE_REGISTER = f"""
UPDATE stripe_registers SET booked = :total
WHERE {_REGISTER} AND booked < :total AND EXISTS (
    SELECT 1 FROM stripe_deliveries WHERE {_EVENT}
    AND stripe_deliveries.register = :register AND stripe_deliveries.total = :total
)
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery as it is stored. ``difference``: Stripe's minor units to book, 0 for none.

    ``draft``: its entry without the amount; None once the entry is sealed, or without one.
    """

    chain: Chain
    event_id: str
    register: str
    difference: int
    draft: Mapping[str, Any] | None
    entry_id: str | None


class DeliveryStore:
    """Deliveries of all chains."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, chain: Chain, booking: Booking, draft: Mapping[str, Any], now_us: int) -> StoredDelivery | None:
        """Store a delivery and raise its register; None when that event is stored already."""
        values: dict[str, Scalar] = {
            **chain_values(chain),
            "event_id": booking.event_id,
            "register": booking.register,
            "total": booking.total_minor,
        }
        register = {name: values[name] for name in ("org_id", "environment", "register")}
        store = {**values, "draft": json.dumps(draft, separators=(",", ":")), "received_us": now_us}
        rows = await self._database.transaction(
            [Statement(_LOCK_REGISTER, register), Statement(_STORE, store), Statement(_RAISE_REGISTER, values)]
        )
        return _delivery(rows[1][0], draft) if rows[1] else None

    async def get(self, chain: Chain, event_id: str) -> StoredDelivery | None:
        """That event's delivery."""
        sql = f"SELECT {_COLUMNS} FROM stripe_deliveries WHERE event_id = :event_id"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql, {"event_id": event_id}))
        return _delivery(rows[0]) if rows else None

    async def last_of_register(self, chain: Chain, register: str) -> StoredDelivery | None:
        """The last delivery that raised that register."""
        sql = (
            f"SELECT {_COLUMNS} FROM stripe_deliveries WHERE register = :register AND difference > 0 "  # noqa: S608
            "ORDER BY total DESC LIMIT 1"
        )
        rows = await self._database.fetch_as(chain, Statement(sql, {"register": register}))
        return _delivery(rows[0]) if rows else None

    async def note_sealed(self, entry_ids: Mapping[tuple[Chain, str], str]) -> None:
        """Note the ids of sealed entries, by (chain, event), and forget the drafts."""
        sql = f"UPDATE stripe_deliveries SET entry_id = :entry_id, draft = NULL WHERE {_EVENT}"  # noqa: S608
        await self._database.transaction(
            [
                Statement(sql, {**chain_values(chain), "event_id": event_id, "entry_id": entry_id})
                for (chain, event_id), entry_id in entry_ids.items()
            ]
        )

    async def find_unsealed(self, before_us: int, limit: int) -> Sequence[StoredDelivery]:
        """The oldest deliveries that wait for their entry, of all chains."""
        sql = (
            f"SELECT {_COLUMNS} FROM stripe_deliveries WHERE draft IS NOT NULL AND received_us < :before "  # noqa: S608
            "ORDER BY received_us LIMIT :limit"
        )
        rows = await self._database.fetch(Statement(sql, {"before": before_us, "limit": limit}))
        return [_delivery(row) for row in rows]


def _delivery(row: Row, draft: Mapping[str, Any] | None = None) -> StoredDelivery:
    """``draft``: the row's draft, where the caller has just stored it."""
    return StoredDelivery(
        chain_in(row),
        str(row["event_id"]),
        str(row["register"]),
        cast("int", row["difference"]),
        None if row["draft"] is None else draft or json.loads(str(row["draft"])),
        cast("str | None", row["entry_id"]),
    )
