"""The endpoints of financial events: from the request's model to the service and back. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from precipiq_billing import models
from precipiq_billing.kinds import FINANCIAL_EVENT
from precipiq_billing.service import FinancialEvents, NewEvent
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.entry_store import EntryQuery
from precipiq_contracts.ledger import Ledger
from precipiq_core.entry_pages import find_page
from precipiq_core.http.cursors import decode_cursor, encode_cursor, page_limit
from precipiq_core.http.endpoint import REPLAYED, Call, Endpoint, NoBody, NoQuery, Reply
from precipiq_core.http.redaction import RedactionIn, redact
from precipiq_core.http.settings import HttpSettings

_CURSOR = "financial_events"
_FILTERS = ("source", "event_type", "currency", "external_id", "object_id", "related_id")


class FinancialEventRoutes:
    """Handlers of financial events."""

    def __init__(self, events: FinancialEvents, ledger: Ledger, http: HttpSettings) -> None:
        self._events = events
        self._ledger = ledger
        self._http = http

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        by_id = {"id": "a financial event's id"}
        path = "/financial-events"
        return [
            Endpoint(
                "POST",
                path,
                self.create_financial_event,
                "write",
                models.FinancialEvent,
                body=models.FinancialEventIn,
                status=201,
                repeat_status=200,
            ),
            Endpoint(
                "GET",
                path,
                self.list_financial_events,
                "read",
                models.FinancialEventPage,
                query=models.FinancialEventQuery,
            ),
            Endpoint(
                "GET",
                f"{path}/{{id}}",
                self.get_financial_event,
                "read",
                models.FinancialEvent,
                path_parameters=by_id,
            ),
            Endpoint(
                "POST",
                f"{path}/{{id}}/redact",
                self.redact_financial_event,
                "admin",
                models.FinancialEventRedaction,
                body=RedactionIn,
                errors=("conflict",),
                path_parameters=by_id,
            ),
        ]

    async def create_financial_event(self, call: Call[models.FinancialEventIn, NoQuery]) -> Reply:
        """Record money that moved.

        Answers once it is durable. A repeat (same `source` and `external_id`, or same `Idempotency-Key`) returns the
        recorded event with 200 and `Idempotent-Replayed: true`; with other content it is refused. A repeat of an
        `external_id` may leave out `timestamp` and `metadata`.
        """
        body, principal = call.body, call.principal
        event = NewEvent(
            body.source,
            body.event_type,
            body.amount,
            body.currency,
            body.external_id,
            body.timestamp,
            body.metadata,
        )
        entry, is_new = await self._events.record(principal.chain, event, principal.key_id, call.idempotency_key)
        record = (await self._events.records(principal.chain, [entry]))[0]
        return Reply(record) if is_new else Reply(record, 200, (REPLAYED,))

    async def list_financial_events(self, call: Call[NoBody, models.FinancialEventQuery]) -> object:
        """List financial events, newest first by when they were recorded.

        A page may be short, of a filtered list even empty, while `next_cursor` is set.
        """
        query = call.query
        values = {name: getattr(query, name) for name in _FILTERS}
        wanted = EntryQuery(
            FINANCIAL_EVENT,
            {name: value for name, value in values.items() if value is not None},
            query.metadata,
            None if query.start is None else parse_timestamp(query.start),
            None if query.end is None else parse_timestamp(query.end),
        )
        before = None if query.cursor is None else decode_cursor(_CURSOR, query.cursor)
        find = partial(self._events.find, call.principal.chain, wanted)
        page = await find_page(find, before, page_limit(query.limit, self._http), self._http.page_bytes_max)
        next_cursor = None if page.next_before_seq is None else encode_cursor(_CURSOR, page.next_before_seq)
        return {
            "items": await self._events.records(call.principal.chain, page.entries),
            "next_cursor": next_cursor,
        }

    async def get_financial_event(self, call: Call[NoBody, NoQuery]) -> object:
        """Get a financial event with its proof."""
        entry = await self._events.get(call.principal.chain, call.path["id"])
        return (await self._events.records(call.principal.chain, [entry]))[0]

    async def redact_financial_event(self, call: Call[RedactionIn, NoQuery]) -> Reply:
        """Erase a financial event's metadata for good; the money stays on record, and proven."""
        return await redact(self._ledger, call, FINANCIAL_EVENT, "financial_event_id")
