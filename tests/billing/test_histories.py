"""Histories of charges, refunds and disputes: whatever the order of telling, the books end as Stripe's balance does."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from precipiq_billing.deliveries import Deliveries
from precipiq_billing.money import stripe_amount
from precipiq_billing.service import FinancialEvents
from precipiq_billing.stripe_events import Booking, booking_of
from precipiq_billing.stripe_facts import Fact
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain
from precipiq_ledger.service import LedgerService
from tests.billing.stripe_model import StripeModel, deliveries_of
from tests.effort import rounds

Taking = tuple[Deliveries, FinancialEvents, LedgerService]

_AT_ONCE = 24
_numbers = itertools.count(1)


def history(seed: int) -> tuple[StripeModel, list[dict[str, Any]]]:
    """A life and one way of telling it."""
    chance = random.Random(seed)
    model = StripeModel(chance)
    model.live(chance.randrange(3, 25))
    return model, deliveries_of(model, chance)


def book(order: list[dict[str, Any]]) -> Mapping[str, Decimal]:
    """What the pure parts make of deliveries: the sum by currency."""
    known: set[str] = set()
    facts: dict[str, list[Fact]] = {}
    booked: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for content in order:
        booking = booking_of(content)
        if not isinstance(booking, Booking) or booking.event_id in known:
            continue
        known.add(booking.event_id)
        told = facts.setdefault(booking.register, [])
        told.append(booking.fact)
        total = booking.resolve(told)
        difference = 0 if total is None else total - booked[booking.register]
        booked[booking.register] += difference
        sums[booking.currency] += booking.sign * difference
    return {currency: Decimal(stripe_amount(minor, currency)) for currency, minor in sums.items() if minor}


def test_random_histories_end_in_the_sum_of_their_balance_transactions() -> None:
    for seed in range(rounds(400, long=10_000)):
        model, order = history(seed)
        assert book(order) == model.balance, seed
        assert book(model.events) == model.balance, f"{seed}, in the order in which it happened"


@pytest.mark.anyio
async def test_a_ledger_that_is_told_them_ends_so_too(deliveries: Taking) -> None:
    """On both databases; some deliveries of a history arrive beside each other."""
    taking, _, ledger = deliveries
    gate = asyncio.Semaphore(_AT_ONCE)

    async def live(seed: int) -> None:
        model, order = history(seed)
        chain = Chain(f"org_{next(_numbers)}", "test")
        width = random.Random(seed).randrange(1, 5)
        async with gate:
            for start in range(0, len(order), width):
                await asyncio.gather(*(taking.take(chain, content) for content in order[start : start + width]))
            assert await sums_of(ledger, chain) == model.balance, seed

    await asyncio.gather(*map(live, range(rounds(40, long=10_000))))


async def sums_of(ledger: LedgerService, chain: Chain) -> Mapping[str, Decimal]:
    """All financial events of a chain, each once, by currency."""
    sums: Counter[str] = Counter()
    ids: list[object] = []
    for entry in await ledger.read(chain, 0, 1_000):
        body = parse_statement(entry.statement).body
        ids.append(body["external_id"])
        sums[str(body["currency"])] += Decimal(str(body["amount"]))  # type: ignore[assignment]
    assert len(set(map(str, ids))) == len(ids)
    return {currency: Decimal(total) for currency, total in sums.items() if total}
