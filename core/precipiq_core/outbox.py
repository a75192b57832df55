"""Events that must become entries: stored with the change that they record, in one transaction, and sealed after it.

The entry store may be a third party's, so one transaction cannot span a plugin's table and the chain. An
event waits in a table of the plugin until its entry is durable; its id makes a second delivery the same entry.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.errors import IdempotencyConflict, InternalError, PrecipiqError, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs, SealedValues

log = structlog.get_logger("precipiq.outbox")

COLUMNS = "event_id, org_id, environment, kind, actor, body"
"""Of the plugin's table, all TEXT; ``event_id`` is its primary key, and the order in which events are sealed.

With ``macs`` the table has a further column ``mac``, TEXT, which may be NULL.
"""

_AT_ONCE_MAX = 100
_DOWN_MAX = 3
_REFUSED_NAMED_MAX = 100


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """Something that happened and is to become an entry of the chain. ``body``: of that entry."""

    event_id: str
    chain: Chain
    kind: str
    actor: str
    body: Mapping[str, object]


class Outbox:
    """The events that wait in ``table``. ``key_prefix``: begins their entries' idempotency keys, unique per plugin.

    ``macs``: an event that somebody else put into the table becomes no entry. None: whatever stands there does.
    """

    def __init__(self, database: Database, table: str, *, key_prefix: str, macs: RowMacs | None = None) -> None:
        self._database = database
        self._macs = macs
        self._columns = COLUMNS if macs is None else f"{COLUMNS}, mac"
        self._refused: set[str] = set()
        self._table = table
        self._key_prefix = key_prefix
        self._delivering = asyncio.Lock()
        self._is_failing = False

    def insert(
        self, event: OutboxEvent, condition: str = "", parameters: Mapping[str, Scalar] | None = None
    ) -> Statement:
        """Stores the event, in the transaction of its change; ``condition``: ``WHERE ...`` with parameters.

        An event that waits already is left as it is.
        """
        unless_there = f"NOT EXISTS (SELECT 1 FROM {self._table} WHERE event_id = :event_id)"  # noqa: S608
        where = f"{condition} AND {unless_there}" if condition else f"WHERE {unless_there}"
        row: dict[str, Scalar] = {
            "event_id": event.event_id,
            **chain_values(event.chain),
            "kind": event.kind,
            "actor": event.actor,
            "body": json.dumps(event.body, separators=(",", ":")),
        }
        if self._macs is not None:
            row["mac"] = self._macs.mac_if_there_is_a_key(SealedValues(self._table, dict(row)))
        values = ", ".join(f":{name}" for name in row)
        return Statement(
            f"INSERT INTO {self._table} ({', '.join(row)}) SELECT {values} {where}", {**row, **(parameters or {})}
        )

    async def deliver(self, ledger: Ledger) -> None:
        """Seal the events that wait. An event that cannot be sealed now stays; the failure is logged once."""
        try:
            async with self._delivering:
                stuck: dict[Chain, PrecipiqError] = {}
                after = ""
                while rows := await self._waiting(after, _AT_ONCE_MAX):
                    events = [_event(row) for row in rows if await self._is_ours(row)]
                    await self._forget([event for event in events if await self._seal(ledger, event, stuck)])
                    after = str(rows[-1]["event_id"])
            if stuck:
                raise next(iter(stuck.values()))
            self._is_failing = False
        except PrecipiqError as error:
            if not self._is_failing:
                log.warning("event not sealed yet; it is stored and will be", outbox=self._table, reason=error.message)
            self._is_failing = True

    async def deliver_all(self, ledger: Ledger) -> None:
        """As :meth:`deliver`. Raises ``Unavailable`` while one without a MAC waits, which would count for nothing."""
        await self.deliver(ledger)
        sql = f"SELECT 1 AS found FROM {self._table} WHERE mac IS NULL LIMIT 1"  # noqa: S608
        if await self._database.fetch(Statement(sql)):
            raise Unavailable(f"events of {self._table} wait to be sealed: rows are adopted after them")

    async def _seal(self, ledger: Ledger, event: OutboxEvent, stuck: dict[Chain, PrecipiqError]) -> bool:
        """Whether it is sealed; one that cannot be stays, and keeps those of no other chain from it."""
        if event.chain in stuck:
            return False
        key = f"{self._key_prefix}:{event.event_id}"
        try:
            await ledger.append(event.chain, [Draft(event.kind, event.actor, event.body, None, key)])
        except IdempotencyConflict:
            self._refuse(event.event_id, "an event was sealed with other content before: its row was set back")
            return False
        except Exception as error:  # a damaged chain fails in any way, and the change is stored already
            if not isinstance(error, PrecipiqError):
                log.exception("event cannot be sealed", outbox=self._table, event_id=event.event_id)
            stuck[event.chain] = error if isinstance(error, PrecipiqError) else InternalError()
            if sum(type(each) is Unavailable for each in stuck.values()) >= _DOWN_MAX:
                raise  # the ledger is down: each further chain would wait for nothing
            return False
        return True

    async def fetch_waiting(self, limit: int) -> list[OutboxEvent]:
        """The oldest events that wait."""
        return [_event(row) for row in await self._waiting("", limit)]

    async def fetch_ours(self, chain: Chain) -> list[OutboxEvent]:
        """The events of that chain that wait, without those that somebody else stored."""
        sql = f"SELECT {self._columns} FROM {self._table} WHERE event_id > :after ORDER BY event_id LIMIT :limit"  # noqa: S608
        found, after = list[OutboxEvent](), ""
        while rows := await self._database.fetch_as(chain, Statement(sql, {"after": after, "limit": _AT_ONCE_MAX})):
            found += [_event(row) for row in rows if await self._is_ours(row)]
            after = str(rows[-1]["event_id"])
        return found

    async def _waiting(self, after: str, limit: int) -> list[Row]:
        sql = f"SELECT {self._columns} FROM {self._table} WHERE event_id > :after ORDER BY event_id LIMIT :limit"  # noqa: S608
        return list(await self._database.fetch(Statement(sql, {"after": after, "limit": limit})))

    async def _is_ours(self, row: Row) -> bool:
        """Whether this deployment stored the event; says so once when not. Raises ``Unavailable``."""
        if self._macs is None:
            return True
        values = {name.strip(): row[name.strip()] for name in COLUMNS.split(",")}
        if await self._macs.hold(SealedValues(self._table, values), row["mac"]):
            return True
        self._refuse(str(row["event_id"]), "an event that no server of this deployment stored is not sealed")
        return False

    def _refuse(self, event_id: str, what: str) -> None:
        if event_id not in self._refused and len(self._refused) < _REFUSED_NAMED_MAX:
            self._refused.add(event_id)
            log.critical(what, code=ROW_UNANNOUNCED, outbox=self._table, event_id=event_id)

    async def _forget(self, events: list[OutboxEvent]) -> None:
        sql = f"DELETE FROM {self._table} WHERE event_id = :event_id"  # noqa: S608
        await self._database.transaction([Statement(sql, {"event_id": event.event_id}) for event in events])


def _event(row: Row) -> OutboxEvent:
    return OutboxEvent(
        str(row["event_id"]),
        chain_in(row),
        str(row["kind"]),
        str(row["actor"]),
        json.loads(str(row["body"])),
    )
