"""Folds entries of a chain, in their order, into changes of the sums. Pure: state and entries in, changes out."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from precipiq_chain.chain_format import Statement
from precipiq_contracts.clock import parse_timestamp
from precipiq_outcomes import kinds
from precipiq_outcomes.amounts import scale
from precipiq_outcomes.liability import LOW_CONFIDENCE
from precipiq_outcomes.links import LOSS_TYPES, Link, apply_entry, link_of
from precipiq_outcomes.spans import DAY_US, Span, floor

SPANS: tuple[Span, ...] = ("month", "day")
EVERYBODY = ""
"""In place of an agent: the sum of all. No agent is called so."""

_GROUP_BYTES = 12
_LINK_CHANGES = frozenset((kinds.LINK_CONFIRMED, kinds.LINK_REJECTED, kinds.LINK_DELETED))


class Group(NamedTuple):
    """Decisions that are estimated alike."""

    agent_id: str
    action_type: str
    low_confidence: bool
    human_in_loop: bool

    @property
    def group_id(self) -> str:
        """The group's name, equal in every chain and process."""
        text = json.dumps(list(self), separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(blake2b(text, digest_size=_GROUP_BYTES).digest()).decode()


class Decided(NamedTuple):
    """A decision as the sums need it. ``at_us``: microseconds since the epoch; ``group_id``: that of the group."""

    at_us: int
    group_id: str
    group: Group


class MoneyKey(NamedTuple):
    """A row of sums: of one span of time, currency, type of link and agent (or everybody)."""

    span: Span
    start_us: int
    currency: str
    link_type: str
    agent_id: str


@dataclass
class Money:
    """``amount``: ten-thousandths, each event once. ``links``: active ones."""

    amount: int = 0
    events: int = 0
    links: int = 0


class FoldedEntry(NamedTuple):
    """An entry as the fold takes it. ``notes``: of a link whose payload is not erased."""

    statement: Statement
    notes: str | None


@dataclass
class Changes:
    """The changes of a batch of entries. Links: their new state; the others, except ``estimates``: differences.

    ``groups``: of the batch's decisions, by id.

    ``estimates``: decision -> newest recorded exposure and its seq. ``stale``: decision -> time since which its
    estimate may have changed; None when an estimate came after that.
    """

    decisions: list[tuple[int, str]] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    group_counts: Counter[str] = field(default_factory=Counter)
    decision_spans: dict[tuple[Span, int, str], int] = field(default_factory=dict)
    agent_days: Counter[tuple[str, int]] = field(default_factory=Counter)
    links: dict[str, Link] = field(default_factory=dict)
    money: dict[MoneyKey, Money] = field(default_factory=lambda: defaultdict(Money))
    losses: Counter[tuple[str, str]] = field(default_factory=Counter)
    estimates: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    stale: dict[str, int | None] = field(default_factory=dict)
    erased_links: list[str] = field(default_factory=list)


class Fold:
    """Folds one batch. ``links``: every link of the decisions and events that the batch's entries touch."""

    def __init__(self, links: Iterable[Link]) -> None:
        self.changes = Changes()
        self.refused: list[tuple[int, Exception]] = []
        self._links: dict[str, Link] = {}
        self._of_event: Counter[tuple[str, str, str]] = Counter()
        self._losses_of: Counter[str] = Counter()
        for link in links:
            self._links[link.link_id] = link
            if link.is_active:
                self._count(link, 1)

    def take(self, entries: Sequence[FoldedEntry]) -> Changes:
        """Fold the entries. Entries of other kinds change nothing; nor do those that are ``refused`` afterwards."""
        for entry in entries:
            try:
                self._take(entry)
            except Exception as error:  # noqa: BLE001  (one entry must not end the sums of its chain)
                self.refused.append((entry.statement.seq, error))
        return self.changes

    def count(self, decisions: Sequence[Decided]) -> None:
        """Count decisions, which change nothing else: their order among the entries does not matter."""
        changes, agents = self.changes, Counter[tuple[str, int]]()
        changes.decisions += [(at_us, group_id) for at_us, group_id, _ in decisions]
        changes.groups.update({group_id: group for _, group_id, group in decisions})
        changes.group_counts.update([group_id for _, group_id, _ in decisions])
        days = Counter([(at_us // DAY_US, group_id) for at_us, group_id, _ in decisions])
        starts = {day: [(span, floor(span, day * DAY_US)) for span in SPANS] for day in {day for day, _ in days}}
        for (day, group_id), count in days.items():
            for span, start_us in starts[day]:
                key = span, start_us, group_id
                changes.decision_spans[key] = changes.decision_spans.get(key, 0) + count
            agents[changes.groups[group_id].agent_id, day] += count
            agents[EVERYBODY, day] += count
        for (agent_id, day), count in agents.items():
            changes.agent_days[agent_id, day * DAY_US] += count

    def _take(self, entry: FoldedEntry) -> None:
        statement = entry.statement
        at_us = parse_timestamp(statement.timestamp)
        body = statement.body
        if statement.kind == kinds.LINK:
            self._replace(None, link_of(statement, entry.notes), at_us)
        elif statement.kind in _LINK_CHANGES:
            link = self._links.get(str(body["link_id"]))
            if link is not None:
                self._replace(link, apply_entry(link, statement.kind, at_us), at_us)
        elif statement.kind == kinds.LIABILITY_ESTIMATE:
            decision_id = str(body["decision_id"])
            _, _, before = self.changes.estimates.get(decision_id, (0, 0, 0))
            self.changes.estimates[decision_id] = (scale(str(body["estimated_exposure"])), statement.seq, before + 1)
            self.changes.stale[decision_id] = None
        elif statement.kind == kinds.REDACTION:
            self.changes.erased_links.append(str(body["target_id"]))

    def _replace(self, old: Link | None, new: Link, at_us: int) -> None:
        self._links[new.link_id] = self.changes.links[new.link_id] = new
        was_active = old is not None and old.is_active
        if was_active != new.is_active:
            self._book(new, 1 if new.is_active else -1)
        self.changes.stale[new.decision_id] = at_us

    def _book(self, link: Link, step: int) -> None:
        """Add an active link to the sums (1) or take it away (-1); its event's money goes with its first and last."""
        before = self._events_of(link)
        losses_before = self._losses_of[link.decision_id]
        self._count(link, step)
        starts = [(span, floor(span, link.occurred_us)) for span in SPANS]
        for (agent_id, counted), (_, counted_now) in zip(before, self._events_of(link), strict=True):
            moved = (counted_now > 0) - (counted > 0)
            for span, start_us in starts:
                money = self.changes.money[MoneyKey(span, start_us, link.currency, link.link_type, agent_id)]
                money.amount += moved * link.amount
                money.events += moved
                money.links += step
        moved = (self._losses_of[link.decision_id] > 0) - (losses_before > 0)
        if moved:
            self.changes.losses[link.agent_id, link.action_type] += moved

    def _count(self, link: Link, step: int) -> None:
        for agent_id in (EVERYBODY, link.agent_id):
            self._of_event[link.event_id, link.link_type, agent_id] += step
        if link.link_type in LOSS_TYPES:
            self._losses_of[link.decision_id] += step

    def _events_of(self, link: Link) -> list[tuple[str, int]]:
        return [
            (agent_id, self._of_event[link.event_id, link.link_type, agent_id])
            for agent_id in (EVERYBODY, link.agent_id)
        ]


def group_of(body: Mapping[str, object]) -> Group:
    """The group of a decision with that body. Raises ``KeyError`` and ``TypeError`` for another body."""
    confidence = body["confidence"]
    if not isinstance(confidence, int | float):
        raise TypeError("confidence is a number")
    return Group(
        str(body["agent_id"]),
        str(body["action_type"]),
        confidence < LOW_CONFIDENCE,
        body["human_in_loop"] is True,
    )
