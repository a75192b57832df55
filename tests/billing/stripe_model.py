"""A model of Stripe: charges, refunds and disputes that live by chance, the events that tell of them, and the balance.

Owns no knowledge of how events are booked: what every balance transaction adds up to is all there is to compare with.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from precipiq_billing.money import stripe_amount
from tests.billing import stripe_events as stripe

Object = dict[str, Any]

START_S = 1_790_000_000


class StripeModel:
    """One account. ``events``: everything it tells, in the order in which it happened; ``balance``: what was moved."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now_s = START_S
        self.events: list[Object] = []
        self.transactions: list[Object] = []
        self._charges: list[Object] = []
        self._refunds: list[Object] = []
        self._disputes: list[Object] = []
        self._count = 0

    @property
    def balance(self) -> Mapping[str, Decimal]:
        """The sum of all balance transactions by currency, without fees."""
        sums: Counter[str] = Counter()
        for each in self.transactions:
            sums[each["currency"].upper()] += each["amount"]
        return {currency: Decimal(stripe_amount(minor, currency)) for currency, minor in sums.items() if minor}

    def live(self, steps: int) -> None:
        """So many things happen, often several in one second."""
        acts: list[Callable[[], None]] = [
            *([self.authorise] * 2),
            *([self.capture] * 2),
            *([self.refund] * 5),
            *([self.fail_refund] * 4),
            self.release,
            self.touch,
            *([self.open_dispute] * 2),
            *([self.move_dispute] * 5),
        ]
        self.authorise()
        for _ in range(steps):
            self.pass_time()
            self.chance.choice(acts)()

    def pass_time(self) -> None:
        self.now_s += self.chance.choice((0, 0, 1, 1, 90))

    def authorise(self) -> None:
        """A charge, with a payment intent or without one, captured at once or not yet."""
        amount = self.chance.randrange(1, 50) * 100
        is_captured = self.chance.random() < 0.6
        charge = stripe.charge(
            self._id("ch"),
            amount,
            0,
            amount_captured=amount if is_captured else 0,
            captured=is_captured,
            created=self.now_s,
            currency=self.chance.choice(("usd", "usd", "jpy")),
            payment_intent=self._id("pi") if self.chance.random() < 0.6 else None,
        )
        self._charges.append(charge)
        self._tell("charge.succeeded", charge)
        if is_captured:
            self._receive(charge)

    def capture(self) -> None:
        """All of an authorised charge, or a part: then the rest is given up, and counts as refunded."""
        charge = self._pick(self._charges, lambda each: not each["captured"] and not each["amount_refunded"])
        if charge is None:
            return
        previous = {name: charge[name] for name in ("amount_captured", "amount_refunded", "captured")}
        charge["amount_captured"] = self.chance.choice((charge["amount"], charge["amount"] // 2, 1))
        charge["captured"] = True
        charge["amount_refunded"] = charge["amount"] - charge["amount_captured"]
        self._receive(charge)
        self._tell("charge.captured", charge, previous)
        if charge["amount_refunded"] and self.chance.random() < 0.5:
            self._tell("charge.refunded", charge, previous)

    def _receive(self, charge: Object) -> None:
        self._move(charge["currency"], charge["amount_captured"])
        if charge["payment_intent"] is not None:
            received = charge["amount_captured"]
            intent = stripe.payment_intent(charge["payment_intent"], charge["amount"], charge["currency"])
            self._tell("payment_intent.succeeded", {**intent, "amount_received": received})

    def release(self) -> None:
        """An authorisation is given up: a charge that was never captured is refunded, by its numbers."""
        charge = self._pick(self._charges, lambda each: not each["captured"] and not each["amount_refunded"])
        if charge is not None:
            charge |= {"amount_refunded": charge["amount"], "refunded": True}
            self._tell("charge.refunded", charge, {"amount_refunded": 0, "refunded": False})

    def refund(self) -> None:
        """Some of what was captured."""
        charge = self._pick(self._charges, lambda each: each["captured"] and each["amount_refunded"] < each["amount"])
        if charge is None:
            return
        left = charge["amount"] - charge["amount_refunded"]
        amount = self.chance.choice((left, max(1, left // 2), 1))
        refund: Object = {
            "id": self._id("re"),
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": self.now_s,
            "currency": charge["currency"],
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "status": self.chance.choice(("pending", "succeeded", "requires_action")),
        }
        self._refunds.append(refund)
        self._move(charge["currency"], -amount)
        previous = {"amount_refunded": charge["amount_refunded"], "refunded": False}
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self._tell("charge.refunded", charge, previous)
        self._tell("refund.created", refund)

    def fail_refund(self) -> None:
        """A refund fails or is canceled; one or several events tell of it, one of them at once."""
        refund = self._pick(self._refunds, lambda each: each["status"] not in ("failed", "canceled"))
        if refund is None:
            return
        charge = next(each for each in self._charges if each["id"] == refund["charge"])
        previous = {"status": refund["status"]}
        refund["status"] = self.chance.choice(("failed", "canceled"))
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        self._move(charge["currency"], refund["amount"])
        kinds = ["charge.refund.updated", "refund.updated", *(["refund.failed"] * (refund["status"] == "failed"))]
        self.chance.shuffle(kinds)
        for index, kind in enumerate(kinds[: self.chance.randrange(1, len(kinds) + 1)]):
            late_s = 0 if index == 0 else self.chance.randrange(3)
            self._tell(kind, refund, previous, late_s=late_s)
        if self.chance.random() < 0.3:
            self._tell("refund.updated", refund, {"metadata": {"note": None}}, late_s=self.chance.randrange(200))

    def touch(self) -> None:
        """Something changes that moves no money."""
        charge = self._pick(self._charges, lambda _: True)
        if charge is not None:
            self._tell("charge.updated", charge, {"description": None})

    def open_dispute(self) -> None:
        """A dispute, an inquiry, or one that was prevented. What it moves may be in the account's own currency."""
        charge = self._pick(self._charges, lambda each: each["captured"] and not each["disputed"])
        if charge is None:
            return
        charge["disputed"] = True
        status = self.chance.choice(("needs_response", "needs_response", "warning_needs_response", "prevented"))
        dispute = stripe.dispute(
            self._id("dp"),
            max(1, charge["amount_captured"] - self.chance.choice((0, 1))),
            status,
            charge=charge["id"],
            created=self.now_s,
            currency=charge["currency"],
            payment_intent=charge["payment_intent"],
        )
        self._disputes.append(dispute)
        if status == "needs_response" and self.chance.random() < 0.7:
            self._withdraw(dispute)
        self._tell("charge.dispute.created", dispute)
        if dispute["balance_transactions"]:
            self._tell("charge.dispute.funds_withdrawn", dispute)

    def move_dispute(self) -> None:
        """The next thing in a dispute's life."""
        dispute = self._pick(
            self._disputes, lambda each: each["status"] not in ("won", "lost", "prevented", "warning_closed")
        )
        if dispute is None:
            return
        was = {"status": dispute["status"]}
        is_inquiry = dispute["status"].startswith("warning")
        is_withdrawn = bool(dispute["balance_transactions"])
        act = self.chance.choice(("answer", "close", "close", "close", "escalate"))
        if act == "answer":
            dispute["status"] = "warning_under_review" if is_inquiry else "under_review"
            self._tell("charge.dispute.updated", dispute, was)
        elif act == "escalate" and not is_withdrawn:
            dispute["status"] = "needs_response"
            self._withdraw(dispute)
            self._tell("charge.dispute.updated", dispute, was)
            self._tell("charge.dispute.funds_withdrawn", dispute)
        elif is_inquiry:
            dispute["status"] = "warning_closed"
            self._tell("charge.dispute.closed", dispute, was)
        else:
            self._close(dispute, was, is_withdrawn=is_withdrawn)

    def _close(self, dispute: Object, was: Object, *, is_withdrawn: bool) -> None:
        """Won or lost; what was withdrawn comes back in whole or in part, before or after that is told."""
        dispute["status"] = self.chance.choice(("won", "lost"))
        is_reinstated = is_withdrawn and (dispute["status"] == "won" or self.chance.random() < 0.3)
        if is_reinstated and self.chance.random() < 0.5:
            self._reinstate(dispute)
            is_reinstated = False
        self._tell("charge.dispute.closed", dispute, was)
        if is_reinstated:
            self.pass_time()
            self._reinstate(dispute)

    def _withdraw(self, dispute: Object) -> None:
        currency, amount = dispute["currency"], dispute["amount"]
        if self.chance.random() < 0.2:
            currency, amount = "eur", amount * 9 // 10 + 1
        dispute["balance_transactions"] = [self._move(currency, -amount, fee=1500)]

    def _reinstate(self, dispute: Object) -> None:
        [withdrawal] = dispute["balance_transactions"]
        whole = -withdrawal["amount"]
        amount = whole if self.chance.random() < 0.6 else max(1, whole // 3)
        fee = self.chance.choice((0, -1500))
        dispute["balance_transactions"] = [withdrawal, self._move(withdrawal["currency"], amount, fee=fee)]
        self._tell("charge.dispute.funds_reinstated", dispute)

    def _move(self, currency: str, amount: int, fee: int = 0) -> Object:
        transaction = stripe.balance_transaction(self._id("txn"), amount, fee, currency)
        self.transactions.append(transaction)
        return transaction

    def _tell(self, kind: str, obj: Object, previous: Object | None = None, late_s: int = 0) -> None:
        content = stripe.event(kind, copy.deepcopy(obj), event_id=self._id("evt"), created=self.now_s + late_s)
        if previous is not None:
            content["data"]["previous_attributes"] = copy.deepcopy(previous)
        self.events.append(content)

    def _pick(self, objects: list[Object], fits: Callable[[Object], bool]) -> Object | None:
        fitting = [each for each in objects if fits(each)]
        return self.chance.choice(fitting) if fitting else None

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count:06d}"


def deliveries_of(model: StripeModel, chance: random.Random) -> list[Object]:
    """Every event at least once, some several times, in an order of chance: nearly right, backwards, or any."""
    order = [*model.events, *chance.choices(model.events, k=chance.randrange(1 + len(model.events) // 2))]
    kind = chance.randrange(4)
    if kind == 0:
        chance.shuffle(order)
    elif kind == 1:
        order.reverse()
    elif kind == 2:
        order.sort(key=lambda content: content["created"] + chance.randrange(200))
    return order
