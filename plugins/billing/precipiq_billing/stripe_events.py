"""The money in a Stripe event. Pure: an event in, a booking or the reason for none out.

Stripe delivers in any order, several times, and tells totals rather than steps: how much of a charge is refunded by
now. So a booking names a register and what the event told of it; ``resolve`` says what the register must have reached
by all that was told, and what is booked is the difference. Any order and repetition then ends in the same sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from precipiq_billing.currencies import NotMoney, currency_exponent
from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.stripe_facts import Fact
from precipiq_billing.stripe_fields import NOT_HANDLED, Envelope, Fields, envelope_of, text
from precipiq_billing.stripe_objects import (
    Money,
    Nothing,
    Resolve,
    read_charge,
    read_dispute,
    read_intent,
    read_refund,
    read_refunded_charge,
)
from precipiq_billing.stripe_unhandled import moving_label

THIN = "thin event: it carries no amounts; have Stripe send snapshot events to this endpoint"
NO_CURRENCY = "the currency is not in ISO 4217"

_METADATA_MAX = 100
_METADATA_CHARACTERS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Booking:
    """Money that an event tells of.

    ``register``: what the event told ``fact`` of. ``resolve``: the total of all facts of a register, in Stripe's minor
    units, None when they say nothing of it; ``sign`` (1 or -1) and ``event_type`` are those of a total that rises.
    ``object_id``: Stripe's own id of the object, ``related_id``: of the payment that it belongs to. ``legacy``: the
    registers of older versions that this one takes the place of, with the sign by which each counts.
    """

    event_id: str
    cause: str
    livemode: bool
    register: str
    fact: Fact
    resolve: Resolve
    sign: int
    event_type: str
    currency: str
    object_id: str
    related_id: str | None
    metadata: Mapping[str, str]
    legacy: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NotBooked:
    """Why nothing is booked. ``label``: where money moved that is not booked, the name under which that is counted.

    ``cause``: the event's type.
    """

    reason: str
    cause: str
    label: str | None = None


def booking_of(event: object) -> Booking | NotBooked:
    """The booking, or why there is none. Raises ``NotAStripeEvent`` when it is no event, or not of the known shape."""
    envelope = envelope_of(event)
    if envelope is None:
        kind = event.get("type") if isinstance(event, dict) else None
        cause = kind if isinstance(kind, str) else ""
        return NotBooked(THIN, cause, moving_label(cause))
    cause = envelope.cause
    reader = _READERS.get(cause)
    if reader is None:
        return NotBooked(NOT_HANDLED, cause, moving_label(cause) if _may_move(envelope) else None)
    money = reader(envelope)
    if isinstance(money, Nothing):
        return NotBooked(money.reason, cause, cause if money.is_gap else None)
    currency = money.currency.upper()
    try:
        currency_exponent(currency)
    except NotMoney:
        return NotBooked(NO_CURRENCY, cause, cause)
    return Booking(
        envelope.event_id,
        cause,
        envelope.event.get("livemode") is True,
        f"{money.register}:{currency}",
        Fact(envelope.created_s, money.told),
        money.resolve,
        money.sign,
        money.event_type,
        currency,
        money.object_id,
        money.related_id,
        {**_metadata(envelope.found), **money.metadata},
        money.legacy,
    )


_READERS: Mapping[str, Callable[[Envelope], Money | Nothing]] = {
    "payment_intent.succeeded": read_intent,
    "charge.succeeded": read_charge,
    "charge.captured": read_charge,
    "charge.refunded": read_refunded_charge,
    "charge.refund.updated": read_refund,
    "refund.failed": read_refund,
    "refund.updated": read_refund,
    "charge.dispute.created": read_dispute,
    "charge.dispute.updated": read_dispute,
    "charge.dispute.funds_withdrawn": read_dispute,
    "charge.dispute.funds_reinstated": read_dispute,
    "charge.dispute.closed": read_dispute,
}

HANDLED = tuple(_READERS)
"""The types of events to send here."""

_AMOUNTS = frozenset(("amount_captured", "amount_refunded", "captured"))


def _may_move(envelope: Envelope) -> bool:
    """Whether an event of a type that can move money did: some types mostly tell of something else."""
    if envelope.cause == "charge.updated":
        return not _AMOUNTS.isdisjoint(envelope.previous or ())
    if envelope.cause == "refund.created":  # the charge tells of it, where it has one
        return not envelope.found.get("charge")
    return True


def _metadata(source: Fields) -> Mapping[str, str]:
    """Texts by name, as Stripe keeps them: 50 of up to 500 characters; the limits here are larger."""
    metadata = source.get("metadata") or {}
    if not isinstance(metadata, dict) or len(metadata) > _METADATA_MAX:
        raise NotAStripeEvent(f"metadata is not an object of up to {_METADATA_MAX} texts")
    return {name: text(metadata, name, _METADATA_CHARACTERS_MAX, least=0) for name in metadata}
