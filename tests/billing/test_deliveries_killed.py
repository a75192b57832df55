"""A server that is killed between two steps of a delivery loses none and books none twice; neither do two nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import httpx2
import pytest

from precipiq_billing.delivery_rows import sealed_delivery
from precipiq_testkit.macs import row_macs_of
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.billing import stripe_events as stripe
from tests.billing.stripe_events import Account, money
from tests.effort import rounds
from tests.exports.evidence import restarted
from tests.system.client import Client
from tests.system.organisations import organisations

pytestmark = [pytest.mark.slow, pytest.mark.system]

CHARGES = rounds(20, long=60)
KILLS = rounds(2, long=4)


def test_nothing_that_was_answered_is_lost_and_nothing_is_booked_twice(shared_server: ServerProcess) -> None:
    """Stripe delivers again what was not answered: in the end each charge is booked once, in full."""
    [(_, key)] = organisations(shared_server, 1)
    client = Client(shared_server, key)
    account = Account(client)
    deliveries = [
        stripe.body_of(stripe.event("charge.refunded", stripe.charge(f"ch_{number}", refunded=total)))
        for number in range(CHARGES)
        for total in (500, 1500, 2000)
    ]
    answered: set[bytes] = set()
    is_over = threading.Event()

    def keep_sending(part: list[bytes]) -> None:
        with httpx2.Client(base_url=client.http.base_url, timeout=10) as connection:
            while not is_over.is_set() and (left := [body for body in part if body not in answered]):
                for body in left:
                    headers = {"stripe-signature": stripe.signature(body, account.secret)}
                    try:
                        if connection.post(account.path, content=body, headers=headers).status_code == 200:
                            answered.add(body)
                    except httpx2.HTTPError:
                        time.sleep(0.05)

    with ThreadPoolExecutor(4) as threads:
        sending = [threads.submit(keep_sending, deliveries[number::4]) for number in range(4)]
        for kill in range(1, KILLS + 1):
            wait_for(partial(_has, answered, len(deliveries) * kill // (KILLS + 1)))
            restarted(shared_server)
        for done in sending:
            done.result(timeout=120)
        is_over.set()
    assert len(answered) == len(deliveries)
    wait_for(lambda: not unsealed(shared_server))
    events = money(client)
    by_charge: dict[str, Decimal] = {}
    for event in events:
        by_charge[event["object_id"]] = by_charge.get(event["object_id"], Decimal(0)) + Decimal(event["amount"])
    assert by_charge == {f"ch_{number}": Decimal("-20.00") for number in range(CHARGES)}
    assert len({event["external_id"] for event in events}) == len(events)
    assert client.verify()["is_valid"]


def test_a_delivery_that_was_stored_but_not_sealed_is_sealed_later(shared_server: ServerProcess) -> None:
    """What a kill between the two leaves, made by hand: the row is there, the entry is not."""
    client = Client(shared_server)
    account = Account(client)
    account.deliver(stripe.event("payment_intent.succeeded", stripe.payment_intent("pi_seen")))
    wait_for(lambda: not unsealed(shared_server))
    draft = (
        '{"sign":-1,"event_type":"refund","currency":"USD","occurred_at":"2026-01-01T00:00:00.000000Z",'
        '"metadata":{},"object_id":"ch_9","related_id":null,"cause":"charge.refunded","livemode":false}'
    )
    row = {"org_id": shared_server.org_id, "environment": "test", "event_id": "evt_left", "register": "refund:ch_9:USD",
           "total": 700, "difference": 700, "draft": draft, "entry_id": None, "received_us": 1, "version": 1,
           "created_s": 1, "told": None}  # fmt: skip
    values = {**row, "mac": row_macs_of(shared_server.data_dir).mac(sealed_delivery(row))}
    shared_server.sql(
        f"INSERT INTO stripe_deliveries ({', '.join(values)})"
        f" VALUES ({', '.join('NULL' if value is None else repr(value) for value in values.values())})"
    )
    wait_for(lambda: any(event["external_id"] == "evt_left" for event in money(client)))
    left = next(event for event in money(client) if event["external_id"] == "evt_left")
    assert (left["amount"], left["event_type"], left["object_id"]) == ("-7.00", "refund", "ch_9")
    wait_for(lambda: not unsealed(shared_server))
    assert left["id"] in str(shared_server.sql("SELECT entry_id FROM stripe_deliveries WHERE event_id = 'evt_left'"))


@pytest.fixture
def two_nodes(
    server_database: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    with running_server(tmp_path_factory.mktemp("one"), postgres=server_database) as one:
        other_folder = tmp_path_factory.mktemp("other")
        (other_folder / "data").mkdir()
        for name in ("master.key", "vault.key"):
            (other_folder / "data" / name).write_bytes((one.data_dir / name).read_bytes())
            (other_folder / "data" / name).chmod(0o600)
        with running_server(other_folder, postgres=server_database) as other:
            yield one, other


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_two_nodes_that_get_the_same_deliveries_book_them_once(two_nodes: tuple[ServerProcess, ServerProcess]) -> None:
    one, other = two_nodes
    client, beside = Client(one), Client(other, one.key)
    account = Account(client)
    bodies = [
        stripe.body_of(stripe.event("charge.refunded", stripe.charge(refunded=total)))
        for total in range(100, 2001, 100)
    ]

    def send(number: int) -> Any:
        body = bodies[number % len(bodies)]
        headers = {"stripe-signature": stripe.signature(body, account.secret)}
        through = (client, beside)[number % 3 == 0]
        return through.http.post(account.path, content=body, headers=headers).json()["data"]

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(send, [*range(40), *range(39, -1, -1)]))
    events = money(beside)
    assert sum(Decimal(event["amount"]) for event in events) == Decimal("-20.00")
    assert sum(data["processed"] for data in done) == len(events)
    secret = stripe.new_secret()
    beside.data("POST", f"/integrations/stripe/endpoints/{account.endpoint['id']}/secret", json={"secret": secret})
    account.secret = secret
    wait_for(lambda: account.send(bodies[0]).status_code == 200)


def _has(answered: set[bytes], count: int) -> bool:
    return len(answered) >= count


def unsealed(server: ServerProcess) -> list[Any]:
    return server.sql("SELECT event_id FROM stripe_deliveries WHERE draft IS NOT NULL")


def wait_for(condition: Any, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
