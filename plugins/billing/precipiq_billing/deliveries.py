"""Stripe's deliveries become financial events: stored durably, then sealed; after a crash they are sealed later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from precipiq_billing.delivery_rows import StoredDelivery
from precipiq_billing.delivery_store import BEGINNING, DeliveryStore, Place
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_billing.money import stripe_amount
from precipiq_billing.registers import NotEntered, Registers
from precipiq_billing.service import FinancialEvents, NewEvent
from precipiq_billing.stripe_events import Booking, NotBooked, booking_of
from precipiq_chain.chain_format import statement_id
from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import SYSTEM, Chain, Entry
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import IdempotencyConflict, PrecipiqError, Unavailable, ValidationFailed

log = structlog.get_logger("precipiq.billing")

DUPLICATE = "duplicate event; already processed"
NO_AMOUNT = "nothing to book: the amount is 0"
ALREADY_BOOKED = "nothing to book: another event has told of this amount already"
FOREIGN = "an older version booked this dispute in another currency: book the difference by API"
TOO_MUCH = "not booked: more events or more money than one object of Stripe's has"
TEST_MODE = "an event of Stripe's test mode: this deployment does not book it in the environment live"

_NOTE_DELAY_S = 0.2
_NOTED_MAX = 5_000
_SETTLED_US = 10 * 1_000_000
_AT_ONCE_MAX = 100
_NAMED_MAX = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery. ``reason``: why nothing was booked. ``entry_id``: of the financial event, if any.

    ``unhandled``: the type of an event that moves money and was not booked.
    """

    processed: bool
    reason: str | None = None
    entry_id: str | None = None
    unhandled: str | None = None


