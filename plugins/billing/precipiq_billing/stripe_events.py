"""What a Stripe event says about money. Pure: an event in, a booking or the reason for none out.

Stripe delivers in any order, several times, and tells totals rather than steps: how much of a charge is refunded by
now. So a booking names a register and the total that it must have reached; what is booked is the difference. Any order
and repetition of deliveries then ends in the same sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.money import NotMoney, currency_exponent

NOT_HANDLED = "event type not handled"
THIN = "thin event: it carries no amounts; have Stripe send snapshot events to this endpoint"

_TEXT_CHARACTERS_MAX = 255
_METADATA_MAX = 100
_METADATA_CHARACTERS_MAX = 1000
_MINOR_MAX = 10**14
_SECONDS_MAX = 10**11
_WON = frozenset(("won", "warning_closed"))

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Booking:
    """Money that an event tells of. ``total_minor``: Stripe's minor units, at least 0; ``sign``: 1 or -1.

    ``register``: what the total is a total of. ``created_s``: when it happened, seconds since the epoch.
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
    """The booking, or why there is none. Raises ``NotAStripeEvent`` when it is no event, or not of the known shape."""
    if not isinstance(event, dict):
        raise NotAStripeEvent
    if event.get("object") == "v2.core.event":
        return THIN
    if event.get("object") != "event":
        raise NotAStripeEvent
    cause = _text(event, "type")
    event_id = _text(event, "id")
    reader = _READERS.get(cause)
    if reader is None:
        return NOT_HANDLED
    data = event.get("data")
    found = data.get("object") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise NotAStripeEvent("data.object is missing")
    money = reader(found)
    if isinstance(money, str):
        return money
    currency = _text(found, "currency").upper()
    try:
        currency_exponent(currency)
    except NotMoney:
        return "the currency is not in ISO 4217"
    return Booking(
        event_id,
        cause,
        _whole(event, "created", _SECONDS_MAX),
        event.get("livemode") is True,
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


def _payment(intent: Object) -> _Money:
    object_id = _text(intent, "id")
    received = intent.get("amount_received")  # not there in old versions
    total = _whole(intent, "amount_received" if received else "amount", _MINOR_MAX)
    return _Money("payment", 1, f"payment:{object_id}", total, object_id)


def _refund(charge: Object) -> _Money:
    object_id = _text(charge, "id")
    total = _whole(charge, "amount_refunded", _MINOR_MAX)
    return _Money("refund", -1, f"refund:{object_id}", total, object_id, _reference(charge, "payment_intent"))


def _dispute(dispute: Object) -> _Money:
    return _disputed("chargeback", -1, "dispute", dispute)


def _reinstatement(dispute: Object) -> _Money:
    return _disputed("other", 1, "dispute_reversal", dispute)


def _closed(dispute: Object) -> _Money | str:
    if dispute.get("status") in _WON:
        return _reinstatement(dispute)
    return "the dispute was not won: its chargeback stays"


def _disputed(event_type: str, sign: int, register: str, dispute: Object) -> _Money:
    charge = _reference(dispute, "charge")
    object_id = _reference(dispute, "id") or charge  # disputes had no id once
    if object_id is None:
        raise NotAStripeEvent("the dispute has neither an id nor a charge")
    related = _reference(dispute, "payment_intent") or charge
    return _Money(
        event_type, sign, f"{register}:{object_id}", _whole(dispute, "amount", _MINOR_MAX), object_id, related
    )


_READERS: Mapping[str, Callable[[Object], _Money | str]] = {
    "payment_intent.succeeded": _payment,
    "charge.refunded": _refund,
    "charge.dispute.created": _dispute,
    "charge.dispute.funds_withdrawn": _dispute,
    "charge.dispute.funds_reinstated": _reinstatement,
    "charge.dispute.closed": _closed,
}

HANDLED = tuple(_READERS)
"""The types of events to send here."""


def _metadata(source: Object) -> Mapping[str, str]:
    """Texts by name, as Stripe keeps them: 50 of up to 500 characters; some more are let through."""
    metadata = source.get("metadata") or {}
    if not isinstance(metadata, dict) or len(metadata) > _METADATA_MAX:
        raise NotAStripeEvent(f"metadata is not an object of up to {_METADATA_MAX} texts")
    return {name: _text(metadata, name, _METADATA_CHARACTERS_MAX, least=0) for name in metadata}


def _text(source: Object, name: str, most: int = _TEXT_CHARACTERS_MAX, least: int = 1) -> str:
    value = source.get(name)
    if not isinstance(value, str) or not least <= len(value) <= most or "\x00" in value:
        raise NotAStripeEvent(f"{name[:100]} is not a text of {least} to {most} characters")
    return value


def _reference(source: Object, name: str) -> str | None:
    """An id, or the id of an object that stands in its place (expanded)."""
    value = source.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    return None if value is None else _text({name: value}, name)


def _whole(source: Object, name: str, most: int) -> int:
    value = source.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise NotAStripeEvent(f"{name} is not a whole number from 0 to {most}")
    return value
