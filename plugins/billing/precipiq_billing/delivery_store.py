"""The tables of Stripe's deliveries: each event once, with what it told and what it added to its register.

One transaction a delivery. It holds only if the register is as its caller read it: a register's version rises with
each delivery.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from precipiq_billing.delivery_check import DeliveryCheck
from precipiq_billing.delivery_rows import (
    DELIVERY_COLUMNS,
    NEW_REGISTER,
    REGISTER_COLUMNS,
    NewDelivery,
    RegisterState,
    StoredDelivery,
    sealed_delivery,
    sealed_register,
)
from precipiq_billing.stripe_facts import write_told
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.errors import Unavailable
from precipiq_core.chain_columns import chain_values
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs

_EVENT = "org_id = :org_id AND environment = :environment AND event_id = :event_id"
_REGISTER = "org_id = :org_id AND environment = :environment AND register = :register"
_AS_READ = f"{_REGISTER} AND version = :version AND booked = :booked"
_READS_MAX = 20

# Makes the register or takes its lock, so that what follows sees how it is and nobody else changes it.
_LOCK_REGISTER = """
INSERT INTO stripe_registers (org_id, environment, register, booked, base, mac)
VALUES (:org_id, :environment, :register, :booked, :booked, :mac)
ON CONFLICT (org_id, environment, register) DO UPDATE SET booked = stripe_registers.booked
"""
_STORE = f"""
INSERT INTO stripe_deliveries
    (org_id, environment, event_id, register, total, difference, draft, received_us, version, created_s, told, mac)
SELECT :org_id, :environment, :event_id, :register, :total, :difference, :draft, :received_us, :next_version,
    :created_s, :told, :mac
FROM stripe_registers WHERE {_AS_READ} AND (:is_guess = 0 OR NOT EXISTS (
    SELECT 1 FROM stripe_deliveries WHERE {_REGISTER}
))
ON CONFLICT (org_id, environment, event_id) DO NOTHING
RETURNING {DELIVERY_COLUMNS}
"""  # noqa: S608
_SET_REGISTER = f"""
UPDATE stripe_registers SET booked = :total, version = :next_version, base = :base, mac = :mac
WHERE {_AS_READ} AND EXISTS (
    SELECT 1 FROM stripe_deliveries WHERE {_EVENT}
    AND stripe_deliveries.register = :register AND COALESCE(stripe_deliveries.mac, '') = :delivery_mac
)
"""  # noqa: S608

Place: TypeAlias = tuple[int, str, str, str]
"""Of a delivery among those that wait: when it was received, its chain and its event."""

BEGINNING: Place = (-1, "", "", "")


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A page of deliveries that wait for their entry. ``next``: where the next page begins; None after the last one."""

    deliveries: Sequence[StoredDelivery]
    next: Place | None


