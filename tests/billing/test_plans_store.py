"""The book of plans over each database: what is told counts at once here, soon elsewhere, and in any order."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

import precipiq_billing
from precipiq_billing.endpoint_store import EndpointStore
from precipiq_billing.errors import NotAStripeEvent, SignatureInvalid
from precipiq_billing.kinds import kinds
from precipiq_billing.plans.commands import Replayed, replay_events
from precipiq_billing.plans.routes import PlanWebhook
from precipiq_billing.plans.service import DUPLICATE, OUTDATED, PlanBook, UnlimitedPlans
from precipiq_billing.plans.store import Changed, SubscriptionStore
from precipiq_billing.plans.subscriptions import NO_ORGANISATION, Standing
from precipiq_billing.plans.trust import PlanTrust
from precipiq_billing.service import FinancialEvents
from precipiq_billing.stripe_fields import NOT_HANDLED
from precipiq_billing.webhooks import Delivered
from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.database import Migration
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.plans import NO_LIMITS
from precipiq_contracts.settings import SecretReference
from precipiq_core.background import standalone_background
from precipiq_core.http.endpoint import AnyQuery, PublicCall
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.macs import ROW_MACS
from precipiq_testkit.postgres import PostgresDatabase
from tests.billing.conftest import TABLES
from tests.system.open_ledger import COLUMNS, open_ledger, serve_kinds

from .subscription_events import BASIC, COMPANY, CONFIG, GRACE_S, MONTH_S, START_S, TEAM, life, subscription_event

pytestmark = pytest.mark.anyio

MIGRATIONS = Path(precipiq_billing.__file__).parent / "sql" / "migrations"
FREE = Standing("free", None)
MONTH_END_S = START_S + MONTH_S + GRACE_S


ORGANISATIONS = ("org_one", "org_two", *(f"org_{number}" for number in range(12)))
WAIT_S = 10.0


@pytest.fixture
async def trust(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[PlanTrust]:
    migration = Migration("billing", MIGRATIONS, dict.fromkeys(TABLES, COLUMNS))
    async with open_ledger(server_database, tmp_path, [migration]) as (database, ledger):
        serve_kinds(ledger, kinds(FinancialEvents(ledger).present))
        for org_id in ORGANISATIONS:
            await ledger.append(Chain(org_id, "test"), [Draft("decision", "key_1", {}, None)])
        events = EndpointStore(database, ROW_MACS).events
        yield PlanTrust(SubscriptionStore(database, ROW_MACS, events), ledger, ROW_MACS)


@pytest.fixture
def store(trust: PlanTrust) -> SubscriptionStore:
    return trust._store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_S * 1_000_000)


@pytest.fixture
def book(store: SubscriptionStore, trust: PlanTrust, clock: ManualClock) -> PlanBook:
    return PlanBook(store, trust, CONFIG, clock)


async def take_all(book: PlanBook, events: Sequence[dict[str, Any]]) -> list[str | None]:
    return [await book.take(event) for event in events]


async def test_what_is_taken_counts_at_once_and_a_repetition_changes_nothing(book: PlanBook) -> None:
    event = subscription_event("updated", START_S, "active", (TEAM,))
    assert await take_all(book, [event, event]) == [None, DUPLICATE]
    assert book.of("org_one") == ("team", MONTH_END_S)
    assert book.limits_of("org_one") is CONFIG.tiers["team"].limits
    assert (book.of("org_other"), book.limits_of("org_other")) == (FREE, CONFIG.tiers["free"].limits)
    older = subscription_event("updated", START_S - 1, "active", (COMPANY,))
    assert await book.take(older) == OUTDATED
    assert book.of("org_one").plan == "team"


async def test_a_plan_ends_at_its_second_without_any_event(book: PlanBook, clock: ManualClock) -> None:
    await book.take(subscription_event("updated", START_S, "active", (TEAM,)))
    await book.take(subscription_event("updated", START_S, "past_due", (COMPANY,), subscription_id="sub_two"))
    assert book.of("org_one") == ("company", START_S + GRACE_S)
    clock.advance(GRACE_S)
    assert book.of("org_one") == ("team", MONTH_END_S)
    clock.advance(MONTH_S, us=-1)
    assert book.of("org_one").plan == "team"
    clock.advance(us=1)
    assert (book.of("org_one"), book.limits_of("org_one")) == (FREE, CONFIG.tiers["free"].limits)
    period = (START_S + MONTH_S, START_S + 2 * MONTH_S)
    await book.take(subscription_event("updated", START_S + MONTH_S, "active", (TEAM,), period=period))
    assert book.of("org_one") == ("team", MONTH_END_S + MONTH_S)


@pytest.mark.parametrize("is_ended", [True, False])
async def test_deliveries_at_the_same_time_in_any_order_end_in_the_same_plan(
    store: SubscriptionStore, trust: PlanTrust, clock: ManualClock, is_ended: bool
) -> None:
    dice = random.Random(is_ended)
    books = [PlanBook(store, trust, CONFIG, clock) for _ in range(2)]
    last = Standing("company", START_S + 3 * MONTH_S + GRACE_S)
    numbers = range(12)
    events = [
        event
        for number in numbers
        for event in (*life(is_ended=is_ended), *life(is_ended=is_ended)[:2])
        if event["data"]["object"].update(id=f"sub_{number}", metadata={"precipiq_org_id": f"org_{number}"}) is None
    ]
    events += events[::3]
    dice.shuffle(events)
    results = await asyncio.gather(*(dice.choice(books).take(event) for event in events))
    assert set(results) <= {None, DUPLICATE, OUTDATED}
    for book in (*books, PlanBook(store, trust, CONFIG, clock)):
        await book.refresh()
        assert [book.of(f"org_{number}") for number in numbers] == [FREE if is_ended else last] * len(numbers)


async def test_another_process_follows_and_says_once_that_it_cannot(
    store: SubscriptionStore,
    trust: PlanTrust,
    book: PlanBook,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = PlanBook(store, trust, CONFIG, clock)
    looks = 0
    changed_after = store.changed_after

    async def away(change: int, limit: int) -> Changed:
        nonlocal looks
        looks += 1
        if looks < 4:
            raise Unavailable("the database is away")
        return await changed_after(change, limit)

    await book.take(subscription_event("updated", START_S, "active"))
    async with asyncio.timeout(WAIT_S), AsyncExitStack() as running:
        with monkeypatch.context() as while_away:
            while_away.setattr(store, "changed_after", away)
            await running.enter_async_context(other.run(standalone_background()))
            while other.of("org_one").plan != "basic":
                await asyncio.sleep(0.005)
        await book.take(subscription_event("deleted", START_S + 1, "canceled"))
        while other.of("org_one") != FREE:
            await asyncio.sleep(0.005)


async def test_many_subscriptions_are_read_in_pages(
    store: SubscriptionStore,
    trust: PlanTrust,
    book: PlanBook,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(7):
        await book.take(subscription_event("updated", START_S, "active", subscription_id=f"sub_{number}"))
    monkeypatch.setattr("precipiq_billing.plans.service._ROWS_AT_ONCE", 3)
    other = PlanBook(store, trust, CONFIG, clock)
    await other.refresh()
    assert other.of("org_one").plan == "basic"
    page = await store.changed_after(3, 2)
    assert ([row.state.subscription_id for row in page.rows], page.change) == (["sub_3", "sub_4"], 5)
    assert await store.changed_after(7, 2) == Changed((), 7)


async def test_a_subscription_moves_between_organisations_and_may_leave_them_all(book: PlanBook) -> None:
    def told(created_s: int, org_id: str | None) -> dict[str, Any]:
        return subscription_event("updated", created_s, "active", org_id=org_id)

    assert await take_all(book, [told(START_S, "org_one"), told(START_S + 1, "org_two")]) == [None, None]
    assert (book.of("org_one"), book.of("org_two").plan) == (FREE, "basic")
    assert await take_all(book, [told(START_S + 3, None), told(START_S + 2, "org_one")]) == [NO_ORGANISATION, OUTDATED]
    assert (book.of("org_one"), book.of("org_two")) == (FREE, FREE)
    assert [account.org_id for account in await book.accounts()] == []


async def test_what_gives_no_plan_is_not_held_in_memory(book: PlanBook, clock: ManualClock) -> None:
    for event in life(is_ended=True):
        await book.take(event)
    await book.take(subscription_event("created", START_S, "incomplete", subscription_id="sub_two"))
    assert (book._org_of, book._states, book._resolved) == ({}, {}, {})
    clock.advance(MONTH_S)
    assert book.of("org_one") == FREE


async def test_accounts_are_listed_with_what_each_subscription_gives(book: PlanBook) -> None:
    await book.take(subscription_event("updated", START_S, "active", (TEAM,)))
    await book.take(subscription_event("deleted", START_S, "canceled", (BASIC,), subscription_id="sub_two"))
    await book.take(subscription_event("updated", START_S, "unpaid", org_id="org_two", subscription_id="sub_three"))
    one, two = await book.accounts()
    assert (one.org_id, one.standing) == ("org_one", ("team", MONTH_END_S))
    assert [(state.subscription_id, given) for state, given in one.subscriptions] == [
        ("sub_one", ("team", MONTH_END_S)),
        ("sub_two", None),
    ]
    assert (two.org_id, two.standing, len(two.subscriptions)) == ("org_two", FREE, 1)


async def test_stored_events_are_taken_again_and_counted(book: PlanBook) -> None:
    events = life(is_ended=False)
    other = {**subscription_event("updated", START_S, "active"), "type": "invoice.paid"}
    counts = await replay_events(book, [*events[::-1], events[0], events[-1], other, "no event"])
    assert counts == Replayed(10, 1, {OUTDATED: 6, DUPLICATE: 1, NOT_HANDLED: 1, NotAStripeEvent.default_message: 1})
    assert next(iter(counts.reasons)) == OUTDATED
    assert book.of("org_one").plan == "company"


def delivered(body: bytes, signature: str | None) -> Delivered:
    headers = [] if signature is None else [(b"stripe-signature", signature.encode())]
    return PublicCall(None, body, AnyQuery(), {}, None, "req_1", None, {"headers": headers})  # type: ignore[arg-type]


async def test_a_delivery_is_taken_when_a_secret_signed_it(
    book: PlanBook, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANS_WEBHOOK_SECRET", "whsec_new")
    monkeypatch.setenv("PLANS_WEBHOOK_SECRET_OLD", "whsec_old")
    config = CONFIG.model_copy(update={"previous_webhook_secret": SecretReference(env="PLANS_WEBHOOK_SECRET_OLD")})
    webhook = PlanWebhook(book, config, clock)
    webhook.start()

    def signed(body: bytes, secret: str) -> str:
        digest = hmac.new(secret.encode(), b"%d." % START_S + body, hashlib.sha256).hexdigest()
        return f"t={START_S},v1={digest}"

    body = orjson.dumps(subscription_event("updated", START_S, "active"))
    for signature in (None, "", signed(body, "whsec_other"), signed(body + b" ", "whsec_new")):
        with pytest.raises(SignatureInvalid):
            await webhook.receive_delivery(delivered(body, signature))
    assert book.of("org_one") == FREE
    assert await webhook.receive_delivery(delivered(body, signed(body, "whsec_old"))) == {
        "processed": True,
        "reason": None,
    }
    assert await webhook.receive_delivery(delivered(body, signed(body, "whsec_new"))) == {
        "processed": False,
        "reason": DUPLICATE,
    }
    assert book.of("org_one").plan == "basic"
    for wrong in (b"{", b"[]"):
        with pytest.raises(NotAStripeEvent):
            await webhook.receive_delivery(delivered(wrong, signed(wrong, "whsec_new")))


async def test_without_plans_nobody_is_limited_by_one() -> None:
    assert UnlimitedPlans().limits_of("org_one") is NO_LIMITS
    assert UnlimitedPlans().of("org_one") is None
