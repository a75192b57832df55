"""The worker that proposes links: each new financial event is scored against the decisions before it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from precipiq_chain.chain_format import parse_json, parse_statement, split_payload, statement_kind
from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import SYSTEM, Chain, Entry
from precipiq_contracts.clock import Clock, parse_timestamp
from precipiq_contracts.entry_store import EntryQuery
from precipiq_contracts.errors import Conflict, PrecipiqError, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_outcomes.config import CorrelationConfig
from precipiq_outcomes.kinds import DECISION, FINANCIAL_EVENT
from precipiq_outcomes.link_store import LinkStore
from precipiq_outcomes.links import ML_INFERRED, ML_SUGGESTED, LinkType
from precipiq_outcomes.projection import Projection
from precipiq_outcomes.projection_store import ProjectionStore
from precipiq_outcomes.scoring import REFERENCE_NAMES, Candidate, Money, Score, Weights, score
from precipiq_outcomes.service import LinkService, NewLink
from precipiq_outcomes.set_aside import SetAside
from precipiq_work.off_loop import OffLoop

CURSOR = "correlation"

_CHAINS_MAX = 100
_EVENTS_AT_ONCE = 20
_GROUP_BYTES = 64 * 1024
_REST_FACTOR = 3
"""The worker rests three times as long as it works, so that a backlog takes a quarter of a core at most."""

_TYPES: dict[str, LinkType] = {
    "payment": "revenue",
    "invoice": "revenue",
    "refund": "cost",
    "chargeback": "cost",
    "cost": "cost",
    "expense": "cost",
    "write_off": "cost",
    "liability": "liability",
}


@dataclass(frozen=True, slots=True)
class _Event:
    event_id: str
    event_type: str
    money: Money


@dataclass(frozen=True, slots=True)
class _Decision:
    id: str
    decided_us: int
    agent_id: str


class Correlator:
    """Proposes links for all chains. Several processes may propose; a pair gets one proposal."""

    def __init__(
        self,
        store: ProjectionStore,
        links: LinkStore,
        service: LinkService,
        projection: Projection,
        ledger: Ledger,
        clock: Clock,
        config: CorrelationConfig,
        set_aside: SetAside,
        off_loop: OffLoop,
    ) -> None:
        self._off_loop = off_loop
        self._store = store
        self._links = links
        self._service = service
        self._projection = projection
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._set_aside = set_aside
        self._has_more = asyncio.Event()
        self._weights = Weights(
            config.temporal_weight, config.metadata_weight, config.prior_weight, config.amount_weight
        )

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Propose links while the context is entered."""
        return background(
            "outcomes.links",
            self._look_on,
            every_s=self._config.interval_s,
            failing="links cannot be proposed now",
            wake=self._has_more,
            round_s_max=LONG_ROUND_S_MAX,
            tolerated=(PrecipiqError,),  # a long chain that the projection still takes in is no reason to stop serving
        )

    async def _look_on(self) -> None:
        if await self.look():
            self._has_more.set()

    async def look(self) -> bool:
        """Score some of the unscored events; gives whether there may be more."""
        has_more = False
        behind: Unavailable | None = None
        for chain in await self._store.chains_behind(CURSOR, _CHAINS_MAX):
            try:
                has_more = await self._look_at(chain) or has_more
            except Unavailable as error:  # a long chain that the projection still takes in delays no other
                behind = error
        if behind is not None:
            raise behind
        return has_more

    async def _look_at(self, chain: Chain) -> bool:
        old = await self._store.cursor(chain, CURSOR)
        head = await self._ledger.head(chain)
        entries = await self._ledger.read(chain, old, _EVENTS_AT_ONCE, FINANCIAL_EVENT)
        await self._projection.current(chain)  # so that the links made by then are known
        for entry in entries:
            began_s = self._clock.monotonic_s()
            try:
                event = await self._off_loop.run(chain, partial(_event, entry))
                if event is not None:
                    await self._propose(chain, event)
            except Unavailable:
                raise  # what is away comes back: the event is looked at again
            except Exception as error:  # noqa: BLE001  (one event must not end the suggestions of everybody)
                self._set_aside.note("correlator", chain, error, seq=entry.seq)
            await asyncio.sleep(_REST_FACTOR * (self._clock.monotonic_s() - began_s))
        is_full = len(entries) == _EVENTS_AT_ONCE
        new = entries[-1].seq if is_full else max(old, 0 if head is None else head.seq)
        try:
            await self._store.move_cursor(chain, CURSOR, old, new)
        except Conflict:
            return True  # another process has scored these events too
        return is_full

    async def _propose(self, chain: Chain, event: _Event) -> None:
        """Propose the best links of one event, above the least score of a suggestion."""
        known = {link.decision_id for link in await self._links.of_event(chain, event.event_id)}
        scored = [
            (found, decision)
            for found, decision in await self._scores(chain, event)
            if decision.id not in known and found.total >= self._config.suggested_min
        ]
        scored.sort(key=lambda pair: (-pair[0].total, -pair[1].decided_us))
        for found, decision in scored[: self._config.links_per_event_max]:
            is_sure = found.total >= self._config.inferred_min
            link_type = _TYPES.get(event.event_type) or ("revenue" if event.money.amount > 0 else "cost")
            link = NewLink(
                decision.id,
                event.event_id,
                found.total,
                ML_INFERRED if is_sure else ML_SUGGESTED,
                link_type,
                None,
                is_suggestion=not is_sure,
                score=found.as_json(self._weights),
            )
            await self._service.propose(chain, link, SYSTEM)

    async def _scores(self, chain: Chain, event: _Event) -> list[tuple[Score, _Decision]]:
        """Scores of the newest decisions of the time before the event, and of the decision that its metadata name."""
        until_us = event.money.occurred_us + 1
        query = EntryQuery(DECISION, start_us=until_us - self._config.window_s * 1_000_000, end_us=until_us)
        page = await self._ledger.find(chain, query, None, self._config.candidates_max)
        named = [await self._find_named(chain, event, name) for name in REFERENCE_NAMES]
        entries = {entry.seq: entry for entry in (*page.entries, *named) if entry is not None}
        answers: dict[str, tuple[int, int]] = {}
        found: list[tuple[Score, _Decision]] = []
        for group in _groups(list(entries.values())):
            decisions = [_decision(entry) for entry in group]
            for agent_id in {decision.agent_id for decision in decisions} - answers.keys():
                answers[agent_id] = await self._links.counts_of_agent(chain, agent_id)
            score_all = partial(self._score_all, event, group, decisions, answers)
            found += zip(await self._off_loop.run(chain, score_all), decisions, strict=True)
        return found

    def _score_all(
        self,
        event: _Event,
        entries: Sequence[Entry],
        decisions: Sequence[_Decision],
        answers: Mapping[str, tuple[int, int]],
    ) -> list[Score]:
        """Runs in a thread. One payload at a time: parsed, it may take fifty times the room of its text."""
        found = []
        for entry, decision in zip(entries, decisions, strict=True):
            payload = _payload(entry)
            metadata = payload.get("metadata")
            candidate = Candidate(
                decision.id,
                decision.decided_us,
                metadata if isinstance(metadata, dict) else {},
                [payload.get("inputs"), payload.get("outputs")],
                answers[decision.agent_id],
            )
            found.append(score(event.money, candidate, self._weights, self._config.half_life_s * 1_000_000))
        return found

    async def _find_named(self, chain: Chain, event: _Event, name: str) -> Entry | None:
        decision_id = event.money.metadata.get(name)
        if not isinstance(decision_id, str):
            return None
        entry = await self._ledger.get(chain, decision_id)
        return entry if entry is not None and statement_kind(entry.statement) == DECISION else None


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries in groups whose payloads are small together; a large one is a group of its own."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.payload or b"")
        if group and size > _GROUP_BYTES:
            yield group
            group, size = [], len(entry.payload or b"")
        group.append(entry)
    if group:
        yield group


def _decision(entry: Entry) -> _Decision:
    statement = parse_statement(entry.statement)
    return _Decision(statement.id, parse_timestamp(statement.timestamp), str(statement.body.get("agent_id")))


def _event(entry: Entry) -> _Event | None:
    statement = parse_statement(entry.statement)
    body = statement.body
    metadata = _payload(entry).get("metadata")
    try:
        money = Money(
            parse_timestamp(str(body.get("occurred_at") or statement.timestamp)),
            Decimal(str(body["amount"])),
            metadata if isinstance(metadata, dict) else {},
        )
    except (KeyError, ValueError, ArithmeticError):
        return None
    return _Event(statement.id, str(body.get("event_type")), money)


def _payload(entry: Entry) -> dict[str, Any]:
    payload: Any = None if entry.payload is None else parse_json(split_payload(entry.payload)[0])
    return payload if isinstance(payload, dict) else {}