class DeliveryStore:
    """Deliveries of all chains; what somebody else wrote is left out, or refused with ``Unavailable``."""

    def __init__(self, database: Database, macs: RowMacs) -> None:
        self._database = database
        self._macs = macs
        self._check = DeliveryCheck(macs)

    async def read_register(
        self, chain: Chain, register: str, legacy: Mapping[str, int], deliveries_max: int
    ) -> RegisterState:
        """How that register is. ``legacy``: the registers that it takes the place of, each with its sign.

        Of deliveries that older versions stored, those that added something; of all, at most ``deliveries_max``.
        Raises ``Unavailable``, also where a register is not what its deliveries make.
        """
        names = (register, *legacy)
        for _ in range(_READS_MAX):
            # The registers first: what is stored meanwhile makes their version stale, and the caller tries again.
            known = await self._registers(chain, names)
            found = await self._deliveries(chain, names, deliveries_max)
            problems = [] if len(found) >= deliveries_max else await self._check.problems(known, found)
            if not problems:
                return _state(known, register, legacy, found)
            if known == await self._registers(chain, names):  # nobody changed them while the deliveries were read
                raise self._check.refuse(chain, problems)
        raise Unavailable("too many deliveries of one object at once; try again")

    async def add(
        self, chain: Chain, delivery: NewDelivery, state: RegisterState, now_us: int
    ) -> StoredDelivery | None:
        """Store a delivery and set its register; None when its event is stored or the register is in another state."""
        register: dict[str, Scalar] = {**chain_values(chain), "register": delivery.register, "booked": state.booked}
        begun = {**register, "version": 0, "base": state.booked}
        ended = {**register, "booked": delivery.total, "version": state.version + 1, "base": state.base}
        row: dict[str, Scalar] = {
            **chain_values(chain),
            "event_id": delivery.event_id,
            "register": delivery.register,
            "total": delivery.total,
            "difference": delivery.total - state.booked,
            "draft": None if delivery.draft is None else json.dumps(delivery.draft, separators=(",", ":")),
            "entry_id": None,
            "received_us": now_us,
            "version": state.version + 1,
            "created_s": delivery.created_s,
            "told": write_told(delivery.told),
        }
        as_read: dict[str, Scalar] = {
            "booked": state.booked,
            "version": state.version,
            "next_version": state.version + 1,
        }
        storing = {**row, **as_read, "mac": await self._macs.make(sealed_delivery(row))}
        storing["is_guess"] = int(state is NEW_REGISTER)
        del storing["entry_id"]
        locking = {**register, "mac": await self._macs.make(sealed_register(begun))}
        setting = {
            **register,
            **as_read,
            "event_id": delivery.event_id,
            "total": delivery.total,
            "base": state.base,
            "delivery_mac": storing["mac"] or "",
            "mac": await self._macs.make(sealed_register(ended)),
        }
        rows = await self._database.transaction(
            [Statement(_LOCK_REGISTER, locking), Statement(_STORE, storing), Statement(_SET_REGISTER, setting)]
        )
        return (await self._check.ours(rows[1]))[0] if rows[1] else None

    async def get(self, chain: Chain, event_id: str) -> StoredDelivery | None:
        """That event's delivery. Raises ``Unavailable`` where somebody else stored it: it must not pass for booked."""
        sql = f"SELECT {DELIVERY_COLUMNS} FROM stripe_deliveries WHERE event_id = :event_id"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql, {"event_id": event_id}))
        found = await self._check.ours(rows)
        if rows and not found:
            raise Unavailable(f"{ROW_UNANNOUNCED}: the row of this event was not stored by this deployment")
        return found[0] if found else None

    async def last_of_register(self, chain: Chain, register: str) -> StoredDelivery | None:
        """The last delivery that changed what is booked of that register."""
        sql = (
            f"SELECT {DELIVERY_COLUMNS} FROM stripe_deliveries WHERE register = :register AND difference <> 0 "  # noqa: S608
            "ORDER BY COALESCE(version, 0) DESC, total DESC"
        )
        rows = await self._database.fetch_as(chain, Statement(sql, {"register": register}))
        found = await self._check.ours(rows)
        return found[0] if found else None

    async def note_created(self, created_s: Sequence[tuple[StoredDelivery, int]]) -> None:
        """When the events of deliveries happened that an older version stored without saying."""
        sql = (
            f"UPDATE stripe_deliveries SET created_s = :created_s, mac = :mac WHERE {_EVENT} "  # noqa: S608
            "AND created_s IS NULL AND COALESCE(entry_id, '') = :entry_id"
        )
        statements: list[Statement] = []
        for delivery, value in created_s:
            mac = await self._macs.make(sealed_delivery({**delivery.values, "created_s": value}))
            values = {**_key(delivery), "created_s": value, "mac": mac, "entry_id": delivery.entry_id or ""}
            statements.append(Statement(sql, values))
        await self._database.transaction(statements)

    async def note_sealed(self, entry_ids: Sequence[tuple[StoredDelivery, str]]) -> None:
        """Note the ids of deliveries' sealed entries, and forget the drafts."""
        sql = (
            f"UPDATE stripe_deliveries SET entry_id = :entry_id, draft = NULL, mac = :mac WHERE {_EVENT} "  # noqa: S608
            "AND COALESCE(created_s, -1) = :created_s"
        )
        statements: list[Statement] = []
        for delivery, entry_id in entry_ids:
            mac = await self._macs.make(sealed_delivery({**delivery.values, "draft": None, "entry_id": entry_id}))
            created_s = -1 if delivery.created_s is None else delivery.created_s
            values = {**_key(delivery), "entry_id": entry_id, "mac": mac, "created_s": created_s}
            statements.append(Statement(sql, values))
        await self._database.transaction(statements)

    async def find_unsealed(self, before_us: int, after: Place, limit: int) -> Unsealed:
        """The oldest deliveries that wait for their entry, of all chains, after that one."""
        sql = (
            f"SELECT {DELIVERY_COLUMNS} FROM stripe_deliveries WHERE draft IS NOT NULL AND received_us < :before "  # noqa: S608
            "AND (received_us, org_id, environment, event_id) > (:received_us, :org_id, :environment, :event_id) "
            "ORDER BY received_us, org_id, environment, event_id LIMIT :limit"
        )
        place: dict[str, Scalar] = dict(zip(_PLACE, after, strict=True))
        rows = await self._database.fetch(Statement(sql, {**place, "before": before_us, "limit": limit}))
        following = tuple(rows[-1][name] for name in _PLACE) if len(rows) == limit else None
        return Unsealed(await self._check.ours(rows), cast("Place | None", following))

    async def _registers(self, chain: Chain, names: Sequence[str]) -> Mapping[str, Row]:
        among, values = _among(names)
        sql = f"SELECT {REGISTER_COLUMNS} FROM stripe_registers WHERE register IN ({among})"  # noqa: S608
        return {str(row["register"]): dict(row) for row in await self._database.fetch_as(chain, Statement(sql, values))}

    async def _deliveries(self, chain: Chain, names: Sequence[str], limit: int) -> list[StoredDelivery]:
        """Those of this deployment's, at most ``limit``; others take nobody's place."""
        among, values = _among(names)
        sql = (
            f"SELECT {DELIVERY_COLUMNS} FROM stripe_deliveries WHERE register IN ({among}) "  # noqa: S608
            "AND (told IS NOT NULL OR difference <> 0) AND event_id > :after ORDER BY event_id LIMIT :limit"
        )
        found: list[StoredDelivery] = []
        after = ""
        while len(found) < limit:
            rows = await self._database.fetch_as(chain, Statement(sql, {**values, "after": after, "limit": limit}))
            found += await self._check.ours(rows)
            if len(rows) < limit:
                break
            after = str(rows[-1]["event_id"])
        return found[:limit]


_PLACE = ("received_us", "org_id", "environment", "event_id")


def _state(
    known: Mapping[str, Row], register: str, legacy: Mapping[str, int], deliveries: Sequence[StoredDelivery]
) -> RegisterState:
    own = known.get(register)
    if own is not None:
        booked = cast("int", own["booked"])
        added = sum(each.difference for each in deliveries if each.register == register)
        return RegisterState(cast("int", own["version"]), booked, booked - added, deliveries, is_new=False)
    booked = sum(sign * cast("int", known[name]["booked"]) for name, sign in legacy.items() if name in known)
    return RegisterState(0, booked, booked, deliveries, is_new=True)


def _among(names: Sequence[str]) -> tuple[str, dict[str, Scalar]]:
    values: dict[str, Scalar] = {f"register_{index}": name for index, name in enumerate(names)}
    return ", ".join(f":{parameter}" for parameter in values), values


def _key(delivery: StoredDelivery) -> dict[str, Scalar]:
    return {**chain_values(delivery.chain), "event_id": delivery.event_id}
