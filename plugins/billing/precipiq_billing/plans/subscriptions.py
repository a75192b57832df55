"""Subscriptions in Stripe's events, and the plan that they give. Pure; knows no order of deliveries.

Stripe delivers in any order and several times. Each event carries the whole subscription as it was, so the states of a
subscription are ordered by their content (``SubscriptionState.version``), and the greatest state counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.plans.config import PlansConfig
from precipiq_billing.stripe_fields import NOT_HANDLED, SECONDS_MAX, TEXT_CHARACTERS_MAX, envelope_of, text, whole

THIN = "thin event: it carries no subscription; have Stripe send snapshot events to this endpoint"
NO_ORGANISATION = "the subscription names no organisation"
ORGANISATION_KEY = "precipiq_org_id"
"""Key of a subscription's metadata that names the organisation."""

PAID_STATUSES = ("active", "trialing")
OWED_STATUS = "past_due"
COUNTING_STATUSES = (*PAID_STATUSES, OWED_STATUS)
"""A subscription with any other status gives no plan."""

_FINAL_STATUSES = ("canceled", "incomplete_expired")
_EVENT_PREFIX = "customer.subscription."
_CREATED, _DELETED = "customer.subscription.created", "customer.subscription.deleted"


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A subscription as one event showed it. Times in whole seconds since the epoch.

    ``org_id``: empty when it names no organisation. ``period_start_s``, ``period_end_s``: the latest of its items'; 0
    where the status needs none. ``event_rank``: 0 for the event of its creation, 2 for that of its end, else 1.
    """

    subscription_id: str
    org_id: str
    status: str
    price_ids: tuple[str, ...]
    period_start_s: int
    period_end_s: int
    event_created_s: int
    event_rank: int
    is_deleted: bool
    event_id: str

    @property
    def version(self) -> str:
        """Greater for the later state, in every collation of a database: digits, then lower-case hex digits.

        An end is final. Then the time of the event counts; within one second its type, since Stripe creates before it
        updates; then whether the first payment is still open, and the period; then the event's id.
        """
        is_begun = self.status != "incomplete"
        return (
            f"{self.is_deleted:d}{self.event_created_s:011d}{self.event_rank:d}{is_begun:d}{self.period_end_s:011d}"
            f"{self.event_id.encode().hex()}"
        )


class Standing(NamedTuple):
    """A plan, and the second at which it must be computed again; None: it stays until the next event."""

    plan: str
    valid_until_s: int | None


def state_of(event: object) -> SubscriptionState | str:
    """The state in the event, or why the event counts for nothing. Raises ``NotAStripeEvent`` for an unknown shape.

    The period stands on the subscription in Stripe's older versions (2020-08-27), on each item in newer ones.
    """
    envelope = envelope_of(event)
    if envelope is None:
        return THIN
    if not envelope.cause.startswith(_EVENT_PREFIX):
        return NOT_HANDLED
    found = envelope.found
    if found.get("object") != "subscription":
        raise NotAStripeEvent("data.object is not a subscription")
    status = text(found, "status")
    items = _items(found)
    return SubscriptionState(
        subscription_id=text(found, "id"),
        org_id=_org_id(found),
        status=status,
        price_ids=_price_ids(found, items),
        period_start_s=_period(found, items, "current_period_start", status),
        period_end_s=_period(found, items, "current_period_end", status),
        event_created_s=envelope.created_s,
        event_rank={_CREATED: 0, _DELETED: 2}.get(envelope.cause, 1),
        is_deleted=envelope.cause == _DELETED or status in _FINAL_STATUSES,
        event_id=envelope.event_id,
    )


def plan_of(states: Iterable[SubscriptionState], now_s: int, config: PlansConfig) -> Standing:
    """The plan of the organisation with these subscriptions, each in its greatest state.

    The highest plan that any subscription gives, until the last of those ends; the default when none gives a plan.
    """
    best = max(
        (given for state in states if (given := standing_of(state, now_s, config)) is not None),
        key=lambda given: (config.rank_of_tier[given.plan], given.valid_until_s or 0),
        default=None,
    )
    return Standing(config.default, None) if best is None else best


def standing_of(state: SubscriptionState, now_s: int, config: PlansConfig) -> Standing | None:
    """The plan that a subscription gives at that second, or None."""
    if state.is_deleted or state.status not in COUNTING_STATUSES:
        return None
    paid_until_s = state.period_start_s if state.status == OWED_STATUS else state.period_end_s
    valid_until_s = paid_until_s + config.grace_s
    tiers = [config.tier_of_price[price] for price in state.price_ids if price in config.tier_of_price]
    if now_s >= valid_until_s or not tiers:
        return None
    return Standing(max(tiers, key=config.rank_of_tier.__getitem__), valid_until_s)


def _items(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    holder = found.get("items")
    items = holder.get("data") if isinstance(holder, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _price_ids(found: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The items' price ids; the subscription's own where no item names one, as in versions before prices."""
    ids = [price for item in items if (price := _id(item.get("price")) or _id(item.get("plan"))) is not None]
    alone = _id(found.get("plan"))
    return tuple(dict.fromkeys(ids or ([] if alone is None else [alone])))


def _id(value: object) -> str | None:
    """The id of an expanded object, or the unexpanded id itself."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) and _is_text(found) else None


def _period(found: Mapping[str, Any], items: Iterable[Mapping[str, Any]], name: str, status: str) -> int:
    moments = [whole(holder, name, SECONDS_MAX) for holder in (found, *items) if holder.get(name) is not None]
    if not moments and status in COUNTING_STATUSES:
        raise NotAStripeEvent(f"neither the subscription nor an item of it has a {name}")
    return max(moments, default=0)


def _org_id(found: Mapping[str, Any]) -> str:
    metadata = found.get("metadata")
    named = metadata.get(ORGANISATION_KEY) if isinstance(metadata, dict) else None
    org_id = named.strip() if isinstance(named, str) else ""
    return org_id if _is_text(org_id) else ""


def _is_text(value: str) -> bool:
    return 0 < len(value) <= TEXT_CHARACTERS_MAX and "\x00" not in value
