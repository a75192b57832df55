"""Which plan follows from Stripe's events: whatever their order, repetition and version, to the second."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from pydantic import ValidationError

from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.plans.config import PlansConfig
from precipiq_billing.plans.subscriptions import (
    THIN,
    Standing,
    SubscriptionState,
    plan_of,
    state_of,
)
from precipiq_billing.stripe_fields import NOT_HANDLED
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.plans import NO_LIMITS, PlanLimits

from .subscription_events import (
    BASIC,
    COMPANY,
    CONFIG,
    DAY_S,
    GRACE_S,
    MONTH_S,
    START_S,
    TEAM,
    TEAM_YEARLY,
    Shape,
    life,
    subscription_event,
)

FREE = Standing("free", None)
SHAPES: tuple[Shape, ...] = ("2020-08-27", "current")
END_S = START_S + MONTH_S


def state(event: dict[str, Any]) -> SubscriptionState:
    found = state_of(event)
    assert isinstance(found, SubscriptionState), found
    return found


def plan_at(now_s: int, *events: dict[str, Any]) -> Standing:
    return plan_of([state(event) for event in events], now_s, CONFIG)


def greatest(events: list[dict[str, Any]]) -> SubscriptionState:
    """As the store does it: what comes is kept when it is greater than what is there."""
    kept = state(events[0])
    for event in events[1:]:
        new = state(event)
        kept = new if new.version > kept.version else kept
    return kept


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_ended", [True, False])
def test_every_order_and_repetition_of_a_life_ends_in_the_same_state(is_ended: bool, shape: Shape) -> None:
    events = life(is_ended=is_ended, shape=shape)
    dice = random.Random(1)
    results = set()
    for order in permutations(events):
        delivered = list(order)
        for event in dice.sample(events, 3):
            delivered.insert(dice.randrange(len(delivered) + 1), event)
        results.add(greatest(delivered))
    assert results == {state(events[-1])}
    standing = plan_of(results, START_S + 2 * MONTH_S, CONFIG)
    assert standing == (FREE if is_ended else Standing("company", START_S + 3 * MONTH_S + GRACE_S))


def test_each_step_of_a_life_gives_its_plan() -> None:
    events = life(is_ended=True)
    steps = [plan_of([greatest(events[: count + 1])], event["created"], CONFIG) for count, event in enumerate(events)]
    month_end_s = START_S + MONTH_S + GRACE_S
    assert steps == [
        FREE,
        ("basic", month_end_s),
        ("team", month_end_s),
        ("team", month_end_s),
        ("team", month_end_s + MONTH_S),
        FREE,
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_both_shapes_say_the_same(shape: Shape) -> None:
    event = subscription_event("updated", START_S, "active", (BASIC, TEAM), shape=shape, event_id="evt_1")
    assert state(event) == SubscriptionState(
        "sub_one", "org_one", "active", (BASIC, TEAM), START_S, END_S, START_S, 1, False, "evt_1"
    )


def test_a_price_is_found_on_the_item_on_its_old_plan_or_on_the_subscription() -> None:
    event = subscription_event("updated", START_S, "active", (TEAM,), shape="2020-08-27")
    subscription = event["data"]["object"]
    del subscription["items"]["data"][0]["price"]
    assert state(event).price_ids == (TEAM,)
    subscription["items"]["data"][0]["price"] = TEAM_YEARLY
    assert state(event).price_ids == (TEAM_YEARLY,)
    del subscription["items"]
    assert state(event).price_ids == (TEAM,)
    subscription["plan"] = None
    assert state(event).price_ids == ()


def test_the_latest_period_of_the_items_counts() -> None:
    event = subscription_event("updated", START_S, "active", (BASIC, TEAM))
    event["data"]["object"]["items"]["data"][1]["current_period_end"] = END_S + DAY_S
    assert (state(event).period_start_s, state(event).period_end_s) == (START_S, END_S + DAY_S)


@pytest.mark.parametrize("status", ["active", "trialing"])
def test_a_paid_plan_outlives_its_period_by_the_grace_and_no_second_more(status: str) -> None:
    event = subscription_event("updated", START_S, status)
    assert plan_at(END_S + GRACE_S - 1, event) == ("basic", END_S + GRACE_S)
    assert plan_at(END_S + GRACE_S, event) == FREE


def test_an_unpaid_period_keeps_its_plan_for_the_grace_and_no_second_more() -> None:
    event = subscription_event("updated", START_S + 5, "past_due")
    assert plan_at(START_S + GRACE_S - 1, event) == ("basic", START_S + GRACE_S)
    assert plan_at(START_S + GRACE_S, event) == FREE


@pytest.mark.parametrize(
    "status", ["unpaid", "canceled", "incomplete", "incomplete_expired", "paused", "a status of tomorrow"]
)
def test_no_other_status_gives_a_plan(status: str) -> None:
    assert plan_at(START_S, subscription_event("updated", START_S, status)) == FREE


def test_an_end_is_final_however_it_was_told() -> None:
    late = state(subscription_event("updated", START_S + DAY_S, "active"))
    for ended in (
        subscription_event("deleted", START_S, "canceled"),
        subscription_event("updated", START_S, "canceled"),
        subscription_event("updated", START_S, "incomplete_expired"),
    ):
        assert state(ended).version > late.version
        assert plan_at(START_S, ended) == FREE


@pytest.mark.parametrize("kind", ["paused", "resumed", "trial_will_end", "pending_update_applied", "of_tomorrow"])
def test_every_event_of_a_subscription_counts(kind: str) -> None:
    status = "paused" if kind == "paused" else "active"
    assert state(subscription_event(kind, START_S, status)).status == status


def test_within_one_second_a_subscription_is_made_before_it_changes() -> None:
    made = state(subscription_event("created", START_S, "incomplete", event_id="evt_9"))
    paid = state(subscription_event("updated", START_S, "active", event_id="evt_1"))
    open_still = state(subscription_event("updated", START_S, "incomplete", event_id="evt_5"))
    assert made.version < open_still.version < paid.version
    renewed = replace(paid, period_end_s=paid.period_end_s + 1, event_id="evt_0")
    assert paid.version < renewed.version
    assert replace(paid, event_id="evt_2").version > paid.version


def test_a_price_of_no_plan_gives_none_and_takes_none_away() -> None:
    assert plan_at(START_S, subscription_event("updated", START_S, "active", ("price_seats",))) == FREE
    event = subscription_event("updated", START_S, "active", ("price_seats", TEAM, BASIC))
    assert plan_at(START_S, event) == ("team", END_S + GRACE_S)


def test_of_several_subscriptions_the_highest_that_is_valid_counts_and_the_longest_of_these() -> None:
    team = subscription_event("updated", START_S, "active", (TEAM,))
    longer = subscription_event("updated", START_S, "active", (TEAM_YEARLY,), period=(START_S, END_S + DAY_S))
    basic = subscription_event("updated", START_S, "active", period=(START_S, END_S + 9 * DAY_S))
    company = subscription_event("updated", START_S, "past_due", (COMPANY,))
    everything = (basic, team, company, longer)
    assert plan_at(START_S, *everything) == ("company", START_S + GRACE_S)
    assert plan_at(START_S + GRACE_S, *everything) == ("team", END_S + DAY_S + GRACE_S)
    assert plan_at(END_S + DAY_S + GRACE_S, *everything) == ("basic", END_S + 9 * DAY_S + GRACE_S)
    assert plan_at(END_S + 9 * DAY_S + GRACE_S, *everything) == FREE
    assert plan_at(START_S) == FREE


def test_what_is_not_about_a_subscription_is_not_handled() -> None:
    event = subscription_event("updated", START_S, "active")
    assert state_of({**event, "type": "invoice.paid"}) == NOT_HANDLED
    assert state_of({"object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}) == THIN


@pytest.mark.parametrize(
    "metadata", [None, {}, {"precipiq_org_id": " "}, {"precipiq_org_id": 5}, {"org_id": "org_one"}]
)
def test_a_subscription_may_name_no_organisation(metadata: object) -> None:
    event = subscription_event("updated", START_S, "active")
    event["data"]["object"]["metadata"] = metadata
    assert state(event).org_id == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", None),
        ("id", "x" * 256),
        ("type", 5),
        ("created", "yesterday"),
        ("created", True),
        ("created", -1),
        ("created", 10**11),
        ("object", "list"),
        ("data", []),
        ("data.object", None),
        ("data.object.object", "invoice"),
        ("data.object.id", "sub\x00"),
        ("data.object.status", ""),
        ("data.object.items", None),
        ("data.object.items.data", []),
        ("data.object.current_period_end", 1.5),
    ],
)
def test_an_event_of_an_unknown_shape_is_refused(path: str, value: object) -> None:
    event = deepcopy(subscription_event("updated", START_S, "active"))
    *names, last = path.split(".")
    holder: Any = event
    for name in names:
        holder = holder[name]
    holder[last] = value
    with pytest.raises(NotAStripeEvent):
        state_of(event)


@pytest.mark.parametrize("event", [None, [], "event", 5, {}])
def test_what_is_no_event_is_refused(event: object) -> None:
    with pytest.raises(NotAStripeEvent):
        state_of(event)


def test_an_ended_subscription_needs_no_period() -> None:
    event = subscription_event("deleted", START_S, "canceled", ())
    assert state(event).period_end_s == 0


def test_the_limits_of_a_tier_are_what_stands_there() -> None:
    assert CONFIG.tiers["team"].limits == PlanLimits(writes_per_second_max=100, open_exports_max=5)
    assert CONFIG.tiers["company"].limits == NO_LIMITS


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"default": "fre"}, "default names no tier: fre; did you mean 'free'?"),
        ({"tiers": {}}, "at least 1 item"),
        ({"tiers": {"free": {}, "a": {"prices": ["p"]}, "b": {"prices": ["p"]}}}, "price p stands in tier a and in"),
        ({"tiers": {"free": {"prices": ["p", "p"]}}}, "price p stands in tier free and in tier free"),
        ({"tiers": {"free": {"prices": [" p"]}}}, "white space"),
        ({"tiers": {"free": {"streams_max": 0}}}, "greater than or equal to 1"),
        ({"tiers": {"free": {"streams": 1}}}, "Extra inputs"),
        ({"webhook_secret": "whsec_something"}, "never the secret itself"),
    ],
)
def test_a_wrong_setting_is_refused(change: dict[str, object], problem: str) -> None:
    settings = {"webhook_secret": {"env": "X"}, "default": "free", "tiers": {"free": {}}, **change}
    with pytest.raises(ValidationError) as refused:
        PlansConfig.model_validate(settings)
    assert problem in str(refused.value)


def test_both_secrets_are_good_and_another_kind_of_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"webhook_secret": {"env": "NEW"}, "previous_webhook_secret": {"env": "OLD"}, "default": "free"}
    config = PlansConfig.model_validate({**settings, "tiers": {"free": {}}})
    monkeypatch.setenv("NEW", "whsec_new")
    monkeypatch.setenv("OLD", "whsec_old")
    assert config.secrets() == ("whsec_new", "whsec_old")
    monkeypatch.setenv("OLD", "rk_secret")
    with pytest.raises(DeploymentError) as refused:
        config.secrets()
    assert "previous_webhook_secret" in refused.value.message
    assert "rk_secret" not in refused.value.message
