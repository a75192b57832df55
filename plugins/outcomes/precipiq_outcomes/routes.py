"""The endpoints of links and analytics: from the request's model to the services and back. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.errors import ValidationFailed
from precipiq_contracts.ledger import Ledger
from precipiq_core.http.cursors import decode_cursor, encode_cursor, page_limit
from precipiq_core.http.endpoint import REPLAYED, Call, Endpoint, NoBody, NoQuery, Reply
from precipiq_core.http.redaction import RedactionIn, redact
from precipiq_core.http.settings import HttpSettings
from precipiq_outcomes import models
from precipiq_outcomes.analytics import Analytics, Range
from precipiq_outcomes.kinds import LINK
from precipiq_outcomes.records import link_record
from precipiq_outcomes.service import LinkService, NewLink

_CURSOR = "links"
_FILTERS = {
    "decision_id": "decision_id",
    "financial_event_id": "event_id",
    "agent_id": "agent_id",
    "link_type": "link_type",
    "status": "status",
    "attribution_method": "method",
    "currency": "currency",
}
"""Query parameter -> column."""


class LinkRoutes:
    """Handlers of links."""

    def __init__(self, service: LinkService, ledger: Ledger, http: HttpSettings) -> None:
        self._service = service
        self._ledger = ledger
        self._http = http

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        by_id = {"id": "a link's id"}
        answers = ("not_a_suggestion", "link_conflict")
        return [
            Endpoint(
                "POST",
                "/links",
                self.create_link,
                "write",
                models.Link,
                body=models.LinkIn,
                status=201,
                repeat_status=200,
                errors=("link_conflict", "not_found"),
            ),
            Endpoint("GET", "/links", self.list_links, "read", models.LinkPage, query=models.LinkQuery),
            Endpoint("GET", "/links/{id}", self.get_link, "read", models.Link, path_parameters=by_id),
            Endpoint(
                "DELETE", "/links/{id}", self.delete_link, "write", models.Link, rate="write", path_parameters=by_id
            ),
            Endpoint(
                "POST",
                "/links/{id}/confirm",
                self.confirm_link,
                "write",
                models.Link,
                errors=answers,
                path_parameters=by_id,
            ),
            Endpoint(
                "POST",
                "/links/{id}/reject",
                self.reject_link,
                "write",
                models.Link,
                errors=answers,
                path_parameters=by_id,
            ),
            Endpoint(
                "POST",
                "/links/{id}/redact",
                self.redact_link,
                "admin",
                models.LinkRedaction,
                body=RedactionIn,
                errors=("conflict",),
                path_parameters=by_id,
            ),
        ]

    async def create_link(self, call: Call[models.LinkIn, NoQuery]) -> Reply:
        """Link a decision to the money that it moved.

        A pair has one active link: a repeat returns it with 200 and `Idempotent-Replayed: true`, other content is
        refused until it is deleted.
        """
        body, principal = call.body, call.principal
        new = NewLink(
            body.decision_id,
            body.financial_event_id,
            body.correlation_strength,
            body.attribution_method,
            body.link_type,
            body.notes,
        )
        link, is_new = await self._service.create(principal.chain, new, principal.key_id, call.idempotency_key)
        record = link_record(principal.chain, link)
        return Reply(record) if is_new else Reply(record, 200, (REPLAYED,))

    async def list_links(self, call: Call[NoBody, models.LinkQuery]) -> object:
        """List links, newest first; deleted and rejected ones too, unless `status` says otherwise."""
        chain, query = call.principal.chain, call.query
        values = {column: getattr(query, name) for name, column in _FILTERS.items()}
        filters = {column: value for column, value in values.items() if value is not None}
        before = None if query.cursor is None else decode_cursor(_CURSOR, query.cursor)
        limit = page_limit(query.limit, self._http)
        links = await self._service.page(chain, filters, before, limit)
        next_cursor = encode_cursor(_CURSOR, links[-1].seq) if len(links) == limit else None
        return {"items": [link_record(chain, link) for link in links], "next_cursor": next_cursor}

    async def get_link(self, call: Call[NoBody, NoQuery]) -> object:
        """Get a link."""
        chain = call.principal.chain
        return link_record(chain, await self._service.get(chain, call.path["id"]))

    async def delete_link(self, call: Call[NoBody, NoQuery]) -> object:
        """Delete a link: it counts no more, and stays on record. Repeating it changes nothing."""
        principal = call.principal
        link = await self._service.delete(principal.chain, call.path["id"], principal.key_id)
        return link_record(principal.chain, link)

    async def confirm_link(self, call: Call[NoBody, NoQuery]) -> object:
        """Confirm a link that the worker proposed: it becomes active, and `manual`. Repeating it changes nothing."""
        principal = call.principal
        link = await self._service.confirm(principal.chain, call.path["id"], principal.key_id)
        return link_record(principal.chain, link)

    async def reject_link(self, call: Call[NoBody, NoQuery]) -> object:
        """Reject a link that the worker proposed: the pair is never proposed again. Repeating it changes nothing."""
        principal = call.principal
        link = await self._service.reject(principal.chain, call.path["id"], principal.key_id)
        return link_record(principal.chain, link)

    async def redact_link(self, call: Call[RedactionIn, NoQuery]) -> Reply:
        """Erase a link's notes for good; the link stays on record, and proven."""
        return await redact(self._ledger, call, LINK, "link_id")


class AnalyticsRoutes:
    """Handlers of analytics."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        several = ("multi_currency",)
        return [
            Endpoint(
                "GET",
                "/analytics/ai-pnl",
                self.get_ai_pnl,
                "read",
                models.ProfitAndLoss,
                query=models.PnlQuery,
                errors=several,
            ),
            Endpoint(
                "GET",
                "/analytics/timeline",
                self.get_timeline,
                "read",
                models.Timeline,
                query=models.TimelineQuery,
                errors=several,
            ),
            Endpoint(
                "GET", "/analytics/liability", self.get_liability, "read", models.Liability, query=models.LiabilityQuery
            ),
        ]

    async def get_ai_pnl(self, call: Call[NoBody, models.PnlQuery]) -> object:
        """Get the profit and loss that decisions led to.

        An event counts once, however many decisions are linked to it; for an agent it counts when any decision of
        that agent is. Amounts are not weighted by the links' strength.
        """
        query = call.query
        return await self._analytics.profit_and_loss(call.principal.chain, _range(query), query.currency)

    async def get_timeline(self, call: Call[NoBody, models.TimelineQuery]) -> object:
        """Get profit and loss day by day, week by week (from Monday) or month by month, in UTC."""
        query = call.query
        return await self._analytics.timeline(call.principal.chain, _range(query), query.interval, query.currency)

    async def get_liability(self, call: Call[NoBody, models.LiabilityQuery]) -> object:
        """Get what the decisions of a range may cost if they turn out wrong, as of now."""
        query = call.query
        return await self._analytics.liability(call.principal.chain, _range(query), query.action_type)


def _range(query: models.PnlQuery | models.LiabilityQuery) -> Range:
    start = None if query.start is None else parse_timestamp(query.start)
    end = None if query.end is None else parse_timestamp(query.end)  # a bare end date was replaced by the day after it
    if start is not None and end is not None and start >= end:
        raise ValidationFailed(details={"end": ["must be after start"]})
    return Range(start, end, query.agent_id)
