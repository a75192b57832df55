"""Events of Stripe about subscriptions, in the shape of its older versions and of the current ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

from precipiq_billing.plans.config import PlansConfig

START_S = 1_767_225_600
DAY_S = 86_400
MONTH_S = 30 * DAY_S
GRACE_S = 3 * DAY_S
BASIC, TEAM, TEAM_YEARLY, COMPANY = "price_basic", "price_team", "price_team_yearly", "price_company"

CONFIG = PlansConfig.model_validate(
    {
        "webhook_secret": {"env": "PLANS_WEBHOOK_SECRET"},
        "default": "free",
        "grace_s": GRACE_S,
        "refresh_s": 0.01,
        "tiers": {
            "free": {"writes_per_second_max": 1, "streams_max": 1},
            "basic": {"prices": [BASIC], "writes_per_second_max": 10},
            "team": {"prices": [TEAM, TEAM_YEARLY], "writes_per_second_max": 100, "open_exports_max": 5},
            "company": {"prices": [COMPANY]},
        },
    }
)

Shape = Literal["2020-08-27", "current"]
_numbers = count(1)


def subscription_event(
    kind: str,
    created_s: int,
    status: str,
    prices: Sequence[str] = (BASIC,),
    *,
    period: tuple[int, int] = (START_S, START_S + MONTH_S),
    subscription_id: str = "sub_one",
    org_id: str | None = "org_one",
    shape: Shape = "current",
    event_id: str | None = None,
) -> dict[str, Any]:
    """``customer.subscription.<kind>``. ``period``: start and end, seconds since the epoch."""
    periods = {"current_period_start": period[0], "current_period_end": period[1]}
    on_items, on_subscription = (periods, {}) if shape == "current" else ({}, periods)
    items = [
        {
            "id": f"si_{number}",
            "object": "subscription_item",
            "created": START_S,
            "plan": {"id": price, "object": "plan", "interval": "month"},
            "price": {"id": price, "object": "price", "type": "recurring"},
            "quantity": 1,
            **on_items,
        }
        for number, price in enumerate(prices)
    ]
    subscription: dict[str, Any] = {
        "id": subscription_id,
        "object": "subscription",
        "cancel_at_period_end": False,
        "created": START_S,
        "customer": "cus_one",
        "items": {"object": "list", "data": items, "has_more": False, "total_count": len(items)},
        "metadata": {} if org_id is None else {"precipiq_org_id": org_id},
        "status": status,
        **on_subscription,
    }
    if shape == "2020-08-27":
        subscription["plan"] = items[0]["plan"] if len(items) == 1 else None
    return {
        "id": event_id or f"evt_{next(_numbers):06d}",
        "object": "event",
        "api_version": shape if shape == "2020-08-27" else "2025-09-30.clover",
        "created": created_s,
        "data": {"object": subscription},
        "livemode": False,
        "pending_webhooks": 1,
        "type": f"customer.subscription.{kind}",
    }


def life(*, is_ended: bool, shape: Shape = "current") -> list[dict[str, Any]]:
    """Six events: made, paid (in the same second), another price, owed, paid again, and ended or renewed once more."""
    second, third = (START_S + MONTH_S, START_S + 2 * MONTH_S), (START_S + 2 * MONTH_S, START_S + 3 * MONTH_S)
    events = [
        subscription_event("created", START_S, "incomplete", shape=shape),
        subscription_event("updated", START_S, "active", shape=shape),
        subscription_event("updated", START_S + DAY_S, "active", (TEAM,), shape=shape),
        subscription_event("updated", second[0], "past_due", (TEAM,), period=second, shape=shape),
        subscription_event("updated", second[0] + DAY_S, "active", (TEAM,), period=second, shape=shape),
    ]
    if is_ended:
        last = subscription_event("deleted", second[0] + 2 * DAY_S, "canceled", (TEAM,), period=second, shape=shape)
    else:
        last = subscription_event("updated", third[0], "active", (COMPANY,), period=third, shape=shape)
    return [*events, last]
