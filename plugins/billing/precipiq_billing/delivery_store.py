"""The tables of Stripe's deliveries: each event once, with what it told and what it added to its register.

One transaction a delivery. It holds only if the register is as its caller read it: a register's version rises with
each delivery.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from precipiq_billing.stripe_facts import Told, read_told, write_told
from precipiq_chain.chain_columns import chain_in, chain_values
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement

_COLUMNS = "org_id, environment, event_id, register, total, difference, draft, entry_id, received_us, created_s, told"
_EVENT = "org_id = :org_id AND environment = :environment AND event_id = :event_id"
_REGISTER = "org_id = :org_id AND environment = :environment AND register = :register"
_AS_READ = f"{_REGISTER} AND version = :version AND booked = :booked"

# Makes the register or takes its lock, so that what follows sees how it is and nobody else changes it.
_LOCK_REGISTER = """
INSERT INTO stripe_registers (org_id, environment, register, booked)
VALUES (:org_id, :environment, :register, :booked)
ON CONFLICT (org_id, environment, register) DO UPDATE SET booked = stripe_registers.booked
"""
_STORE = f"""
INSERT INTO stripe_deliveries
    (org_id, environment, event_id, register, total, difference, draft, received_us, version, created_s, told)
SELECT :org_id, :environment, :event_id, :register, :total, :difference, :draft, :received_us, :next_version,
    :created_s, :told
FROM stripe_registers WHERE {_AS_READ}
ON CONFLICT (org_id, environment, event_id) DO NOTHING
RETURNING {_COLUMNS}
"""  # noqa: S608
_SET_REGISTER = f"""
UPDATE stripe_registers SET booked = :total, version = :next_version
WHERE {_AS_READ} AND EXISTS (
    SELECT 1 FROM stripe_deliveries WHERE {_EVENT}
    AND stripe_deliveries.register = :register AND stripe_deliveries.version = :next_version
)
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery as it is stored. ``difference``: Stripe's minor units to book, 0 for none.

    ``draft``: what its entry says but for the amount; None once it is sealed or there is nothing to seal. ``total``:
    what its register had reached with it. ``told`` and ``created_s``: what its event told, and when it happened; None
    where an older version stored it.
    """

    chain: Chain
    event_id: str
    register: str
    total: int
    difference: int
    draft: Mapping[str, Any] | None
    entry_id: str | None
    received_us: int
    created_s: int | None
    told: Told | None


@dataclass(frozen=True, slots=True)
class RegisterState:
    """A register as it was read: how often it changed, what is booked of it, and the deliveries that it follows from.

    ``is_new``: there was none, and ``booked`` is what the registers of older versions hold in its place.
    """

    version: int
    booked: int
    deliveries: Sequence[StoredDelivery]
    is_new: bool


NEW_REGISTER = RegisterState(0, 0, (), is_new=True)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to store. ``total``: what its register has reached with it; ``draft``: None when nothing is booked."""

    event_id: str
    register: str
    total: int
    draft: Mapping[str, Any] | None
    created_s: int
    told: Told


class DeliveryStore:
    """Deliveries of all chains."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_register(
        self, chain: Chain, register: str, legacy: Mapping[str, int], deliveries_max: int
    ) -> RegisterState:
        """How that register is. ``legacy``: the registers that it takes the place of, each with its sign.

        Of deliveries that older versions stored, those that added something; of all, at most ``deliveries_max``.
        """
        names = {f"register_{index}": name for index, name in enumerate((register, *legacy))}
        among = f"register IN ({', '.join(f':{parameter}' for parameter in names)})"
        # The registers first: what is stored meanwhile makes their version stale, and the caller tries again.
        registers = await self._database.fetch_as(
            chain,
            Statement(f"SELECT register, version, booked FROM stripe_registers WHERE {among}", names),  # noqa: S608
        )
        deliveries = await self._database.fetch_as(
            chain,
            Statement(
                f"SELECT {_COLUMNS} FROM stripe_deliveries WHERE {among} "  # noqa: S608
                "AND (told IS NOT NULL OR difference <> 0) LIMIT :deliveries_max",
                {**names, "deliveries_max": deliveries_max},
            ),
        )
        known = {str(row["register"]): row for row in registers}
        found = tuple(map(_delivery, deliveries))
        own = known.get(register)
        if own is not None:
            return RegisterState(cast("int", own["version"]), cast("int", own["booked"]), found, is_new=False)
        booked = sum(sign * cast("int", known[name]["booked"]) for name, sign in legacy.items() if name in known)
        return RegisterState(0, booked, found, is_new=True)

    async def add(
        self, chain: Chain, delivery: NewDelivery, state: RegisterState, now_us: int
    ) -> StoredDelivery | None:
        """Store a delivery and set its register; None when its event is stored or the register is in another state."""
        register: dict[str, Scalar] = {**chain_values(chain), "register": delivery.register, "booked": state.booked}
        setting: dict[str, Scalar] = {
            **register,
            "event_id": delivery.event_id,
            "total": delivery.total,
            "version": state.version,
            "next_version": state.version + 1,
        }
        storing: dict[str, Scalar] = {
            **setting,
            "difference": delivery.total - state.booked,
            "draft": None if delivery.draft is None else json.dumps(delivery.draft, separators=(",", ":")),
            "received_us": now_us,
            "created_s": delivery.created_s,
            "told": write_told(delivery.told),
        }
        rows = await self._database.transaction(
            [Statement(_LOCK_REGISTER, register), Statement(_STORE, storing), Statement(_SET_REGISTER, setting)]
        )
        return _delivery(rows[1][0]) if rows[1] else None

    async def get(self, chain: Chain, event_id: str) -> StoredDelivery | None:
        """That event's delivery."""
        sql = f"SELECT {_COLUMNS} FROM stripe_deliveries WHERE event_id = :event_id"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql, {"event_id": event_id}))
        return _delivery(rows[0]) if rows else None

    async def last_of_register(self, chain: Chain, register: str) -> StoredDelivery | None:
        """The last delivery that changed what is booked of that register."""
        sql = (
            f"SELECT {_COLUMNS} FROM stripe_deliveries WHERE register = :register AND difference <> 0 "  # noqa: S608
            "ORDER BY COALESCE(version, 0) DESC, total DESC LIMIT 1"
        )
        rows = await self._database.fetch_as(chain, Statement(sql, {"register": register}))
        return _delivery(rows[0]) if rows else None

    async def note_created(self, chain: Chain, created_s: Mapping[str, int]) -> None:
        """When the events of deliveries happened that an older version stored without saying: event -> time."""
        sql = f"UPDATE stripe_deliveries SET created_s = :created_s WHERE {_EVENT}"  # noqa: S608
        await self._database.transaction(
            [
                Statement(sql, {**chain_values(chain), "event_id": event_id, "created_s": value})
                for event_id, value in created_s.items()
            ]
        )

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


def _delivery(row: Row) -> StoredDelivery:
    return StoredDelivery(
        chain_in(row),
        str(row["event_id"]),
        str(row["register"]),
        cast("int", row["total"]),
        cast("int", row["difference"]),
        None if row["draft"] is None else json.loads(str(row["draft"])),
        cast("str | None", row["entry_id"]),
        cast("int", row["received_us"]),
        cast("int | None", row["created_s"]),
        None if row["told"] is None else read_told(str(row["told"])),
    )
