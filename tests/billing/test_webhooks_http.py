"""Stripe's deliveries over real sockets: each event of money once, whoever else tries what."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess
from tests.billing import stripe_events as stripe
from tests.billing.stripe_events import Account, money
from tests.system.client import Client


@pytest.fixture
def client(fresh_client: Client) -> Client:
    """Of an organisation of its own."""
    return fresh_client


EVENTS = {
    "payment": ("payment_intent.succeeded", stripe.payment_intent(), ("payment", "20.00", "USD", "pi_1", None)),
    "payment of yen": (
        "payment_intent.succeeded",
        stripe.payment_intent("pi_2", 500, "jpy"),
        ("payment", "500", "JPY", "pi_2", None),
    ),
    "payment of dinars": (
        "payment_intent.succeeded",
        stripe.payment_intent("pi_3", 1230, "kwd"),
        ("payment", "1.230", "KWD", "pi_3", None),
    ),
    "payment of krona": (
        "payment_intent.succeeded",
        stripe.payment_intent("pi_4", 5000, "isk"),
        ("payment", "50", "ISK", "pi_4", None),
    ),
    "payment of shillings": (
        "payment_intent.succeeded",
        stripe.payment_intent("pi_5", 5050, "ugx"),
        ("payment", "50.5", "UGX", "pi_5", None),
    ),
    "payment in part": (
        "payment_intent.succeeded",
        stripe.payment_intent("pi_6", 2000, amount_received=1500),
        ("payment", "15.00", "USD", "pi_6", None),
    ),
    "refund": ("charge.refunded", stripe.charge(), ("refund", "-5.00", "USD", "ch_1", "pi_1")),
    "refund of the old": (
        "charge.refunded",
        stripe.charge("ch_2", payment_intent={"id": "pi_9", "object": "payment_intent"}),
        ("refund", "-5.00", "USD", "ch_2", "pi_9"),
    ),
    "refund of what was captured": (
        "charge.refunded",
        stripe.charge("ch_3", 2000, 1500, amount_captured=1200),
        ("refund", "-7.00", "USD", "ch_3", "pi_1"),
    ),
    "payment without an intent": (
        "charge.succeeded",
        stripe.charge("ch_4", 2000, 0, payment_intent=None),
        ("payment", "20.00", "USD", "ch_4", None),
    ),
    "capture in part without an intent": (
        "charge.captured",
        stripe.charge("ch_5", 2000, 800, amount_captured=1200, payment_intent=None),
        ("payment", "12.00", "USD", "ch_5", None),
    ),
    "dispute": (
        "charge.dispute.created",
        stripe.dispute(balance_transactions=[stripe.balance_transaction()]),
        ("chargeback", "-7.00", "USD", "dp_1", "pi_1"),
    ),
    "withdrawal in the account's currency": (
        "charge.dispute.funds_withdrawn",
        stripe.dispute("dp_2", balance_transactions=[stripe.balance_transaction(amount=-650, currency="eur")]),
        ("chargeback", "-6.50", "EUR", "dp_2", "pi_1"),
    ),
    "withdrawal of the old": (
        "charge.dispute.funds_withdrawn",
        stripe.without(stripe.dispute("dp_3"), "balance_transactions"),
        ("chargeback", "-7.00", "USD", "dp_3", "pi_1"),
    ),
    "reinstatement in part": (
        "charge.dispute.closed",
        stripe.dispute(
            "dp_1",
            status="lost",
            balance_transactions=[stripe.balance_transaction(), stripe.balance_transaction("txn_2", 200)],
        ),
        ("other", "2.00", "USD", "dp_1", "pi_1"),
    ),
    "dispute without an id": (
        "charge.dispute.funds_reinstated",
        stripe.without(stripe.dispute(charge="ch_7"), "id", "payment_intent", "balance_transactions"),
        ("other", "7.00", "USD", "ch_7", "ch_7"),
    ),
    "refund that failed": ("refund.failed", stripe.refund(amount=300), ("other", "3.00", "USD", "ch_1", "pi_1")),
}


def test_each_event_of_money_is_booked_with_its_type_sign_amount_and_currency(client: Client) -> None:
    account = Account(client)
    for kind, obj, expected in EVENTS.values():
        # All in one second but the failure, which is of later.
        created = 1_790_000_000 + (kind == "refund.failed")
        content = stripe.event(kind, {**obj, "metadata": {"order": "A-1"}}, livemode=True, created=created)
        done = account.deliver(content)
        assert done == {"processed": True, "reason": None, "financial_event_id": done["financial_event_id"]}
        found = client.data("GET", f"/financial-events/{done['financial_event_id']}")
        names = ("event_type", "amount", "currency", "object_id", "related_id")
        assert tuple(found[name] for name in names) == expected
        assert (found["source"], found["external_id"], found["cause"]) == ("stripe", content["id"], kind)
        assert found["timestamp"] == f"2026-09-21T14:13:2{created % 10}.000000Z"
        assert found["livemode"] is True
        assert found["metadata"]["order"] == "A-1"
    assert len(money(client)) == len(EVENTS)
    assert client.verify()["is_valid"]


def test_what_is_no_money_is_taken_and_books_nothing(client: Client) -> None:
    account = Account(client)
    refused = {"processed": False, "reason": "event type not handled", "financial_event_id": None}
    for kind in ("customer.created", "invoice.paid", "payout.paid", "checkout.session.async_payment_succeeded"):
        assert account.deliver(stripe.event(kind, {"id": "x_1", "object": "x"})) == refused
    assert "thin event" in account.deliver(stripe.thin_event())["reason"]
    for status in ("lost", "won", "prevented", "warning_needs_response"):
        moved = account.deliver(stripe.event("charge.dispute.closed", stripe.dispute(status=status)))
        assert (moved["processed"], moved["reason"]) == (False, "nothing to book: the amount is 0"), status
    told = account.deliver(stripe.event("charge.succeeded", stripe.charge()))
    assert (told["processed"], told["reason"]) == (False, "the payment intent tells of this payment")
    crypto = account.deliver(stripe.event("payment_intent.succeeded", stripe.payment_intent(currency="usdc")))
    assert (crypto["processed"], crypto["reason"]) == (False, "the currency is not in ISO 4217")
    zero = account.deliver(stripe.event("charge.refunded", stripe.charge(refunded=0)))
    assert (zero["processed"], zero["reason"]) == (False, "nothing to book: the amount is 0")
    empty = stripe.body_of(stripe.event("charge.refunded", {}))
    for broken in (b"[]", b"{", b'{"object": "event"}', b"nothing", empty):
        answer = account.send(broken)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_a_stripe_event")
    assert money(client) == []


def test_the_same_bytes_a_hundred_times_from_ten_connections_are_one_event(client: Client) -> None:
    account = Account(client)
    body = stripe.body_of(stripe.event("payment_intent.succeeded", stripe.payment_intent()))
    headers = {"stripe-signature": stripe.signature(body, account.secret), "content-type": "application/json"}

    def send(_: int) -> list[Any]:
        with httpx2.Client(base_url=client.http.base_url, timeout=60) as connection:
            answers = [connection.post(account.path, content=body, headers=headers) for _ in range(10)]
        return [answer.json()["data"] for answer in answers]

    with ThreadPoolExecutor(10) as threads:
        done = [data for answers in threads.map(send, range(10)) for data in answers]
    assert sum(data["processed"] for data in done) == 1
    assert len({data["financial_event_id"] for data in done}) == 1
    assert {data["reason"] for data in done} == {None, "duplicate event; already processed"}
    assert [found["amount"] for found in money(client)] == ["20.00"]


def test_cumulative_refunds_are_booked_as_differences_in_any_order(client: Client) -> None:
    account = Account(client)
    events = [stripe.event("charge.refunded", stripe.charge(refunded=total)) for total in (300, 1200, 800, 2000)]
    for content in events:
        account.deliver(content)
    late = account.deliver(events[2])
    assert [found["amount"] for found in money(client)] == ["-3.00", "-9.00", "-8.00"]
    assert sum(Decimal(found["amount"]) for found in money(client)) == Decimal("-20.00")
    assert (late["processed"], late["reason"]) == (False, "duplicate event; already processed")
    assert late["financial_event_id"] == money(client)[-1]["id"], "the event that tells of its amount"


def test_the_key_header_finds_the_organisation_too(
    client: Client, shared_server: ServerProcess, spare_keys: list[str]
) -> None:
    account = Account(client)
    path = "/financial-events/webhook/stripe"
    content = stripe.event("payment_intent.succeeded", stripe.payment_intent())
    assert account.deliver(content, path)["processed"] is True
    assert account.deliver(content)["reason"] == "duplicate event; already processed"
    assert account.send(content, "t=1,v1=00", path).json()["error"]["code"] == "signature_invalid"
    other = Client(shared_server, spare_keys.pop())
    foreign = Account(other)
    foreign.path = account.path
    assert foreign.send(content).status_code == 400, "another organisation's secret opens nothing"
    with httpx2.Client(base_url=client.http.base_url) as nobody:
        assert nobody.post(path, content=b"{}").status_code == 401
        assert nobody.post("/webhooks/stripe/we_0000", content=b"{}").status_code == 404
    assert money(other) == []


def test_a_secret_is_rolled_with_a_grace_and_forgotten_after_it(client: Client) -> None:
    account = Account(client, description="shop")
    old, new = account.secret, stripe.new_secret()
    secret_path = f"/integrations/stripe/endpoints/{account.endpoint['id']}/secret"
    rolled = client.data("POST", secret_path, json={"secret": new, "grace_seconds": 600})
    assert rolled["secret_hint"] == new[-4:]
    until = rolled["previous_secret_good_until"]
    assert until is not None
    again = client.data("POST", secret_path, json={"secret": new})
    assert again["previous_secret_good_until"] == until, "the same secret again changes nothing"

    def status(secret: str) -> int:
        account.secret = secret
        return int(account.send(stripe.event("charge.refunded", stripe.charge())).status_code)

    newest = stripe.new_secret()
    assert [status(secret) for secret in (old, new, newest)] == [200, 200, 400]
    client.data("POST", secret_path, json={"secret": newest, "grace_seconds": 1})
    assert [status(secret) for secret in (old, newest)] == [400, 200]
    deadline = time.monotonic() + 30
    while status(new) == 200:
        assert time.monotonic() < deadline, "the grace does not end"
        time.sleep(0.05)
    assert [status(secret) for secret in (new, newest)] == [400, 200]
    kinds = [entry["statement"]["kind"] for entry in client.entries()]
    assert (kinds.count("stripe_endpoint_created"), kinds.count("stripe_endpoint_secret_set")) == (1, 2)
    client.data("DELETE", f"/integrations/stripe/endpoints/{account.endpoint['id']}")
    assert account.send(stripe.event("charge.refunded", stripe.charge())).status_code == 404


def test_an_endpoint_is_made_before_its_secret_is_known(client: Client, shared_server: ServerProcess) -> None:
    path = "/integrations/stripe/endpoints"
    made = client.data("POST", path, json={"description": "a"}, headers={"Idempotency-Key": "k1"})
    again = client.data("POST", path, json={"description": "a"}, headers={"Idempotency-Key": "k1"})
    assert (made["id"], made["has_secret"], made["secret_hint"]) == (again["id"], False, None)
    other = client.http.post(path, json={"description": "b"}, headers={"Idempotency-Key": "k1"})
    assert other.json()["error"]["code"] == "idempotency_conflict"
    answer = client.http.post(f"/webhooks/stripe/{made['id']}", content=b"{}", headers={"stripe-signature": "t=1,v1=0"})
    assert answer.json()["error"]["code"] == "signature_invalid"
    for secret in ("sk_live_x" * 4, "whsec_short", "whsec_" + "ü" * 30, 5, None):
        wrong = client.http.post(f"{path}/{made['id']}/secret", json={"secret": secret})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "validation_error"), secret
        assert str(secret) not in wrong.text or secret in (5, None)
    long = client.http.post(f"{path}/{made['id']}/secret", json={"secret": stripe.new_secret(), "grace_seconds": 10**9})
    assert long.json()["error"]["details"] == {"grace_seconds": ["must be <= 604800"]}
    reader = Client(shared_server, client.data("POST", "/api-keys", json={"scopes": ["read"]})["key"])
    assert reader.http.get(path).status_code == 403
    assert Client(shared_server).http.get(f"{path}/{made['id']}").status_code == 404
    for _ in range(15):
        client.data("POST", path, json={})
    full = client.http.post(path, json={})
    assert (full.status_code, full.json()["error"]["code"]) == (409, "too_many_endpoints")
    assert len(client.data("GET", path)["items"]) == 16


def test_a_stored_secret_is_wrapped_and_nothing_tells_it(client: Client, shared_server: ServerProcess) -> None:
    account = Account(client)
    account.deliver(stripe.event("payment_intent.succeeded", stripe.payment_intent()))
    account.send(b"{}", "t=1,v1=" + "0" * 64)
    rows = json.dumps(shared_server.sql("SELECT * FROM stripe_endpoints"), default=str)
    listed = client.http.get("/integrations/stripe/endpoints").text
    metrics = httpx2.get(f"{shared_server.url}/metrics").text
    for text in (rows, listed, metrics, shared_server.log_text(), json.dumps(client.entries())):
        assert account.secret not in text
        assert account.secret.removeprefix("whsec_") not in text
    assert account.secret[-4:] in listed
