"""A link from a decision to money, and its life: active or suggested, then confirmed, rejected or deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from precipiq_chain.chain_format import Statement
from precipiq_contracts.clock import parse_timestamp
from precipiq_outcomes.amounts import scale
from precipiq_outcomes.kinds import LINK_CONFIRMED, LINK_DELETED, LINK_REJECTED

LinkType = Literal["revenue", "cost", "liability", "neutral"]
Status = Literal["active", "suggested", "rejected", "deleted"]

MANUAL = "manual"
ML_SUGGESTED = "ml_suggested"
ML_INFERRED = "ml_inferred"
RESERVED_METHODS = frozenset((ML_SUGGESTED, ML_INFERRED))
LOSS_TYPES = frozenset(("cost", "liability"))


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the chain's entries made it. ``amount``: ten-thousandths; times in microseconds.

    ``strength``: from the entry, 0 to 1. ``entries``: the number of entries about the link.
    """

    link_id: str
    seq: int
    decision_id: str
    event_id: str
    decided_us: int
    occurred_us: int
    agent_id: str
    action_type: str
    low_confidence: bool
    human_in_loop: bool
    amount: int
    currency: str
    link_type: LinkType
    strength: float
    method: str
    notes: str | None
    score: Mapping[str, Any] | None
    request_key: str | None
    status: Status
    created_us: int
    confirmed_us: int | None = None
    rejected_us: int | None = None
    deleted_us: int | None = None
    entries: int = 1

    @property
    def is_active(self) -> bool:
        return self.status == "active"

    @property
    def awaits_answer(self) -> bool:
        """Whether a client can confirm or reject the link: the worker made it, and it has no answer."""
        return self.method in RESERVED_METHODS and self.status in ("active", "suggested")


def link_of(statement: Statement, notes: str | None) -> Link:
    """The link that an entry of kind ``link`` makes. Raises ``KeyError`` and ``ValueError`` for another entry."""
    body = cast("dict[str, Any]", statement.body)
    return Link(
        statement.id,
        statement.seq,
        body["decision_id"],
        body["financial_event_id"],
        parse_timestamp(body["decided_at"]),
        parse_timestamp(body["occurred_at"]),
        body["agent_id"],
        body["action_type"],
        body["low_confidence"],
        body["human_in_loop"],
        scale(body["amount"]),
        body["currency"],
        body["link_type"],
        body["correlation_strength"],
        body["attribution_method"],
        notes,
        body["score"],
        body["request_key"],
        "suggested" if body["is_suggestion"] else "active",
        parse_timestamp(statement.timestamp),
    )


def apply_entry(link: Link, kind: str, at_us: int) -> Link:
    """The link after an entry of that kind; an entry that does not fit its state counts, and changes nothing else."""
    link = replace(link, entries=link.entries + 1)
    if kind == LINK_CONFIRMED and link.awaits_answer:
        return replace(link, status="active", method=MANUAL, confirmed_us=at_us)
    if kind == LINK_REJECTED and link.awaits_answer:
        return replace(link, status="rejected", rejected_us=at_us)
    if kind == LINK_DELETED and link.status in ("active", "suggested"):
        return replace(link, status="deleted", deleted_us=at_us)
    return link
