"""The kinds of entry that billing writes, and their fields."""

from __future__ import annotations

from precipiq_contracts.chain import EntryKind, Present

FINANCIAL_EVENT = "financial_event"
ENDPOINT_CREATED = "stripe_endpoint_created"
ENDPOINT_SECRET_SET = "stripe_endpoint_secret_set"
ENDPOINT_DELETED = "stripe_endpoint_deleted"
PLAN_SUBSCRIPTION_CHANGED = "plan_subscription_changed"

BODY_FIELDS = (
    "source",
    "event_type",
    "amount",
    "currency",
    "external_id",
    "occurred_at",
    "object_id",
    "related_id",
    "cause",
    "livemode",
)
"""Of a financial event: what accounts and audits need. ``metadata`` is payload, and can be erased."""

_ENDPOINT_FIELDS = ("endpoint_id",)
_SUBSCRIPTION_FIELDS = (
    "subscription_id",
    "status",
    "price_ids",
    "period_start",
    "period_end",
    "is_deleted",
    "is_elsewhere",
    "stripe_event_id",
    "version",
)


def kinds(present: Present) -> tuple[EntryKind, ...]:
    """All of them; ``present`` shows financial events as the REST interface does."""
    return (
        EntryKind(
            FINANCIAL_EVENT,
            "money moved",
            BODY_FIELDS,
            ("metadata",),
            present=present,
            table="financial_events",
        ),
        EntryKind(
            ENDPOINT_CREATED,
            "an endpoint for Stripe's events was made",
            (*_ENDPOINT_FIELDS, "description", "secret_fingerprint"),
            event="stripe_endpoint.created",
        ),
        EntryKind(
            ENDPOINT_SECRET_SET,
            "the signing secret of a Stripe endpoint was set or replaced",
            (*_ENDPOINT_FIELDS, "previous_good_until", "secret_fingerprint"),
            event="stripe_endpoint.secret_set",
        ),
        EntryKind(
            ENDPOINT_DELETED,
            "an endpoint for Stripe's events was deleted",
            _ENDPOINT_FIELDS,
            event="stripe_endpoint.deleted",
        ),
        EntryKind(
            PLAN_SUBSCRIPTION_CHANGED,
            "a subscription that gives the organisation its plan changed",
            _SUBSCRIPTION_FIELDS,
            event="plan_subscription.changed",
        ),
    )