class Deliveries:
    """Stripe's deliveries, for all chains."""

    def __init__(
        self,
        store: DeliveryStore,
        events: FinancialEvents,
        clock: Clock,
        metrics: DeliveryMetrics,
        *,
        accept_test_mode_in_live: bool,
        retry_s: float,
    ) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._metrics = metrics
        self._accept_test_mode_in_live = accept_test_mode_in_live
        self._retry_s = retry_s
        self._registers = Registers(store, events, clock)
        self._sealed: dict[tuple[Chain, str], tuple[StoredDelivery, str]] = {}
        self._named: set[str] = set()

    async def take(self, chain: Chain, event: object) -> Outcome:
        """Book the money of a verified event. Durable on return, also when its entry could not be sealed yet.

        Raises ``NotAStripeEvent`` and ``Unavailable``: then nothing was stored.
        """
        booking = booking_of(event)
        if isinstance(booking, NotBooked):
            outcome = self._pass_over(booking)
        elif not (booking.livemode or self._accept_test_mode_in_live or chain.environment != "live"):
            outcome = Outcome(False, TEST_MODE)
        else:
            outcome = await self._book(chain, booking)
        self._metrics.count("booked" if outcome.processed else "duplicate" if outcome.entry_id else "not_booked")
        return outcome

    def _pass_over(self, event: NotBooked) -> Outcome:
        """Money that is not booked is counted each time, and logged once a type: no sender fills the log."""
        if event.label is None:
            return Outcome(False, event.reason)
        self._metrics.count_unhandled(event.label)
        if event.cause not in self._named and len(self._named) < _NAMED_MAX:
            self._named.add(event.cause)
            log.warning("an event of Stripe that moves money is not booked", type=event.cause, reason=event.reason)
        return Outcome(False, event.reason, unhandled=event.cause)

    async def _book(self, chain: Chain, booking: Booking) -> Outcome:
        delivery = await self._registers.enter(chain, booking)
        if delivery is NotEntered.FOREIGN:
            return self._pass_over(NotBooked(FOREIGN, booking.cause, booking.cause))
        if delivery is NotEntered.TOO_MUCH:
            return self._pass_over(NotBooked(TOO_MUCH, booking.cause, booking.cause))
        if delivery is NotEntered.KNOWN:
            return Outcome(False, DUPLICATE, await self._entry_id(await self._store.get(chain, booking.event_id)))
        entry_id = await self._entry_id(delivery)
        if delivery.difference:
            return Outcome(True, None, entry_id)
        return Outcome(False, NO_AMOUNT if entry_id is None and delivery.total == 0 else ALREADY_BOOKED, entry_id)

    async def _entry_id(self, delivery: StoredDelivery | None) -> str | None:
        """The id of the financial event with this delivery's amount; seals it if it is not sealed yet."""
        if delivery is not None and delivery.difference == 0:
            delivery = await self._store.last_of_register(delivery.chain, delivery.register)
        if delivery is None or delivery.draft is None:
            return None if delivery is None else delivery.entry_id
        try:
            return await self._seal(delivery)
        except Unavailable as error:
            log.warning("a delivery is stored and will be sealed", event_id=delivery.event_id, reason=error.message)
            return None

    async def _seal(self, delivery: StoredDelivery) -> str:
        event = _event(delivery)
        try:
            entry = await self._record(delivery.chain, event)
        except IdempotencyConflict:
            # A client recorded an event of that id by hand; the two are one.
            found = await self._events.by_external_id(delivery.chain, event.source, delivery.event_id)
            if found is None:
                raise Unavailable("the event is being recorded; try again") from None
            entry = found
            log.warning("a delivered event had been recorded with other content", event_id=delivery.event_id)
        entry_id = statement_id(entry.statement)
        if len(self._sealed) < _NOTED_MAX:
            self._sealed[delivery.chain, delivery.event_id] = delivery, entry_id
        return entry_id

    async def _record(self, chain: Chain, event: NewEvent) -> Entry:
        """Record the event; without its metadata where the chain cannot take them: the money counts."""
        try:
            return (await self._events.record(chain, event, SYSTEM))[0]
        except ValidationFailed as error:
            log.error("metadata of a delivery cannot be kept", event_id=event.external_id, reason=error.message)
            return (await self._events.record(chain, replace(event, metadata=None), SYSTEM))[0]

    @asynccontextmanager
    async def run(self, background: Background) -> AsyncIterator[None]:
        """While the context is entered, note sealed deliveries, and seal those that a crash or an outage left.

        A delivery that cannot be noted at the end is sealed again later, to the same entry.
        """
        failing = "deliveries cannot be sealed; they are stored"
        noting = background(
            "billing.deliveries", self.note_sealed, every_s=_NOTE_DELAY_S, failing=failing, final=self.note_sealed
        )
        sealing = background(
            "billing.left_over",
            self.seal_left_over,
            every_s=self._retry_s,
            failing=failing,
            round_s_max=LONG_ROUND_S_MAX,
            tolerated=(PrecipiqError,),  # a delivery that cannot be sealed is no reason to stop serving
        )
        async with noting, sealing:
            yield

    async def seal_left_over(self) -> None:
        """Seal the deliveries that were stored some seconds ago and are not in the chain."""
        before_us = self._clock.now_us() - _SETTLED_US
        failed: list[PrecipiqError] = []
        after: Place | None = BEGINNING
        while after is not None:
            left = await self._store.find_unsealed(before_us, after, _AT_ONCE_MAX)
            errors = [error for each in left.deliveries if (error := await self._seal_if_possible(each)) is not None]
            await self.note_sealed()
            failed += errors
            if errors and len(errors) == len(left.deliveries):
                break  # the ledger takes none now
            after = left.next
        if failed:
            raise failed[0]

    async def _seal_if_possible(self, delivery: StoredDelivery) -> PrecipiqError | None:
        """Seal a delivery, or give the reason why not: such a delivery delays no other."""
        try:
            await self._seal(delivery)
        except PrecipiqError as error:
            return error
        return None

    async def note_sealed(self) -> None:
        """Store the deliveries' entries; a delivery that is not noted would be sealed again, to the same entry."""
        sealed, self._sealed = self._sealed, {}
        if not sealed:
            return
        try:
            await self._store.note_sealed(list(sealed.values()))
        except PrecipiqError:
            self._sealed = {**sealed, **self._sealed}
            raise


def _event(delivery: StoredDelivery) -> NewEvent:
    draft: Mapping[str, Any] = delivery.draft or {}
    return NewEvent(
        "stripe",
        draft["event_type"],
        stripe_amount(draft["sign"] * delivery.difference, draft["currency"]),
        draft["currency"],
        delivery.event_id,
        draft["occurred_at"],
        draft["metadata"],
        draft["object_id"],
        draft["related_id"],
        draft["cause"],
        draft["livemode"],
    )
