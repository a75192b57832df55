"""Links: making, confirming, rejecting, deleting. Every change is an entry; the tables follow. Knows no HTTP.

The entries of a pair (decision, event) carry its version as their idempotency key, so that of two changes that did not
know of each other, on any nodes, the chain refuses one, which then reads the link again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from precipiq_chain.chain_format import Statement, parse_statement, statement_kind
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.errors import IdempotencyConflict, NotFound, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_outcomes import kinds
from precipiq_outcomes.errors import LinkConflict, NotASuggestion
from precipiq_outcomes.fold import group_of
from precipiq_outcomes.link_store import LinkStore
from precipiq_outcomes.links import Link, LinkType, apply_entry, link_of
from precipiq_outcomes.pages import notes_in
from precipiq_outcomes.projection import Projection
from precipiq_outcomes.records import estimate_record, link_record

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link to make. ``strength``: 0 to 1. ``score``: the worker's score, if it proposes the link."""

    decision_id: str
    event_id: str
    strength: float
    method: str
    link_type: LinkType
    notes: str | None
    is_suggestion: bool = False
    score: Mapping[str, Any] | None = None


class LinkService:
    """Links of all chains."""

    def __init__(self, store: LinkStore, projection: Projection, ledger: Ledger) -> None:
        self._store = store
        self._projection = projection
        self._ledger = ledger

    async def create(
        self, chain: Chain, new: NewLink, actor: str, idempotency_key: str | None = None
    ) -> tuple[Link, bool]:
        """Make the pair's active link; gives it and whether it is new: a repeat gives the existing link.

        Raises ``NotFound`` (no such decision or event), ``LinkConflict`` and ``IdempotencyConflict``.
        """
        request_key = None if idempotency_key is None else sha256(idempotency_key.encode()).hexdigest()
        ends: tuple[Statement, Entry, Statement, Entry] | None = None
        for _ in range(_ATTEMPTS):
            await self._projection.current(chain)
            if request_key is not None and (known := await self._store.by_request(chain, request_key)) is not None:
                if not _says(known, new):
                    raise IdempotencyConflict
                return known, False
            pair = await self._store.of_pair(chain, new.decision_id, new.event_id)
            active = next((link for link in pair if link.is_active), None)
            if active is not None:
                if not _says(active, new):
                    raise LinkConflict
                return active, False
            ends = ends or await self._ends(chain, new)
            draft = _draft(new, ends, actor, request_key, _version(pair))
            link = await self._append(chain, draft)
            if link is not None:
                return link, True
        raise Unavailable("others keep changing this link; try again")

    async def propose(self, chain: Chain, new: NewLink, actor: str) -> bool:
        """Make the worker's link, unless the pair ever had a link; gives whether it was made."""
        if await self._store.of_pair(chain, new.decision_id, new.event_id):
            return False
        draft = _draft(new, await self._ends(chain, new), actor, None, 0)
        return await self._append(chain, draft) is not None

    async def confirm(self, chain: Chain, link_id: str, actor: str) -> Link:
        """Make a suggestion active and manual. Raises ``NotFound``, ``NotASuggestion``, ``LinkConflict``."""
        return await self._answer(chain, link_id, kinds.LINK_CONFIRMED, actor)

    async def reject(self, chain: Chain, link_id: str, actor: str) -> Link:
        """Refuse a suggestion for good: the worker never proposes the pair again. Raises as :meth:`confirm`."""
        return await self._answer(chain, link_id, kinds.LINK_REJECTED, actor)

    async def delete(self, chain: Chain, link_id: str, actor: str) -> Link:
        """End a link, which stays on record. A repeat changes nothing. Raises ``NotFound``."""
        for _ in range(_ATTEMPTS):
            link, version = await self._state(chain, link_id)
            if link.status in ("deleted", "rejected"):
                return link
            if await self._append_change(chain, link, kinds.LINK_DELETED, actor, version):
                return await self.get(chain, link_id)
        raise Unavailable("others keep changing this link; try again")

    async def get(self, chain: Chain, link_id: str) -> Link:
        """Raises ``NotFound``."""
        await self._projection.current(chain)
        link = await self._store.get(chain, link_id)
        if link is None:
            raise NotFound
        return link

    async def page(
        self, chain: Chain, filters: Mapping[str, str], before_seq: int | None, limit: int
    ) -> Sequence[Link]:
        """Links that match, newest first."""
        await self._projection.current(chain)
        return await self._store.page(chain, filters, before_seq, limit)

    async def present_links(self, chain: Chain, entries: Sequence[Entry]) -> list[bytes]:
        """The state of each link after each of these entries. See ``precipiq_contracts.chain.Present``."""
        return list(await asyncio.gather(*(self._present(chain, entry) for entry in entries)))

    async def present_estimates(self, chain: Chain, entries: Sequence[Entry]) -> list[bytes]:
        """Recorded estimates. See ``precipiq_contracts.chain.Present``."""
        return [orjson.dumps(estimate_record(parse_statement(entry.statement), entry.hash)) for entry in entries]

    async def _present(self, chain: Chain, entry: Entry) -> bytes:
        statement = parse_statement(entry.statement)
        if statement.kind == kinds.LINK:
            return orjson.dumps(link_record(chain, _link_in(entry)))
        made = await self._ledger.get(chain, str(statement.body["link_id"]))
        if made is None:
            return orjson.dumps(statement.body)
        link = apply_entry(_link_in(made), statement.kind, parse_timestamp(statement.timestamp))
        return orjson.dumps(link_record(chain, link))

    async def _answer(self, chain: Chain, link_id: str, kind: str, actor: str) -> Link:
        for _ in range(_ATTEMPTS):
            link, version = await self._state(chain, link_id)
            if (link.confirmed_us if kind == kinds.LINK_CONFIRMED else link.rejected_us) is not None:
                return link  # a repeat
            if not link.awaits_answer:
                raise NotASuggestion
            if kind == kinds.LINK_CONFIRMED and not link.is_active:
                pair = await self._store.of_pair(chain, link.decision_id, link.event_id)
                if any(other.is_active for other in pair):
                    raise LinkConflict
            if await self._append_change(chain, link, kind, actor, version):
                return await self.get(chain, link_id)
        raise Unavailable("others keep changing this link; try again")

    async def _state(self, chain: Chain, link_id: str) -> tuple[Link, int]:
        link = await self.get(chain, link_id)
        return link, _version(await self._store.of_pair(chain, link.decision_id, link.event_id))

    async def _append_change(self, chain: Chain, link: Link, kind: str, actor: str, version: int) -> bool:
        body: dict[str, object] = {
            "link_id": link.link_id,
            "decision_id": link.decision_id,
            "financial_event_id": link.event_id,
        }
        draft = Draft(kind, actor, body, None, _key(link.decision_id, link.event_id, version))
        try:
            await self._ledger.append(chain, [draft])
        except IdempotencyConflict:
            return False
        return True

    async def _append(self, chain: Chain, draft: Draft) -> Link | None:
        """Append the draft; gives the link, or None when another change of the pair came first."""
        try:
            appended = await self._ledger.append(chain, [draft])
        except IdempotencyConflict:
            return None
        return _link_in(appended.entries[0]) if appended.created[0] else None

    async def _ends(self, chain: Chain, new: NewLink) -> tuple[Statement, Entry, Statement, Entry]:
        decision = await self._end(chain, new.decision_id, kinds.DECISION, "decision")
        event = await self._end(chain, new.event_id, kinds.FINANCIAL_EVENT, "financial event")
        return parse_statement(decision.statement), decision, parse_statement(event.statement), event

    async def _end(self, chain: Chain, entry_id: str, kind: str, what: str) -> Entry:
        entry = await self._ledger.get(chain, entry_id)
        if entry is None or statement_kind(entry.statement) != kind:
            raise NotFound(f"there is no {what} with that id")
        return entry


