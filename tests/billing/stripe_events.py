"""Events in the shapes of Stripe's API, old and new, signed by Stripe's library. The values are our own.

Shapes: the published objects of API versions 2020-08-27 and later, read in public repositories of fixtures.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

from stripe import WebhookSignature

from tests.system.client import Client

Event = dict[str, Any]

_numbers = itertools.count(1)


def new_secret() -> str:
    """A signing secret of a shape like Stripe's; good for nothing."""
    return "whsec_" + f"{next(_numbers):08d}" * 4


def event(kind: str, obj: Event, *, event_id: str | None = None, created: int = 1_790_000_000, **more: Any) -> Event:
    """A snapshot event around that object."""
    return {
        "id": event_id or f"evt_{next(_numbers):024d}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": created,
        "data": {"object": obj},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
        **more,
    }


def payment_intent(intent_id: str = "pi_1", amount: int = 2000, currency: str = "usd", **more: Any) -> Event:
    """A payment that succeeded, as the current API shows it."""
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": amount,
        "automatic_payment_methods": {"enabled": True},
        "capture_method": "automatic",
        "created": 1_790_000_000,
        "currency": currency,
        "customer": None,
        "latest_charge": "ch_1",
        "livemode": False,
        "metadata": {},
        "payment_method_types": ["card"],
        "status": "succeeded",
        **more,
    }


def charge(charge_id: str = "ch_1", amount: int = 2000, refunded: int = 500, **more: Any) -> Event:
    """A charge of which some was refunded: ``amount_refunded`` is all of it by then."""
    return {
        "id": charge_id,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount,
        "amount_refunded": refunded,
        "captured": True,
        "created": 1_790_000_000,
        "currency": "usd",
        "disputed": False,
        "livemode": False,
        "metadata": {},
        "paid": True,
        "payment_intent": "pi_1",
        "refunded": refunded == amount,
        "status": "succeeded",
        **more,
    }


def dispute(dispute_id: str = "dp_1", amount: int = 700, status: str = "needs_response", **more: Any) -> Event:
    """A dispute of a charge."""
    return {
        "id": dispute_id,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": "ch_1",
        "created": 1_790_000_000,
        "currency": "usd",
        "evidence": {},
        "evidence_details": {"due_by": None, "has_evidence": False, "past_due": False, "submission_count": 0},
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": "pi_1",
        "reason": "fraudulent",
        "status": status,
        **more,
    }


def balance_transaction(
    transaction_id: str = "txn_1", amount: int = -700, fee: int = 0, currency: str = "usd"
) -> Event:
    """What moved in the account's balance."""
    return {
        "id": transaction_id,
        "object": "balance_transaction",
        "amount": amount,
        "created": 1_790_000_000,
        "currency": currency,
        "fee": fee,
        "net": amount - fee,
        "type": "adjustment",
    }


def refund(refund_id: str = "re_1", amount: int = 500, status: str = "failed", **more: Any) -> Event:
    """A refund of a charge."""
    return {
        "id": refund_id,
        "object": "refund",
        "amount": amount,
        "charge": "ch_1",
        "created": 1_790_000_000,
        "currency": "usd",
        "metadata": {},
        "payment_intent": "pi_1",
        "status": status,
        **more,
    }


def changed(content: Event, **previous: Any) -> Event:
    """That event, with what its object's members were before."""
    return {**content, "data": {**content["data"], "previous_attributes": previous}}


def without(obj: Event, *names: str) -> Event:
    """The object as an older API version shows it: without these members."""
    return {name: value for name, value in obj.items() if name not in names}


def thin_event() -> Event:
    """A notification of the second API: it names an object and carries none."""
    return {
        "id": "evt_test_65",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "livemode": False,
        "created": "2026-02-01T15:13:25.000Z",
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }


def body_of(content: Event) -> bytes:
    """The bytes that Stripe sends: indented JSON."""
    return json.dumps(content, indent=2).encode()


def signature(body: bytes, secret: str, at: float | None = None) -> str:
    """The header that Stripe's own library makes for that body."""
    return WebhookSignature.generate_signature_header(body.decode(), secret, int(time.time() if at is None else at))


class Account:
    """A Stripe account that delivers to one endpoint of a server."""

    def __init__(self, client: Client, **endpoint: Any) -> None:
        self.client = client
        self.secret = new_secret()
        self.endpoint = client.data("POST", "/integrations/stripe/endpoints", json={"secret": self.secret, **endpoint})
        self.path = f"/webhooks/stripe/{self.endpoint['id']}"

    def send(self, content: Event | bytes, header: str | None = None, path: str | None = None) -> Any:
        """One delivery; the answer."""
        body = content if isinstance(content, bytes) else body_of(content)
        headers = {
            "content-type": "application/json; charset=utf-8",
            "stripe-signature": header or signature(body, self.secret),
        }
        return self.client.http.post(path or self.path, content=body, headers=headers)

    def deliver(self, content: Event | bytes, path: str | None = None) -> Any:
        """One delivery that is taken; what became of it."""
        answer = self.send(content, path=path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


def money(client: Client) -> list[Any]:
    """Every financial event of the chain, oldest first."""
    found, cursor = [], None
    while True:
        query = {"limit": 100, **({} if cursor is None else {"cursor": cursor})}
        page = client.data("GET", "/financial-events", params=query)
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found[::-1]
