"""What each event books: the money that moved, not what a status is called; and what is not booked is seen."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from precipiq_billing.deliveries import ALREADY_BOOKED, FOREIGN, NO_AMOUNT, Deliveries
from precipiq_billing.delivery_trust import DeliveryTrust, RegisterTrust
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_billing.service import FinancialEvents, NewEvent
from precipiq_billing.stripe_events import NO_CURRENCY, Booking, NotBooked, booking_of
from precipiq_billing.stripe_facts import Fact, Failure, Total, resolve_payment, resolve_refund
from precipiq_billing.stripe_fields import NOT_HANDLED
from precipiq_billing.stripe_objects import MIXED, STANDS
from precipiq_chain.chain_format import parse_statement, split_payload, statement_id
from precipiq_contracts.chain import SYSTEM, Chain
from precipiq_contracts.database import Statement
from precipiq_core.chain_columns import chain_values
from precipiq_ledger.service import LedgerService
from precipiq_testkit.macs import ROW_MACS
from tests.billing import stripe_events as stripe

pytestmark = pytest.mark.anyio

Taking = tuple[Deliveries, FinancialEvents, LedgerService]
AT = 1_790_000_000
_numbers = itertools.count(1)


def new_chain() -> Chain:
    return Chain(f"org_moved_{next(_numbers)}", "live")


async def booked(ledger: LedgerService, chain: Chain) -> list[tuple[str, str, str]]:
    bodies = [parse_statement(entry.statement).body for entry in await ledger.read(chain, 0, 100)]
    return [(str(body["event_type"]), str(body["amount"]), str(body["currency"])) for body in bodies]


async def tell(deliveries: Taking, chain: Chain, *contents: Any) -> list[str | None]:
    """Deliver them one after another; the amount that each booked."""
    taking, events, _ = deliveries
    amounts: list[str | None] = []
    for content in contents:
        outcome = await taking.take(chain, content)
        entry = None if not outcome.processed else await events.get(chain, str(outcome.entry_id))
        amounts.append(None if entry is None else str(parse_statement(entry.statement).body["amount"]))
    return amounts


def refunded(now: int, before: int | None, second: int, **more: Any) -> Any:
    content = stripe.event("charge.refunded", stripe.charge(refunded=now, **more), created=AT + second)
    return content if before is None else stripe.changed(content, amount_refunded=before)


def failed(amount: int, second: int, kind: str = "refund.failed", refund_id: str = "re_1", **more: Any) -> Any:
    return stripe.event(kind, stripe.refund(refund_id, amount, **more), created=AT + second)


async def test_an_authorisation_that_is_given_up_is_neither_payment_nor_refund(deliveries: Taking) -> None:
    held: dict[str, Any] = {"payment_intent": None, "captured": False, "amount_captured": 0}
    given_up = stripe.changed(
        stripe.event("charge.refunded", stripe.charge(refunded=2000, **held)), amount_refunded=0, refunded=False
    )
    told = await tell(
        deliveries, new_chain(), stripe.event("charge.succeeded", stripe.charge(refunded=0, **held)), given_up
    )
    assert told == [None, None]


async def test_a_capture_in_part_is_paid_in_part_and_its_rest_is_no_refund(deliveries: Taking) -> None:
    part: dict[str, Any] = {"payment_intent": None, "amount_captured": 1200}
    captured = stripe.event("charge.captured", stripe.charge(refunded=800, **part))
    told = await tell(deliveries, new_chain(), captured, refunded(800, 0, 1, **part), refunded(1100, 800, 2, **part))
    assert told == ["12.00", None, "-3.00"]


async def test_a_refund_that_fails_is_reversed_and_a_later_one_is_not_taken_for_known(deliveries: Taking) -> None:
    chain = new_chain()
    story = [refunded(1000, 0, 0), failed(1000, 5), refunded(1000, 0, 9)]
    assert await tell(deliveries, chain, *story) == ["-10.00", "10.00", "-10.00"]
    assert [kind for kind, _, _ in await booked(deliveries[2], chain)] == ["refund", "other", "refund"]
    for order in itertools.permutations([*story, failed(1000, 6, "refund.updated")]):
        amounts = await tell(deliveries, new_chain(), *order)
        assert sum(Decimal(amount) for amount in amounts if amount) == Decimal("-10.00")


async def test_a_failure_says_which_refund_it_was(deliveries: Taking) -> None:
    taking, events, _ = deliveries
    chain = new_chain()
    await taking.take(chain, refunded(1000, 0, 0))
    outcome = await taking.take(chain, failed(400, 5, "charge.refund.updated", status="canceled"))
    entry = await events.get(chain, str(outcome.entry_id))
    assert json.loads(split_payload(entry.payload or b"")[0]) == {"metadata": {"stripe_refund": "re_1"}}
    assert parse_statement(entry.statement).body["object_id"] == "ch_1"


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ([(0, Total(10, 0)), (0, Failure("a", 10)), (0, Total(10, 0))], 10),
        ([(0, Total(10, 0)), (1, Failure("a", 10)), (1, Total(4, 0))], 4),
        ([(0, Total(10, 0)), (1, Failure("a", 10)), (1, Total(14, 10))], 4),
        ([(0, Total(5, 0)), (0, Total(9, 5)), (0, Total(7, 5)), (0, Failure("a", 2))], 9),
        ([(0, Total(10)), (1, Failure("a", 10)), (1, Total(10))], 10),
        ([(3, Total(9, 4))], 9),
        ([(3, Total(9, 4)), (3, Total(9, 4))], 9),
        ([(3, Total(9, 4)), (3, Failure("a", 4)), (5, Failure("a", 4))], 5),
        ([(3, Failure("a", 4))], 0),
        ([(0, Total(index + 1, index)) for index in range(12)] + [(0, Failure("a", 3))], 9),
        ([(0, Total(index + 1)) for index in range(12)], 12),
    ],
)
def test_changes_of_one_second_are_ordered_by_what_was_before(
    changes: list[tuple[int, Total | Failure]], total: int
) -> None:
    facts = [Fact(second, told) for second, told in changes]
    assert {resolve_refund(list(order)) for order in itertools.islice(itertools.permutations(facts), 720)} == {total}


def test_payments_only_rise() -> None:
    assert resolve_payment([Fact(9, Total(5)), Fact(2, Total(7))]) == 7


async def test_a_refund_that_only_changes_books_nothing(deliveries: Taking) -> None:
    for status in ("pending", "requires_action", "succeeded", "failed"):
        content = stripe.changed(failed(500, 1, "refund.updated", status=status), metadata={"a": None})
        outcome = await deliveries[0].take(new_chain(), content)
        assert (outcome.reason, outcome.unhandled) == (STANDS, None)


def dispute(second: int, kind: str, status: str, *moved: Any) -> Any:
    obj = stripe.dispute(status=status, balance_transactions=list(moved))
    return stripe.event(f"charge.dispute.{kind}", obj, created=AT + second)


WITHDRAWN = stripe.balance_transaction("txn_1", -700, 1500)
BACK = stripe.balance_transaction("txn_2", 700, -1500)
BACK_IN_PART = stripe.balance_transaction("txn_2", 200)


@pytest.mark.parametrize(
    ("story", "amounts"),
    [
        ([("created", "warning_needs_response"), ("closed", "warning_closed")], [None, None]),
        ([("created", "prevented"), ("closed", "prevented")], [None, None]),
        ([("created", "needs_response"), ("closed", "won")], [None, None]),
        ([("created", "needs_response", WITHDRAWN), ("funds_withdrawn", "needs_response", WITHDRAWN)], ["-7.00", None]),
        ([("funds_withdrawn", "needs_response", WITHDRAWN), ("closed", "lost", WITHDRAWN)], ["-7.00", None]),
        ([("created", "lost", WITHDRAWN), ("closed", "lost", WITHDRAWN, BACK_IN_PART)], ["-7.00", "2.00"]),
        ([("created", "needs_response", WITHDRAWN), ("closed", "won", WITHDRAWN, BACK)], ["-7.00", "7.00"]),
        ([("closed", "won", WITHDRAWN, BACK), ("created", "needs_response", WITHDRAWN)], [None, None]),
        ([("created", "some_new_status", WITHDRAWN)], ["-7.00"]),
    ],
)
async def test_a_dispute_books_what_its_balance_transactions_moved(
    deliveries: Taking, story: list[Any], amounts: list[str | None]
) -> None:
    contents = [dispute(second, *step) for second, step in enumerate(story)]
    assert await tell(deliveries, new_chain(), *contents) == amounts


async def test_fees_are_named_and_not_booked(deliveries: Taking) -> None:
    taking, events, ledger = deliveries
    chain = new_chain()
    outcome = await taking.take(chain, dispute(0, "created", "needs_response", WITHDRAWN))
    entry = await events.get(chain, str(outcome.entry_id))
    assert json.loads(split_payload(entry.payload or b"")[0]) == {"metadata": {"stripe_dispute_fee": "15.00"}}
    assert await booked(ledger, chain) == [("chargeback", "-7.00", "USD")]


async def test_a_dispute_in_several_currencies_is_left_to_people(deliveries: Taking) -> None:
    euros = stripe.balance_transaction("txn_2", 600, 0, "eur")
    outcome = await deliveries[0].take(new_chain(), dispute(0, "closed", "won", WITHDRAWN, euros))
    assert (outcome.reason, outcome.unhandled) == (MIXED, "charge.dispute.closed")


@pytest.mark.parametrize(
    ("kind", "obj", "previous", "label"),
    [
        ("payout.paid", {}, {}, "payout.paid"),
        ("transfer.reversed", {}, {}, "transfer.reversed"),
        ("charge.brand_new", {}, {}, "other"),
        ("refund.created", stripe.refund(charge=None), {}, "refund.created"),
        ("refund.failed", stripe.refund(charge=None), {}, "refund.failed"),
        ("refund.updated", stripe.refund(status="brand_new"), {}, "refund.updated"),
        ("charge.succeeded", stripe.charge(payment_intent=None, status="brand_new"), {}, "charge.succeeded"),
        ("charge.updated", stripe.charge(), {"amount_captured": 0}, "charge.updated"),
        ("charge.dispute.created", stripe.dispute(status="brand_new"), {}, "charge.dispute.created"),
        ("refund.created", stripe.refund(), {}, None),
        ("charge.updated", stripe.charge(), {"description": None}, None),
        ("charge.failed", stripe.charge(), {}, None),
        ("payment_intent.created", stripe.payment_intent(), {}, None),
        ("customer.created", {}, {}, None),
    ],
)
def test_money_that_is_not_booked_has_a_name(kind: str, obj: Any, previous: Any, label: str | None) -> None:
    content = stripe.changed(stripe.event(kind, obj), **previous)
    assert booking_of(content) == NotBooked(NOT_HANDLED, kind, label)


def test_a_currency_that_is_none_is_told_of_too() -> None:
    content = stripe.event("payment_intent.succeeded", stripe.payment_intent(currency="usdc"))
    assert booking_of(content) == NotBooked(NO_CURRENCY, "payment_intent.succeeded", "payment_intent.succeeded")
    old = booking_of(stripe.event("payment_intent.succeeded", stripe.payment_intent(currency="hrk")))
    assert isinstance(old, Booking), "Stripe knows when it was money"


async def test_money_that_is_not_booked_is_counted_and_logged_once_a_type(deliveries: Taking) -> None:
    taking, _, _ = deliveries
    registry = CollectorRegistry()
    taking._metrics = DeliveryMetrics(registry)
    chain = new_chain()
    with capture_logs() as lines:
        for kind in ("payout.paid", "payout.paid", "charge.brand_new", "charge.newer", "customer.created"):
            await taking.take(chain, stripe.event(kind, {}))
        for number in range(500):
            await taking.take(chain, stripe.event(f"payout.new_{number}", {}))
    types = [line["type"] for line in lines if line["event"] == "an event of Stripe that moves money is not booked"]
    assert types[:3] == ["payout.paid", "charge.brand_new", "charge.newer"]
    assert len(types) == 200
    assert registry.get_sample_value("precipiq_stripe_unhandled_total", {"type": "payout.paid"}) == 2
    assert registry.get_sample_value("precipiq_stripe_unhandled_total", {"type": "other"}) == 502


async def stored_by_an_older_version(
    deliveries: Taking, chain: Chain, register: str, total: int, event_type: str, second: int
) -> None:
    """What the version before left of one delivery: a register, a row that does not say what it told, an entry."""
    taking, events, _ = deliveries
    event_id, sign = f"evt_old_{next(_numbers)}", 1 if event_type == "other" else -1
    occurred_at = f"2026-09-21T14:13:{20 + second}.000000Z"
    amount = f"{sign * total / 100:.2f}"
    event = NewEvent("stripe", event_type, amount, "USD", event_id, occurred_at, {}, "dp_1", "pi_1", "old", False)
    entry, _ = await events.record(chain, event, SYSTEM)
    values = {**chain_values(chain), "register": register, "total": total}
    await taking._store._database.transaction(
        [
            Statement(
                "INSERT INTO stripe_registers (org_id, environment, register, booked) "
                "VALUES (:org_id, :environment, :register, :total)",
                values,
            ),
            Statement(
                "INSERT INTO stripe_deliveries "
                "(org_id, environment, event_id, register, total, difference, entry_id, received_us) "
                "VALUES (:org_id, :environment, :event_id, :register, :total, :total, :entry_id, 1999999999000000)",
                {**values, "event_id": event_id, "entry_id": statement_id(entry.statement)},
            ),
        ]
    )
    database = taking._store._database
    await DeliveryTrust(database, deliveries[2], ROW_MACS).adopt()
    await RegisterTrust(database, ROW_MACS).adopt()


async def test_a_dispute_that_an_older_version_booked_is_not_booked_again(deliveries: Taking) -> None:
    chain = new_chain()
    await stored_by_an_older_version(deliveries, chain, "dispute:dp_1:USD", 700, "chargeback", 0)
    again = dispute(0, "updated", "under_review", WITHDRAWN)
    won = dispute(5, "closed", "won", WITHDRAWN, BACK_IN_PART)
    taking, _, _ = deliveries
    assert (await taking.take(chain, again)).reason == ALREADY_BOOKED
    assert await tell(deliveries, chain, won, dispute(2, "updated", "under_review", WITHDRAWN)) == ["2.00", None]


async def test_what_an_older_version_booked_as_won_stays_won_when_older_events_come_again(deliveries: Taking) -> None:
    chain = new_chain()
    await stored_by_an_older_version(deliveries, chain, "dispute:dp_1:USD", 700, "chargeback", 0)
    await stored_by_an_older_version(deliveries, chain, "dispute_reversal:dp_1:USD", 700, "other", 9)
    early = dispute(3, "updated", "under_review", WITHDRAWN)
    late = dispute(11, "updated", "won", WITHDRAWN, BACK_IN_PART)
    assert await tell(deliveries, chain, early, early, late) == [None, None, "-5.00"]


async def test_a_dispute_that_an_older_version_booked_in_another_currency_is_left_to_people(deliveries: Taking) -> None:
    chain = new_chain()
    await stored_by_an_older_version(deliveries, chain, "dispute:dp_1:USD", 700, "chargeback", 0)
    euros = stripe.balance_transaction("txn_1", -650, 0, "eur")
    outcome = await deliveries[0].take(chain, dispute(5, "updated", "under_review", euros))
    assert (outcome.reason, outcome.unhandled) == (FOREIGN, "charge.dispute.updated")


async def test_a_refund_that_an_older_version_booked_is_reversed_when_it_failed_later(deliveries: Taking) -> None:
    """However late the older version got to know of the refund: its entry says when it was."""
    chain = new_chain()
    await stored_by_an_older_version(deliveries, chain, "refund:ch_1:USD", 1000, "refund", 0)
    story = [failed(1000, 5), refunded(300, 0, 9), refunded(1000, 0, 0)]
    assert await tell(deliveries, chain, *story) == ["10.00", "-3.00", None]


async def test_an_event_without_any_money_says_so(deliveries: Taking) -> None:
    outcome = await deliveries[0].take(new_chain(), refunded(0, None, 0))
    assert (outcome.processed, outcome.reason, outcome.entry_id) == (False, NO_AMOUNT, None)
