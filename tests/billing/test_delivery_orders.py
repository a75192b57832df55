"""Whatever the order, delay and repetition of a charge's deliveries, the ledger ends with the same total."""

from __future__ import annotations

import asyncio
import itertools
import random
from decimal import Decimal
from typing import Any

import pytest

from precipiq_billing import deliveries as delivery_module
from precipiq_billing import registers
from precipiq_billing.deliveries import Deliveries
from precipiq_billing.service import FinancialEvents, NewEvent
from precipiq_billing.stripe_events import Booking, booking_of
from precipiq_billing.stripe_facts import Total
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import PrecipiqError, Unavailable, ValidationFailed
from precipiq_ledger.service import LedgerService, Limits
from tests.billing import stripe_events as stripe
from tests.effort import rounds

pytestmark = pytest.mark.anyio

Taking = tuple[Deliveries, FinancialEvents, LedgerService]

WITHDRAWAL = stripe.balance_transaction("txn_1", -5_800, 1500)
REINSTATEMENT = stripe.balance_transaction("txn_2", 5_800, -1500)

LIFE = [
    stripe.event("payment_intent.succeeded", stripe.payment_intent(amount=10_000)),
    stripe.event("charge.refunded", stripe.charge(amount=10_000, refunded=1_000)),
    stripe.event("charge.refunded", stripe.charge(amount=10_000, refunded=3_500)),
    stripe.event("charge.refunded", stripe.charge(amount=10_000, refunded=4_200)),
    stripe.event("charge.dispute.created", stripe.dispute(amount=5_800, balance_transactions=[WITHDRAWAL])),
    stripe.event(
        "charge.dispute.funds_reinstated",
        stripe.dispute(amount=5_800, status="won", balance_transactions=[WITHDRAWAL, REINSTATEMENT]),
    ),
]
"""Of one charge: paid, refunded in three steps, disputed, and the dispute won."""

ECHOES = [
    stripe.event("charge.dispute.funds_withdrawn", stripe.dispute(amount=5_800, balance_transactions=[WITHDRAWAL])),
    stripe.event(
        "charge.dispute.closed",
        stripe.dispute(amount=5_800, status="won", balance_transactions=[WITHDRAWAL, REINSTATEMENT]),
    ),
    stripe.event("charge.dispute.updated", stripe.dispute(amount=5_800)),
]
"""Other events that tell of the same money."""

TOTAL = Decimal("58.00")
_numbers = itertools.count(1)


async def total(ledger: LedgerService, chain: Chain) -> Decimal:
    """The sum of all financial events of the chain, each once."""
    entries = await ledger.read(chain, 0, 500)
    bodies = [parse_statement(entry.statement).body for entry in entries]
    ids = [body["external_id"] for body in bodies]
    assert len(set(map(str, ids))) == len(ids)
    return sum((Decimal(str(body["amount"])) for body in bodies), Decimal(0))


async def deliver(taking: Taking, order: tuple[Any, ...] | list[Any]) -> Decimal:
    deliveries, _, ledger = taking
    chain = Chain(f"org_{next(_numbers)}", "test")
    for content in order:
        await deliveries.take(chain, content)
    return await total(ledger, chain)


@pytest.mark.parametrize("database", ["sqlite"])
async def test_the_orders_of_a_charges_life_end_alike(deliveries: Taking) -> None:
    """All 720 of them at full size."""
    orders = random.Random(6).sample(list(itertools.permutations(LIFE)), rounds(120, long=720))
    gate = asyncio.Semaphore(16)

    async def one(order: tuple[Any, ...]) -> Decimal:
        async with gate:
            return await deliver(deliveries, order)

    assert set(await asyncio.gather(*map(one, orders))) == {TOTAL}


async def test_repeated_delayed_and_echoed_deliveries_end_alike(deliveries: Taking) -> None:
    """On both databases; some deliveries of an order arrive one after another, some beside each other."""
    taking, _, ledger = deliveries
    chance = random.Random(720)
    for _ in range(rounds(12, long=40)):
        order = [*LIFE, *chance.choices([*LIFE, *ECHOES], k=chance.randrange(9))]
        chance.shuffle(order)
        width = chance.randrange(1, 7)
        chain = Chain(f"org_{next(_numbers)}", "test")
        for start in range(0, len(order), width):
            await asyncio.gather(*(taking.take(chain, content) for content in order[start : start + width]))
        assert await total(ledger, chain) == TOTAL, [content["id"] for content in order]


