"""The table of subscriptions, as typed functions over the core's database: the greatest state of each.

Each change and the event that announces it to its organisation's chain are one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, TypeAlias, cast

from precipiq_billing.kinds import PLAN_SUBSCRIPTION_CHANGED
from precipiq_billing.plans.subscriptions import SubscriptionState
from precipiq_contracts.chain import SYSTEM, Chain
from precipiq_contracts.clock import format_timestamp
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.errors import Unavailable
from precipiq_core.outbox import Outbox, OutboxEvent
from precipiq_macs.row_macs import RowMacs, SealedValues

Kept: TypeAlias = Literal["kept", "known", "outdated"]
"""The outcomes: the state was stored, was stored before, or a greater state is stored."""

_SEALED = (
    "subscription_id", "org_id", "status", "price_ids", "period_start_s", "period_end_s", "event_created_s",
    "event_rank", "is_deleted", "event_id", "version",
)  # fmt: skip
_COLUMNS = f"{', '.join(_SEALED)}, mac"
_CHANGED = ", ".join(f"{name} = excluded.{name}" for name in f"{_COLUMNS}, change".split(", ")[1:])
_AS_READ = (
    "COALESCE((SELECT version FROM plan_subscriptions WHERE subscription_id = :subscription_id), '') = :old_version"
)
_PAGE = 500
_ATTEMPTS = range(100)

_NEWEST = "(SELECT COALESCE(MAX(change), 0) FROM plan_subscriptions)"
_COUNT_CHANGE = Statement(
    f"UPDATE plan_changes SET changes = 1 + CASE WHEN changes < {_NEWEST} THEN {_NEWEST} ELSE changes END "  # noqa: S608
    "WHERE id = 1"
)
"""The first statement of every transaction that writes: the row's lock serialises writes on all nodes. So changes
become visible in their order, and a process that has read up to a change has missed none. A count that somebody else
wrote is passed over."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row. ``sealed``: what its MAC covers; ``mac``: None where an older version stored it."""

    state: SubscriptionState
    sealed: SealedValues
    mac: str | None


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows and the count at which the last of them changed."""

    rows: tuple[Stored, ...]
    change: int


def plan_chain(org_id: str) -> Chain:
    """The chain that announces the organisation's subscriptions."""
    return Chain(org_id, "live")


def subscription_body(state: SubscriptionState, *, is_elsewhere: bool = False) -> dict[str, object]:
    """The body of the entry that announces the state. ``is_elsewhere``: it does not name this organisation any more."""
    return {
        "subscription_id": state.subscription_id,
        "status": state.status,
        "price_ids": list(state.price_ids),
        "period_start": format_timestamp(state.period_start_s * 1_000_000) if state.period_start_s else None,
        "period_end": format_timestamp(state.period_end_s * 1_000_000) if state.period_end_s else None,
        "is_deleted": state.is_deleted,
        "is_elsewhere": is_elsewhere,
        "stripe_event_id": state.event_id,
        "version": state.version,
    }