def _draft(
    new: NewLink,
    ends: tuple[Statement, Entry, Statement, Entry],
    actor: str,
    request_key: str | None,
    version: int,
) -> Draft:
    decision, decision_entry, event, event_entry = ends
    group = group_of(decision.body)
    body: dict[str, object] = {
        "decision_id": decision.id,
        "decision_seq": decision.seq,
        "decision_hash": decision_entry.hash,
        "decided_at": decision.timestamp,
        "agent_id": group.agent_id,
        "action_type": group.action_type,
        "low_confidence": group.low_confidence,
        "human_in_loop": group.human_in_loop,
        "financial_event_id": event.id,
        "financial_event_seq": event.seq,
        "financial_event_hash": event_entry.hash,
        "occurred_at": event.body.get("occurred_at") or event.timestamp,
        "amount": event.body["amount"],
        "currency": event.body["currency"],
        "link_type": new.link_type,
        "correlation_strength": new.strength,
        "attribution_method": new.method,
        "is_suggestion": new.is_suggestion,
        "score": None if new.score is None else dict(new.score),
        "request_key": request_key,
    }
    return Draft(kinds.LINK, actor, body, {"notes": new.notes}, _key(decision.id, event.id, version))


def _key(decision_id: str, event_id: str, version: int) -> str:
    return f"outcomes:link:{decision_id}:{event_id}:{version}"


def _version(pair: Sequence[Link]) -> int:
    """The number of the pair's entries."""
    return sum(link.entries for link in pair)


def _says(link: Link, new: NewLink) -> bool:
    """Whether the link has the requested content. Erased notes cannot be compared."""
    return (link.decision_id, link.event_id, link.strength, link.method, link.link_type) == (
        new.decision_id,
        new.event_id,
        new.strength,
        new.method,
        new.link_type,
    ) and link.notes in (None, new.notes)


def _link_in(entry: Entry) -> Link:
    return link_of(parse_statement(entry.statement), notes_in(entry))
