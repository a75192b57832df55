"""Financial events: recording each once, finding, presenting, and erasing metadata. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from precipiq_billing.currencies import WITHDRAWN
from precipiq_billing.kinds import FINANCIAL_EVENT
from precipiq_billing.records import financial_event_record, stored_metadata
from precipiq_chain.canonical import canonical
from precipiq_chain.chain_format import parse_statement, statement_kind
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.entry_store import EntryPage, EntryQuery
from precipiq_contracts.errors import IdempotencyConflict, NotFound, ValidationFailed
from precipiq_contracts.ledger import Ledger


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Money to record. ``amount``: canonical; ``occurred_at``: as the chain writes times, None for now.

    ``object_id``, ``related_id``, ``cause`` and ``livemode``: see ``Booking``.
    """

    source: str
    event_type: str
    amount: str
    currency: str
    external_id: str | None
    occurred_at: str | None
    metadata: Mapping[str, Any] | None
    object_id: str | None = None
    related_id: str | None = None
    cause: str | None = None
    livemode: bool | None = None


class FinancialEvents:
    """Financial events of all chains; the chain alone stores them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(
        self, chain: Chain, event: NewEvent, actor: str, request_key: str | None = None
    ) -> tuple[Entry, bool]:
        """Record the event; gives its entry, and whether the entry is new.

        The source and its ``external_id`` name an event; without one the ``request_key`` does. A repeat of an
        ``external_id`` may leave out ``occurred_at`` and ``metadata``. Raises ``IdempotencyConflict`` when that event
        was recorded with other content, ``ValidationFailed`` for a withdrawn currency's money of now.
        """
        if event.occurred_at is None and event.currency in WITHDRAWN:
            return await self._repeat(chain, event) or _refuse_withdrawn(event.currency)
        key = None if request_key is None else f"billing:{FINANCIAL_EVENT}:request:{request_key}"
        if event.external_id is not None:
            key = f"billing:{FINANCIAL_EVENT}:{event.source}:{event.external_id}"
        body: dict[str, object] = {
            "source": event.source,
            "event_type": event.event_type,
            "amount": event.amount,
            "currency": event.currency,
            "external_id": event.external_id,
            "occurred_at": event.occurred_at,
            "object_id": event.object_id,
            "related_id": event.related_id,
            "cause": event.cause,
            "livemode": event.livemode,
        }
        try:
            appended = await self._ledger.append(
                chain, [Draft(FINANCIAL_EVENT, actor, body, {"metadata": event.metadata}, key)]
            )
        except IdempotencyConflict:
            repeat = await self._repeat(chain, event)
            if repeat is None:
                raise
            return repeat
        return appended.entries[0], appended.created[0]

    async def _repeat(self, chain: Chain, event: NewEvent) -> tuple[Entry, bool] | None:
        """The recorded event that this one names, if it says no other thing than that did."""
        if event.external_id is None:
            return None
        found = await self.by_external_id(chain, event.source, event.external_id)
        return None if found is None or not _is_repeat(event, found) else (found, False)

    async def get(self, chain: Chain, event_id: str) -> Entry:
        """Raises ``NotFound``."""
        entry = await self._ledger.get(chain, event_id)
        if entry is None or statement_kind(entry.statement) != FINANCIAL_EVENT:
            raise NotFound
        return entry

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """Events that match, newest first."""
        return await self._ledger.find(chain, query, before_seq, limit)

    async def by_external_id(self, chain: Chain, source: str, external_id: str) -> Entry | None:
        """The event with that id, found from the newest back."""
        query = EntryQuery(FINANCIAL_EVENT, {"source": source, "external_id": external_id})
        before: int | None = None
        while True:
            page = await self._ledger.find(chain, query, before, 1)
            if page.entries:
                return page.entries[0]
            if page.next_before_seq is None:
                return None
            before = page.next_before_seq

    async def records(self, chain: Chain, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Events as the REST interface shows them."""
        erased = [entry.seq for entry in entries if entry.payload is None]
        redaction_ids = await self._ledger.redaction_ids(chain, erased)
        return [financial_event_record(entry, redaction_ids.get(entry.seq)) for entry in entries]

    async def present(self, chain: Chain, entries: Sequence[Entry]) -> list[bytes]:
        """As :meth:`records`, as JSON. See ``precipiq_contracts.chain.Present``."""
        return [orjson.dumps(record) for record in await self.records(chain, entries)]


def _is_repeat(event: NewEvent, recorded: Entry) -> bool:
    """Whether all that the event says was recorded. An erased payload says nothing any more: the body decides."""
    statement = parse_statement(recorded.statement)
    body = statement.body
    names = ("event_type", "amount", "currency", "object_id", "related_id", "cause", "livemode")
    if any(getattr(event, name) != body.get(name) for name in names):
        return False
    if event.occurred_at not in (None, body.get("occurred_at") or statement.timestamp):
        return False
    metadata = stored_metadata(recorded)
    return event.metadata is None or metadata is None or canonical(dict(event.metadata)) == metadata


def _refuse_withdrawn(currency: str) -> NoReturn:
    day = WITHDRAWN[currency].end[:10]
    raise ValidationFailed(details={"timestamp": [f"is required: {currency} was withdrawn on {day}"]})
