"""The money in a Stripe event. Pure: an event in, a booking or the reason for none out.

Stripe delivers in any order, several times, and tells totals rather than steps: how much of a charge is refunded by
now. So a booking names a register and the total that it must have reached; the difference is booked. Any order
and repetition of deliveries then ends in the same sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.money import NotMoney, currency_exponent
from precipiq_billing.stripe_fields import NOT_HANDLED, Fields, envelope_of, reference, text, whole

THIN = "thin event: it carries no amounts; have Stripe send snapshot events to this endpoint"

_METADATA_MAX = 100
_METADATA_CHARACTERS_MAX = 1000
_MINOR_MAX = 10**14
_WON = frozenset(("won", "warning_closed"))


@dataclass(frozen=True, slots=True)
class Booking:
    """The money of an event. ``total_minor``: Stripe's minor units, at least 0; ``sign``: 1 or -1.

    ``register``: the sum that the total belongs to. ``created_s``: time of the event, seconds since the epoch.
    ``object_id``: Stripe's own id of the object, ``related_id``: of the payment that it belongs to.
    """

    event_id: str
    cause: str
    created_s: int
    livemode: bool
    register: str
    total_minor: int
    sign: int
    event_type: str
    currency: str
    object_id: str
    related_id: str | None
    metadata: Mapping[str, str]


def booking_of(event: object) -> Booking | str:
    """The booking, or why there is none. Raises ``NotAStripeEvent`` for an unknown shape."""
    envelope = envelope_of(event)
    if envelope is None:
        return THIN
    reader = _READERS.get(envelope.cause)
    if reader is None:
        return NOT_HANDLED
    found = envelope.found
    money = reader(found)
    if isinstance(money, str):
        return money
    currency = text(found, "currency").upper()
    try:
        currency_exponent(currency)
    except NotMoney:
        return "the currency is not in ISO 4217"
    return Booking(
        envelope.event_id,
        envelope.cause,
        envelope.created_s,
        envelope.event.get("livemode") is True,
        f"{money.register}:{currency}",
        money.total_minor,
        money.sign,
        money.event_type,
        currency,
        money.object_id,
        money.related_id,
        _metadata(found),
    )


@dataclass(frozen=True, slots=True)
class _Money:
    event_type: str
    sign: int
    register: str
    total_minor: int
    object_id: str
    related_id: str | None = None


def _payment(intent: Fields) -> _Money:
    object_id = text(intent, "id")
    received = intent.get("amount_received")  # absent in old versions
    total = whole(intent, "amount_received" if received else "amount", _MINOR_MAX)
    return _Money("payment", 1, f"payment:{object_id}", total, object_id)


def _refund(charge: Fields) -> _Money:
    object_id = text(charge, "id")
    total = whole(charge, "amount_refunded", _MINOR_MAX)
    return _Money("refund", -1, f"refund:{object_id}", total, object_id, reference(charge, "payment_intent"))


def _dispute(dispute: Fields) -> _Money:
    return _dispute_money("chargeback", -1, "dispute", dispute)


def _reinstatement(dispute: Fields) -> _Money:
    return _dispute_money("other", 1, "dispute_reversal", dispute)


def _closure(dispute: Fields) -> _Money | str:
    if dispute.get("status") in _WON:
        return _reinstatement(dispute)
    return "the dispute was not won: its chargeback stays"


def _dispute_money(event_type: str, sign: int, register: str, dispute: Fields) -> _Money:
    charge = reference(dispute, "charge")
    object_id = reference(dispute, "id") or charge  # disputes had no id once
    if object_id is None:
        raise NotAStripeEvent("the dispute has neither an id nor a charge")
    related = reference(dispute, "payment_intent") or charge
    return _Money(event_type, sign, f"{register}:{object_id}", whole(dispute, "amount", _MINOR_MAX), object_id, related)


_READERS: Mapping[str, Callable[[Fields], _Money | str]] = {
    "payment_intent.succeeded": _payment,
    "charge.refunded": _refund,
    "charge.dispute.created": _dispute,
    "charge.dispute.funds_withdrawn": _dispute,
    "charge.dispute.funds_reinstated": _reinstatement,
    "charge.dispute.closed": _closure,
}

HANDLED = tuple(_READERS)
"""The types of events to send here."""


def _metadata(source: Fields) -> Mapping[str, str]:
    """Texts by name, as Stripe keeps them: 50 of up to 500 characters; the limits here are larger."""
    metadata = source.get("metadata") or {}
    if not isinstance(metadata, dict) or len(metadata) > _METADATA_MAX:
        raise NotAStripeEvent(f"metadata is not an object of up to {_METADATA_MAX} texts")
    return {name: text(metadata, name, _METADATA_CHARACTERS_MAX, least=0) for name in metadata}
