"""What the objects in Stripe's events tell about money: payment intents, charges, refunds, disputes. Pure.

Amounts count in Stripe's minor units. What was moved decides, not a status: a charge that was authorised and never
captured was not paid, and giving that up is no refund; a dispute has cost what its balance transactions say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.money import stripe_amount
from precipiq_billing.stripe_facts import (
    Fact,
    Failure,
    Moved,
    Told,
    Total,
    Withdrawn,
    resolve_dispute,
    resolve_payment,
    resolve_refund,
)
from precipiq_billing.stripe_fields import NOT_HANDLED, Envelope, Fields, reference, text, whole

OF_INTENT = "the payment intent tells of this payment"
STANDS = "the refund stands as it was told"
MIXED = "the dispute moved money in several currencies"

DISPUTE_FEE = "stripe_dispute_fee"
"""The metadata that names what a dispute's fees add up to, in its event's currency."""
REFUND = "stripe_refund"
"""The metadata that names the refund that failed."""

_MINOR_MAX = 10**14
_TRANSACTIONS_MAX = 100
_PAID = (None, "succeeded", "paid")
_FAILED = ("failed", "canceled")
_REFUND_STATUSES = (None, "pending", "requires_action", "succeeded")
_DISPUTE_STATUSES = frozenset(
    (
        *("warning_needs_response", "warning_under_review", "warning_closed", "needs_response", "under_review"),
        *("charge_refunded", "won", "lost", "prevented"),
    )
)

Resolve: TypeAlias = Callable[[Sequence[Fact]], int | None]


@dataclass(frozen=True, slots=True)
class Money:
    """What an event told of a register, see ``Booking``. ``currency``: as Stripe writes it, in small letters."""

    event_type: str
    sign: int
    register: str
    told: Told
    resolve: Resolve
    currency: str
    object_id: str
    related_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    legacy: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nothing:
    """Why there is nothing to book. ``is_gap``: money may have moved, and is not booked."""

    reason: str
    is_gap: bool = False


GAP = Nothing(NOT_HANDLED, is_gap=True)


def read_intent(envelope: Envelope) -> Money:
    """A payment intent that succeeded."""
    intent = envelope.found
    object_id = text(intent, "id")
    received = intent.get("amount_received")  # not there in old versions
    total = whole(intent, "amount_received" if received else "amount", _MINOR_MAX)
    return _payment(intent, object_id, total)


def read_charge(envelope: Envelope) -> Money | Nothing:
    """A charge that succeeded or was captured; where it has a payment intent, that tells of it."""
    charge = envelope.found
    if reference(charge, "payment_intent") is not None:
        return Nothing(OF_INTENT)
    if charge.get("status") not in _PAID:
        return GAP
    return _payment(charge, text(charge, "id"), _captured(charge))


def _payment(source: Fields, object_id: str, total: int) -> Money:
    return Money(
        "payment", 1, f"payment:{object_id}", Total(total), resolve_payment, text(source, "currency"), object_id
    )


def read_refunded_charge(envelope: Envelope) -> Money:
    """A charge of which some was refunded, or whose authorisation was given up."""
    charge = envelope.found
    told = Total(_refunded(charge), _refunded_before(charge, envelope.previous))
    return _refund(text(charge, "id"), told, charge)


def read_refund(envelope: Envelope) -> Money | Nothing:
    """A refund that changed: one that failed or was canceled gives back what its charge had refunded."""
    refund, previous = envelope.found, envelope.previous
    status = refund.get("status")
    if status not in _FAILED and envelope.cause != "refund.failed":
        return Nothing(STANDS) if status in _REFUND_STATUSES else GAP
    if envelope.cause != "refund.failed" and previous is not None and "status" not in previous:
        return Nothing(STANDS)  # it failed earlier, and something else changed now
    charge_id = reference(refund, "charge")
    if charge_id is None:
        return GAP
    refund_id = text(refund, "id")
    told = Failure(refund_id, whole(refund, "amount", _MINOR_MAX))
    return _refund(charge_id, told, refund, {REFUND: refund_id})


def _refund(charge_id: str, told: Told, source: Fields, metadata: Mapping[str, str] | None = None) -> Money:
    return Money(
        "refund",
        -1,
        f"refund:{charge_id}",
        told,
        resolve_refund,
        text(source, "currency"),
        charge_id,
        reference(source, "payment_intent"),
        metadata or {},
    )


def _captured(charge: Fields) -> int:
    """How much of a charge was taken: nothing of one that is authorised alone."""
    if charge.get("amount_captured") is not None:
        return whole(charge, "amount_captured", _MINOR_MAX)
    return whole(charge, "amount", _MINOR_MAX) if charge.get("captured", True) is True else 0


def _refunded(charge: Fields) -> int:
    """Stripe counts what was never captured among the refunds once it is given up."""
    captured = _captured(charge)
    total = whole(charge, "amount_refunded", _MINOR_MAX)
    if captured == 0:
        return 0
    never_captured = max(0, whole(charge, "amount", _MINOR_MAX) - captured)
    return max(0, total - never_captured)


def _refunded_before(charge: Fields, previous: Fields | None) -> int | None:
    try:
        return None if previous is None else _refunded({**charge, **previous})
    except NotAStripeEvent:
        return None


def read_dispute(envelope: Envelope) -> Money | Nothing:
    """A dispute: all that it moved by then, whatever its status says."""
    dispute = envelope.found
    charge = reference(dispute, "charge")
    object_id = reference(dispute, "id") or charge  # disputes had no id once
    if object_id is None:
        raise NotAStripeEvent("the dispute has neither an id nor a charge")
    own_currency = text(dispute, "currency")
    told, currencies, fees = _dispute_told(envelope)
    if len(currencies) > 1:
        return Nothing(MIXED, is_gap=True)
    if not currencies and dispute.get("status") not in _DISPUTE_STATUSES and not isinstance(told, Withdrawn):
        return GAP
    currency = next(iter(currencies), own_currency)
    suffix = f"{object_id}:{own_currency.upper()}"
    return Money(
        "chargeback",
        -1,
        f"dispute_moved:{object_id}",
        told,
        resolve_dispute,
        currency,
        object_id,
        reference(dispute, "payment_intent") or charge,
        {DISPUTE_FEE: stripe_amount(sum(fees), currency.upper())} if any(fees) else {},
        {f"dispute:{suffix}": 1, f"dispute_reversal:{suffix}": -1},
    )


def _dispute_told(envelope: Envelope) -> tuple[Told, set[str], list[int]]:
    """What it told, in which currencies, and the fees of it."""
    dispute = envelope.found
    listed = dispute.get("balance_transactions")
    if "balance_transactions" not in dispute:
        amount = whole(dispute, "amount", _MINOR_MAX)
        if envelope.cause == "charge.dispute.funds_withdrawn":
            return Withdrawn(amount), set(), []
        if envelope.cause == "charge.dispute.funds_reinstated":
            return Withdrawn(-amount), set(), []
        return Moved(()), set(), []
    if isinstance(listed, dict):
        listed = listed.get("data")
    if not isinstance(listed, list) or len(listed) > _TRANSACTIONS_MAX:
        raise NotAStripeEvent("balance_transactions is no list of transactions")
    if not all(isinstance(each, dict) for each in listed):
        raise NotAStripeEvent("balance_transactions are not told in full")
    transactions = tuple(
        (text(each, "id"), whole(each, "amount", _MINOR_MAX, -_MINOR_MAX), _fee(each)) for each in listed
    )
    return Moved(transactions), {text(each, "currency") for each in listed}, [fee for _, _, fee in transactions]


def _fee(transaction: Fields) -> int:
    return 0 if transaction.get("fee") is None else whole(transaction, "fee", _MINOR_MAX, -_MINOR_MAX)
