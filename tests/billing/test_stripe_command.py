"""``precipiq stripe``: endpoints, secrets that are never arguments, and replays of stored events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import click
import pytest

from precipiq_billing.commands import stored_events
from precipiq_testkit.server import ServerProcess, running_server
from tests.billing import stripe_events as stripe
from tests.billing.stripe_events import Account, money
from tests.system.client import Client

EVENTS = [
    stripe.event("payment_intent.succeeded", stripe.payment_intent(amount=9_000)),
    stripe.event("charge.refunded", stripe.charge(amount=9_000, refunded=1_000)),
    stripe.event("charge.refunded", stripe.charge(amount=9_000, refunded=2_500)),
    stripe.event("customer.created", {"id": "cus_1", "object": "customer"}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server")) as started:
        yield started


def test_an_endpoint_is_made_given_a_secret_used_and_deleted(server: ServerProcess, tmp_path: Path) -> None:
    chain = ("--org", server.org_id, "--env", "test")
    made = json.loads(server.run("stripe", "endpoints", "create", *chain, "--description", "shop", "--json").stdout)
    secret = stripe.new_secret()
    file = tmp_path / "secret"
    file.write_text(secret + "\n")
    setting = ("stripe", "endpoints", "set-secret", made["id"], *chain, "--secret-file", str(file))
    done = server.run(*setting)
    assert secret[-4:] in done.stdout
    assert secret not in done.stdout + done.stderr
    client = Client(server)
    body = stripe.body_of(EVENTS[0])
    path = f"/webhooks/stripe/{made['id']}"
    answer = client.http.post(path, content=body, headers={"stripe-signature": stripe.signature(body, secret)})
    assert answer.json()["data"]["processed"] is True
    listed = json.loads(server.run("stripe", "endpoints", "list", *chain, "--json").stdout)
    assert [item["id"] for item in listed] == [made["id"]]
    file.write_text("sk_live_nothing")
    refused = server.run(*setting, check=False)
    assert (refused.returncode, "whsec_" in refused.stderr) == (2, True)
    assert "sk_live" not in refused.stderr
    server.run("stripe", "endpoints", "delete", made["id"], *chain)
    unknown = server.run("stripe", "endpoints", "delete", made["id"], *chain, check=False)
    assert (unknown.returncode, "Traceback" in unknown.stderr) == (2, False)


def test_stored_events_are_booked_once(server: ServerProcess, tmp_path: Path) -> None:
    client = Client(server, server.create_key("live"))
    Account(client).deliver(EVENTS[2])
    file = tmp_path / "events"
    file.write_text("\n".join(map(json.dumps, EVENTS)) + "\n\n")
    replay = ("stripe", "replay", str(file), "--org", server.org_id, "--env", "live", "--json")
    assert json.loads(server.run(*replay).stdout) == {
        "booked": 1,
        "nothing to book: another event has told of this amount already": 1,
        "duplicate event; already processed": 1,
        "event type not handled": 1,
    }
    assert sum(Decimal(event["amount"]) for event in money(client)) == Decimal("65.00")
    assert json.loads(server.run(*replay).stdout)["duplicate event; already processed"] == 3
    assert len(money(client)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, EVENTS)) + "\n\n",
        json.dumps(EVENTS),
        json.dumps(EVENTS, indent=1),
        json.dumps({"object": "list", "data": EVENTS, "has_more": False}),
        json.dumps({"object": "list", "data": EVENTS, "has_more": False}, indent=1),
        json.dumps({"data": EVENTS[:2]}) + "\n" + json.dumps({"data": EVENTS[2:]}),
    ],
)
def test_events_are_found_however_they_are_stored(tmp_path: Path, text: str) -> None:
    (tmp_path / "events").write_text(text)
    assert list(stored_events(tmp_path / "events")) == EVENTS


@pytest.mark.parametrize("event", [EVENTS[0], stripe.thin_event()])
def test_a_single_event_is_found(tmp_path: Path, event: dict[str, object]) -> None:
    for indent in (None, 2):
        (tmp_path / "events").write_text(json.dumps(event, indent=indent))
        assert list(stored_events(tmp_path / "events")) == [event]


def test_a_file_that_holds_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("{")
    with pytest.raises(click.ClickException, match="is not JSON"):
        list(stored_events(tmp_path / "events"))


def test_what_is_no_event_is_refused_by_its_number(server: ServerProcess, tmp_path: Path) -> None:
    Account(Client(server, server.create_key("live")))
    (tmp_path / "events").write_text('{"a": 1}')
    arguments = ("stripe", "replay", str(tmp_path / "events"), "--org", server.org_id, "--env", "live")
    done = server.run(*arguments, check=False)
    assert (done.returncode, "event 1 of" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
