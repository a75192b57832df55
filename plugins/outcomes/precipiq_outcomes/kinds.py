"""The kinds of entry that outcomes write, their fields, and the kinds of other plugins that they read."""

from __future__ import annotations

from precipiq_contracts.chain import EntryKind, Present

DECISION = "decision"
FINANCIAL_EVENT = "financial_event"
REDACTION = "redaction"

LINK = "link"
LINK_CONFIRMED = "link_confirmed"
LINK_REJECTED = "link_rejected"
LINK_DELETED = "link_deleted"
LIABILITY_ESTIMATE = "liability_estimate"

LINK_FIELDS = (
    "decision_id",
    "decision_seq",
    "decision_hash",
    "decided_at",
    "agent_id",
    "action_type",
    "low_confidence",
    "human_in_loop",
    "financial_event_id",
    "financial_event_seq",
    "financial_event_hash",
    "occurred_at",
    "amount",
    "currency",
    "link_type",
    "correlation_strength",
    "attribution_method",
    "is_suggestion",
    "score",
    "request_key",
)
"""Of a link: what it joins, with both hashes, and what the sums need of either end. ``notes`` is payload."""

_CHANGE_FIELDS = ("link_id", "decision_id", "financial_event_id")

ESTIMATE_FIELDS = (
    "decision_id",
    "agent_id",
    "action_type",
    "estimated_exposure",
    "interval_low",
    "interval_high",
    "currency",
    "base",
    "confidence_factor",
    "human_factor",
    "loss_rate",
    "past_decisions",
    "past_losses",
)


def kinds(present_links: Present, present_estimates: Present) -> tuple[EntryKind, ...]:
    """All of them; ``present_links``, ``present_estimates`` show them as the REST interface does."""

    def change(name: str, summary: str, event: str) -> EntryKind:
        return EntryKind(name, summary, _CHANGE_FIELDS, event=event, present=present_links, table="links")

    return (
        EntryKind(
            LINK,
            "a decision was linked to money, or a link suggested",
            LINK_FIELDS,
            ("notes",),
            event="link.created",
            present=present_links,
            table="links",
        ),
        change(LINK_CONFIRMED, "a suggested link was confirmed", "link.confirmed"),
        change(LINK_REJECTED, "a suggested link was rejected", "link.rejected"),
        change(LINK_DELETED, "a link was deleted", "link.deleted"),
        EntryKind(
            LIABILITY_ESTIMATE,
            "what a decision may cost was estimated anew",
            ESTIMATE_FIELDS,
            event="liability_estimate.updated",
            present=present_estimates,
            table="liability_estimates",
        ),
    )
