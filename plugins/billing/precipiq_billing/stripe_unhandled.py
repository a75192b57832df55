"""The types of Stripe's events that move money and are not booked: none is passed over in silence. Pure."""

from __future__ import annotations

OTHER = "other"
"""Stands for types that nobody has listed yet, of families that move money."""

MOVING = frozenset(
    (
        "application_fee.created",
        "application_fee.refund.updated",
        "application_fee.refunded",
        "cash_balance.funds_available",
        "charge.updated",
        "climate.order.canceled",
        "climate.order.created",
        "credit_note.created",
        "credit_note.voided",
        "customer_cash_balance_transaction.created",
        "issuing_dispute.funds_reinstated",
        "issuing_dispute.funds_rescinded",
        "issuing_transaction.created",
        "payment_intent.partially_funded",
        "payout.canceled",
        "payout.failed",
        "payout.paid",
        "refund.created",
        "topup.reversed",
        "topup.succeeded",
        "transfer.created",
        "transfer.failed",
        "transfer.paid",
        "transfer.reversed",
        "treasury.credit_reversal.posted",
        "treasury.debit_reversal.completed",
        "treasury.inbound_transfer.returned",
        "treasury.inbound_transfer.succeeded",
        "treasury.outbound_payment.posted",
        "treasury.outbound_payment.returned",
        "treasury.outbound_transfer.posted",
        "treasury.outbound_transfer.returned",
        "treasury.received_credit.succeeded",
        "treasury.received_debit.created",
    )
)

_FAMILIES = (
    "application_fee.",
    "charge.",
    "customer_cash_balance_transaction.",
    "issuing_transaction.",
    "payment_intent.",
    "payout.",
    "refund.",
    "topup.",
    "transfer.",
    "v2.money_management.",
)
# Of these families: a state that money passes through, or a change of something else.
_QUIET = frozenset(
    (
        "charge.expired",
        "charge.failed",
        "charge.pending",
        "issuing_transaction.purchase_details_receipt_updated",
        "issuing_transaction.updated",
        "payment_intent.amount_capturable_updated",
        "payment_intent.canceled",
        "payment_intent.created",
        "payment_intent.payment_failed",
        "payment_intent.processing",
        "payment_intent.requires_action",
        "payout.created",
        "payout.reconciliation_completed",
        "payout.updated",
        "topup.canceled",
        "topup.created",
        "topup.failed",
        "transfer.updated",
    )
)


def moving_label(kind: str) -> str | None:
    """The name under which that type is counted, one of a bounded number; None when it moves no money."""
    if kind in MOVING:
        return kind
    return OTHER if kind.startswith(_FAMILIES) and kind not in _QUIET else None
