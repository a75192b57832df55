"""Takes a booking into its register: what all events told, the total that follows, the difference that is stored.

Every attempt reads the register, computes, and stores on condition that nobody changed it meanwhile. So any number of
nodes may do so at once, and none holds a lock while it computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import Any

from precipiq_billing.delivery_rows import NEW_REGISTER, NewDelivery, RegisterState, StoredDelivery
from precipiq_billing.delivery_store import DeliveryStore
from precipiq_billing.service import FinancialEvents
from precipiq_billing.stripe_events import Booking
from precipiq_billing.stripe_facts import Fact, Total
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock, format_timestamp, parse_timestamp
from precipiq_contracts.errors import Unavailable

_ATTEMPTS_MAX = 100
_LOCKS = 256
FACTS_MAX = 1_000
"""Events of one object that are read for its next; the sender of more is no Stripe, whatever its signature."""
TOTAL_MAX = 10**14
"""Minor units: the largest amount that an event can tell, so the largest that the chain takes."""


class NotEntered(Enum):
    """Why a booking was not stored."""

    KNOWN = "that event is stored already"
    FOREIGN = "an older version booked this object in another currency than its money moved in"
    TOO_MUCH = "more events or more money than one object of Stripe's has"


class Registers:
    """The registers of all chains."""

    def __init__(self, store: DeliveryStore, events: FinancialEvents, clock: Clock) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def enter(self, chain: Chain, booking: Booking) -> StoredDelivery | NotEntered:
        """Store what the event told, with what it adds.

        Raises ``Unavailable`` when others change the register without end, or somebody else wrote it: then nothing is
        stored.
        """
        if booking.event_type == "payment":  # most are told once: a guess saves a read
            stored = await self._attempt(chain, booking, NEW_REGISTER)
            if stored is not None:
                return stored
        # Deliveries of one object to one process wait here rather than compete in the database.
        async with self._locks[hash((chain, booking.register)) % _LOCKS]:
            for _ in range(_ATTEMPTS_MAX):
                state = await self._store.read_register(chain, booking.register, booking.legacy, FACTS_MAX + 1)
                if any(each.event_id == booking.event_id for each in state.deliveries):
                    return NotEntered.KNOWN
                if len(state.deliveries) > FACTS_MAX:
                    is_known = await self._store.get(chain, booking.event_id) is not None
                    return NotEntered.KNOWN if is_known else NotEntered.TOO_MUCH
                if _is_foreign(booking, state):
                    return NotEntered.FOREIGN
                stored = await self._attempt(chain, booking, state)
                if stored is not None:
                    return stored
                if await self._store.get(chain, booking.event_id) is not None:
                    return NotEntered.KNOWN
        raise Unavailable("too many deliveries of one object at once; try again")

    async def _attempt(
        self, chain: Chain, booking: Booking, state: RegisterState
    ) -> StoredDelivery | NotEntered | None:
        total = booking.resolve(await self._facts(chain, booking, state))
        if total is None:
            total = state.booked
        if abs(total) > TOTAL_MAX:
            return NotEntered.TOO_MUCH
        difference = total - state.booked
        delivery = NewDelivery(
            booking.event_id,
            booking.register,
            total,
            _draft(booking, difference) if difference else None,
            booking.fact.created_s,
            booking.fact.told,
        )
        return await self._store.add(chain, delivery, state, self._clock.now_us())

    async def _facts(self, chain: Chain, booking: Booking, state: RegisterState) -> list[Fact]:
        """What is known of the register, this event included.

        Of a register that takes another's place: only what happened after the last event that was booked there.
        """
        created_s = await self._created(chain, state)
        facts, replaced_s = [booking.fact], -1
        for each in state.deliveries:
            if each.told is not None:
                facts.append(Fact(created_s[each.event_id], each.told))
            elif each.register == booking.register:
                facts.append(Fact(created_s[each.event_id], Total(each.total)))
            else:
                replaced_s = max(replaced_s, created_s[each.event_id])
        return [fact for fact in facts if fact.created_s > replaced_s]

    async def _created(self, chain: Chain, state: RegisterState) -> Mapping[str, int]:
        """When each event of the register happened; what older versions stored says so in its entry alone."""
        untold = [each for each in state.deliveries if each.created_s is None]
        found = {each.event_id: await self._created_of(chain, each) for each in untold}
        if found:
            await self._store.note_created([(each, found[each.event_id]) for each in untold])
        return {each.event_id: found.get(each.event_id, each.created_s or 0) for each in state.deliveries}

    async def _created_of(self, chain: Chain, delivery: StoredDelivery) -> int:
        occurred_at: object = None
        if delivery.draft is not None:
            occurred_at = delivery.draft["occurred_at"]
        elif delivery.entry_id is not None:
            entry = await self._events.get(chain, delivery.entry_id)
            occurred_at = parse_statement(entry.statement).body.get("occurred_at")
        time_us = parse_timestamp(occurred_at) if isinstance(occurred_at, str) else delivery.received_us
        return time_us // 1_000_000


def _is_foreign(booking: Booking, state: RegisterState) -> bool:
    return bool(state.is_new and state.booked) and not all(
        name.endswith(f":{booking.currency}") for name in booking.legacy
    )


def _draft(booking: Booking, difference: int) -> dict[str, Any]:
    return {
        "sign": booking.sign,
        "event_type": booking.event_type if difference > 0 else "other",
        "currency": booking.currency,
        "occurred_at": format_timestamp(booking.fact.created_s * 1_000_000),
        "metadata": dict(booking.metadata),
        "object_id": booking.object_id,
        "related_id": booking.related_id,
        "cause": booking.cause,
        "livemode": booking.livemode,
    }