def test_what_stands_in_an_expanded_or_old_object_is_found() -> None:
    old = stripe.without(stripe.payment_intent(), "amount_received", "latest_charge")
    booking = booking_of(stripe.event("payment_intent.succeeded", old, api_version="2015-10-16"))
    assert isinstance(booking, Booking)
    assert (booking.fact.told, booking.register) == (Total(2000), "payment:pi_1:USD")
    expanded = stripe.charge(payment_intent={"id": "pi_7", "object": "payment_intent"}, metadata={"a": "b"})
    refund = booking_of(stripe.event("charge.refunded", expanded))
    assert isinstance(refund, Booking)
    assert (refund.related_id, refund.metadata, refund.sign) == ("pi_7", {"a": "b"}, -1)


async def test_money_counts_even_when_the_chain_cannot_keep_its_metadata(deliveries: Taking) -> None:
    taking, _, ledger = deliveries
    ledger._limits = Limits(3_000, 64)
    chain = Chain(f"org_{next(_numbers)}", "test")
    large = {f"key {number}": "x" * 500 for number in range(50)}
    outcome = await taking.take(chain, stripe.event("charge.refunded", stripe.charge(metadata=large)))
    assert outcome.processed
    assert outcome.entry_id is not None
    assert await total(ledger, chain) == Decimal("-5.00")
    await taking.seal_left_over()


async def test_an_event_that_comes_again_with_another_total_changes_nothing(deliveries: Taking) -> None:
    chain_total = await deliver(
        deliveries,
        [
            stripe.event("charge.refunded", stripe.charge(refunded=1_000), event_id="evt_known"),
            stripe.event("charge.refunded", stripe.charge(refunded=9_000), event_id="evt_known"),
            stripe.event("charge.refunded", stripe.charge("ch_2", 9_000, 9_000), event_id="evt_known"),
            stripe.event("charge.refunded", stripe.charge(refunded=3_500)),
            stripe.event("charge.refunded", stripe.charge("ch_2", 9_000, 9_000)),
        ],
    )
    assert chain_total == Decimal("-35.00") - Decimal("90.00")


@pytest.mark.parametrize("error", [Unavailable("away"), ValidationFailed()])
async def test_a_delivery_that_cannot_be_sealed_holds_up_no_other(
    deliveries: Taking, monkeypatch: pytest.MonkeyPatch, error: PrecipiqError
) -> None:
    taking, events, ledger = deliveries
    chain = Chain(f"org_{next(_numbers)}", "test")
    record = events.record

    async def failing(chain: Chain, event: NewEvent, *more: Any) -> Any:
        if is_away:
            raise Unavailable("away")
        if event.object_id == "ch_poison":
            raise error
        return await record(chain, event, *more)

    monkeypatch.setattr(events, "record", failing)
    monkeypatch.setattr(delivery_module, "_SETTLED_US", 0)
    is_away = True
    for charge_id in ("ch_poison", "ch_good"):
        outcome = await taking.take(chain, stripe.event("charge.refunded", stripe.charge(charge_id)))
        assert (outcome.processed, outcome.entry_id) == (True, None)
    is_away = False
    with pytest.raises(type(error)):
        await taking.seal_left_over()
    assert await total(ledger, chain) == Decimal("-5.00")


async def test_an_object_with_more_events_than_one_has_is_not_read_without_bound(
    deliveries: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the endpoint's secret can sign any number of events of one charge."""
    taking, _, ledger = deliveries
    monkeypatch.setattr(registers, "FACTS_MAX", 5)
    chain = Chain(f"org_{next(_numbers)}", "test")
    events = [
        stripe.event(
            "charge.refunded", stripe.charge(amount=9_000, refunded=100 * number), created=1_790_000_000 + number
        )
        for number in range(1, 9)
    ]
    outcomes = [await taking.take(chain, event) for event in events]
    assert [outcome.processed for outcome in outcomes] == [True] * 6 + [False] * 2
    assert outcomes[-1].unhandled == "charge.refunded"
    assert (await taking.take(chain, events[0])).reason == "duplicate event; already processed"
    assert await total(ledger, chain) == Decimal("-6.00")


async def test_more_money_than_an_entry_can_hold_is_not_booked(deliveries: Taking) -> None:
    taking, _, ledger = deliveries
    chain = Chain(f"org_{next(_numbers)}", "test")
    moved = [
        {"id": f"txn_{number}", "amount": -(10**14), "fee": 0, "net": -(10**14), "currency": "usd"}
        for number in range(3)
    ]
    content = stripe.event("charge.dispute.funds_withdrawn", stripe.dispute(balance_transactions=moved))
    outcome = await taking.take(chain, content)
    assert (outcome.processed, outcome.unhandled) == (False, "charge.dispute.funds_withdrawn")
    assert await total(ledger, chain) == 0
