"""``precipiq stripe``: endpoints, secrets that are never arguments, and replays of stored events."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import click
import pytest

from precipiq_billing import event_files
from precipiq_billing.event_files import stored_events
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
    assert json.loads(server.run_warm(*replay).stdout) == {
        "booked": 1,
        "nothing to book: another event has told of this amount already": 1,
        "duplicate event; already processed": 1,
        "event type not handled": 1,
    }
    assert sum(Decimal(event["amount"]) for event in money(client)) == Decimal("65.00")
    assert json.loads(server.run_warm(*replay).stdout)["duplicate event; already processed"] == 3
    assert len(money(client)) == 2


def test_a_replay_that_leaves_money_out_says_so(server: ServerProcess, tmp_path: Path) -> None:
    Account(Client(server, server.create_key("live")))
    left_out = [stripe.event(kind, {"id": "x_1"}) for kind in ("payout.paid", "payout.paid", "charge.brand_new")]
    (tmp_path / "events").write_text("".join(map(json.dumps, [*left_out, EVENTS[3]])))
    replay = ("stripe", "replay", str(tmp_path / "events"), "--org", server.org_id, "--env", "live")
    done = server.run_warm(*replay, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("these move money and were not booked: payout.paid (2), charge.brand_new (1)\n")
    as_json = server.run_warm(*replay, "--json", check=False)
    assert (as_json.returncode, json.loads(as_json.stdout)) == (
        1,
        {"event type not handled": 4, "unhandled": {"payout.paid": 2, "charge.brand_new": 1}},
    )


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("between", ["", "\n", "\r\n\r\n  \n"])
@pytest.mark.parametrize("indent", [None, 2])
def test_documents_one_after_another_are_found_in_any_encoding(
    tmp_path: Path, encoding: str, between: str, indent: int | None
) -> None:
    named = [{**event, "note": 'Zoë 🚀 "[]{}", \\'} for event in EVENTS]
    documents = [named[0], {"object": "list", "data": named[1:3]}, [named[3]], [], [{"data": named}]]
    text = between + between.join(json.dumps(each, indent=indent, ensure_ascii=False) for each in documents) + between
    (tmp_path / "events").write_bytes(text.encode(encoding))
    assert list(stored_events(tmp_path / "events")) == [*named, *named]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_documents_are_found_wherever_a_read_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(event_files, "_BYTES_READ", size)
    text = json.dumps(EVENTS) + json.dumps(EVENTS[0]) + '[1.5e3, "a\\u00fc", null, -12]\n12 true\n'
    (tmp_path / "events").write_text(text)
    assert list(stored_events(tmp_path / "events")) == [*EVENTS, EVENTS[0], 1500.0, "aü", None, -12, 12, True]


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_large_file_is_read_in_little_memory(tmp_path: Path, form: str) -> None:
    line = json.dumps({**EVENTS[0], "note": "x" * 10_000})
    before, between, after = ("[", ",\n", "]") if form == "array" else ("", "\n", "\n")
    with (tmp_path / "events").open("w") as file:
        file.write(before + between.join([line] * 2_000) + after)
    tracemalloc.start()
    assert sum(1 for _ in stored_events(tmp_path / "events")) == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000, "of 20 MB"


@pytest.mark.parametrize("event", [EVENTS[0], stripe.thin_event()])
def test_a_single_event_is_found(tmp_path: Path, event: dict[str, object]) -> None:
    for indent in (None, 2):
        (tmp_path / "events").write_text(json.dumps(event, indent=indent))
        assert list(stored_events(tmp_path / "events")) == [event]


@pytest.mark.parametrize(
    "text",
    ["{", "", "\n \n", "[1", "[1 2]", "[1,]", "[,]", "]", '"a', "{}}", "nul", "[" * 100_000, "\ufffe{", "{\udcff}"],
)
def test_a_file_that_holds_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "events").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(click.ClickException, match="is not JSON"):
        list(stored_events(tmp_path / "events"))


def test_a_long_file_that_is_no_json_is_refused_where_that_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "_BYTES_READ", 1_000)
    (tmp_path / "events").write_text("{x" + " " * 100_000)
    reads: list[int] = []
    read_more = event_files._Documents._read_more

    def counted(documents: event_files._Documents) -> bool:
        reads.append(1)
        return read_more(documents)

    monkeypatch.setattr(event_files._Documents, "_read_more", counted)
    with pytest.raises(click.ClickException, match="is not JSON"):
        list(stored_events(tmp_path / "events"))
    assert len(reads) == 1


def test_what_is_no_event_is_refused_by_its_number(server: ServerProcess, tmp_path: Path) -> None:
    Account(Client(server, server.create_key("live")))
    (tmp_path / "events").write_text('{"a": 1}')
    arguments = ("stripe", "replay", str(tmp_path / "events"), "--org", server.org_id, "--env", "live")
    done = server.run_warm(*arguments, check=False)
    assert (done.returncode, "event 1 of" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