class SubscriptionStore:
    """Subscriptions of all organisations, and subscriptions that name none; ``events``: see ``Outbox``."""

    def __init__(self, database: Database, macs: RowMacs, events: Outbox) -> None:
        self._database = database
        self._macs = macs
        self.events = events

    async def keep(self, state: SubscriptionState) -> Kept:
        """Store the state unless one as great is stored; durable on return. Raises ``Unavailable``.

        A row that somebody else wrote is replaced: it must not keep a state from being stored.
        """
        for _ in _ATTEMPTS:
            old = await self.get(state.subscription_id)
            is_ours = old is not None and await self._macs.hold(old.sealed, old.mac)
            if old is not None and is_ours:
                same = old.state.org_id == state.org_id or not state.org_id
                if old.state.version > state.version or (old.state.version == state.version and same):
                    return "known" if old.state.version == state.version else "outdated"
            if await self._put(state, old):
                return "kept"
        raise Unavailable("too many events of one subscription at once; try again")

    async def adopt(self, row: Stored) -> None:
        """Give a row its MAC and announce it, unless it was changed since it was read."""
        await self._put(row.state, row)

    async def adopt_of_nobody(self, row: Stored) -> None:
        """As :meth:`adopt`, of a row that names an organisation that there is not: it names none from now on."""
        state = replace(row.state, org_id="")
        await self._put(state, replace(row, state=state))

    async def _put(self, state: SubscriptionState, old: Stored | None) -> bool:
        """Store the state in the place of that row; False when the row was changed meanwhile."""
        as_read: dict[str, Scalar] = {
            "subscription_id": state.subscription_id,
            "old_version": "" if old is None else str(old.sealed.values["version"]),
        }
        events: list[OutboxEvent] = []
        if state.org_id:
            events.append(_event(state.org_id, subscription_body(state)))
        is_moved = old is not None and old.state.org_id not in ("", state.org_id)
        if old is not None and is_moved and await self._macs.hold(old.sealed, old.mac):
            events.append(_event(old.state.org_id, subscription_body(state, is_elsewhere=True)))
        row = _values(state)
        row["mac"] = await self._macs.make(SealedValues("plan_subscriptions", dict(row)))
        put = Statement(
            f"INSERT INTO plan_subscriptions ({_COLUMNS}, change) SELECT {', '.join(f':{name}' for name in row)}, "  # noqa: S608
            f"(SELECT changes FROM plan_changes WHERE id = 1) WHERE {_AS_READ} "
            f"ON CONFLICT (subscription_id) DO UPDATE SET {_CHANGED} RETURNING version",
            {**row, **as_read},
        )
        recorded = [self.events.insert(event, f"WHERE {_AS_READ}", as_read) for event in events]
        return bool((await self._database.transaction([_COUNT_CHANGE, *recorded, put]))[-1])

    async def get(self, subscription_id: str) -> Stored | None:
        """That subscription's row."""
        sql = f"SELECT {_COLUMNS} FROM plan_subscriptions WHERE subscription_id = :id"  # noqa: S608
        rows = await self._database.fetch(Statement(sql, {"id": subscription_id}))
        return _stored(rows[0]) if rows else None

    async def changed_after(self, change: int, limit: int) -> Changed:
        """Up to ``limit`` rows that changed after that count (0: all), in the order of their changes."""
        sql = (
            f"SELECT {_COLUMNS}, change FROM plan_subscriptions "  # noqa: S608
            "WHERE change > :change ORDER BY change LIMIT :limit"
        )
        rows = await self._database.fetch(Statement(sql, {"change": change, "limit": limit}))
        return Changed(tuple(map(_stored, rows)), cast("int", rows[-1]["change"]) if rows else change)

    async def all_of_organisations(self) -> Sequence[Stored]:
        """Every subscription that names an organisation, ended ones included; for the operator's command."""
        sql = (
            f"SELECT {_COLUMNS} FROM plan_subscriptions "  # noqa: S608
            "WHERE org_id <> '' ORDER BY org_id, subscription_id"
        )
        return [_stored(row) for row in await self._database.fetch(Statement(sql))]

    async def of_organisation(self, org_id: str) -> Sequence[Stored]:
        """The subscriptions that name that organisation."""
        sql = f"SELECT {_COLUMNS} FROM plan_subscriptions WHERE org_id = :org_id ORDER BY subscription_id"  # noqa: S608
        return [_stored(row) for row in await self._database.fetch(Statement(sql, {"org_id": org_id}))]

    async def organisations(self) -> Sequence[str]:
        """The organisations that subscriptions name."""
        rows = await self._database.fetch(Statement("SELECT DISTINCT org_id FROM plan_subscriptions"))
        return [str(row["org_id"]) for row in rows if row["org_id"]]

    async def page(self, after_id: str) -> Sequence[Stored]:
        """A page of all subscriptions, by id; empty after the last one."""
        sql = (
            f"SELECT {_COLUMNS} FROM plan_subscriptions WHERE subscription_id > :after "  # noqa: S608
            "ORDER BY subscription_id LIMIT :limit"
        )
        rows = await self._database.fetch(Statement(sql, {"after": after_id, "limit": _PAGE}))
        return [_stored(row) for row in rows]


def _event(org_id: str, body: Mapping[str, object]) -> OutboxEvent:
    """The same for the same state: a second storing announces nothing new."""
    name = "\n".join((org_id, str(body["subscription_id"]), str(body["version"])))
    event_id = f"plan_{sha256(name.encode()).hexdigest()}"
    return OutboxEvent(event_id, plan_chain(org_id), PLAN_SUBSCRIPTION_CHANGED, SYSTEM, body)


def _values(state: SubscriptionState) -> dict[str, Scalar]:
    return {
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
    }


def _stored(row: Row) -> Stored:
    sealed = SealedValues("plan_subscriptions", {name: row[name] for name in _SEALED})
    return Stored(_state(row), sealed, cast("str | None", row["mac"]))


def _state(row: Row) -> SubscriptionState:
    return SubscriptionState(
        str(row["subscription_id"]),
        str(row["org_id"]),
        str(row["status"]),
        _price_ids(str(row["price_ids"])),
        cast("int", row["period_start_s"]),
        cast("int", row["period_end_s"]),
        cast("int", row["event_created_s"]),
        cast("int", row["event_rank"]),
        bool(row["is_deleted"]),
        str(row["event_id"]),
    )


def _price_ids(text: str) -> tuple[str, ...]:
    """None where it is no list: somebody else wrote the row, and its MAC does not hold."""
    try:
        return tuple(json.loads(text))
    except (TypeError, ValueError):
        return ()
