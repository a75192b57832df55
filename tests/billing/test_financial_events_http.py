"""Financial events over the interface: recorded once, refused by the field, found, streamed, exported, erased."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess
from tests.exports import evidence
from tests.system.client import Client

EVENT = {
    "source": "internal",
    "event_type": "payment",
    "amount": "149",
    "currency": "USD",
    "external_id": "invoice_0042",
    "timestamp": "2026-04-16T12:35:02+02:00",
    "metadata": {"order": "Zoë 🚀", "number": 1234567890123456789012},
}


@pytest.fixture
def client(fresh_client: Client) -> Client:
    """Of an organisation of its own."""
    return fresh_client


def record(client: Client, **changes: Any) -> httpx2.Response:
    return client.http.post("/financial-events", json=EVENT | changes)


def test_an_event_is_recorded_and_read_back(client: Client) -> None:
    answer = record(client)
    assert answer.status_code == 201
    made = json.loads(answer.text)["data"]
    assert (made["amount"], made["currency"], made["timestamp"]) == ("149.00", "USD", "2026-04-16T10:35:02.000000Z")
    assert made["metadata"] == EVENT["metadata"]
    assert (made["object_id"], made["cause"], made["livemode"]) == (None, None, None)
    assert json.loads(client.http.get(f"/financial-events/{made['id']}").text)["data"] == made
    bare = json.loads(record(client, external_id=None, timestamp=None, metadata=None).text)["data"]
    assert bare["timestamp"] == bare["created_at"]
    assert client.verify()["is_valid"]


def test_a_repeat_gives_the_first_and_other_content_is_refused(client: Client) -> None:
    first = record(client)
    left_out = ({"timestamp": None}, {"metadata": None}, {"timestamp": None, "metadata": None})
    written = ({"amount": "149.00"}, {"amount": "+149.0000"}, {"timestamp": "2026-04-16T10:35:02Z"})
    for same in ({}, *written, *left_out):
        again = record(client, **same)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert again.json()["data"] == first.json()["data"]
    for other in (
        {"amount": "150"},
        {"currency": "EUR"},
        {"event_type": "invoice"},
        {"metadata": {}},
        {"metadata": {"order": "B"}, "timestamp": None},
        {"timestamp": "2026-04-16T10:35:03Z", "metadata": None},
        {"amount": "150", "timestamp": None},
    ):
        refused = record(client, **other)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_conflict"), other
    assert record(client, source="manual").status_code == 201, "another source is another event"
    keyed = [
        client.http.post("/financial-events", json=EVENT | {"external_id": None}, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in keyed] == [201, 200]
    assert len(client.data("GET", "/financial-events")["items"]) == 3


def test_what_an_event_had_by_default_may_be_said_by_its_repeat(client: Client) -> None:
    first = record(client, timestamp=None).json()["data"]
    for same in ({"timestamp": None}, {"timestamp": first["timestamp"]}):
        again = record(client, **same)
        assert (again.status_code, again.json()["data"]["id"]) == (200, first["id"])
    assert record(client, timestamp="2026-04-16T10:35:02Z").status_code == 409
    bare = {name: value for name, value in EVENT.items() if name not in ("timestamp", "metadata")}
    assert client.http.post("/financial-events", json=bare).status_code == 200


def test_a_withdrawn_currency_is_taken_for_older_money(client: Client) -> None:
    old = {"currency": "HRK", "timestamp": "2022-06-01T10:00:00Z"}
    assert record(client, **old).status_code == 201
    assert record(client, **old | {"timestamp": None}).status_code == 200, "a repeat may leave its time out"
    assert record(client, currency="BGN", external_id="b", timestamp="2025-12-31").status_code == 201
    for change in ({"external_id": "c", "timestamp": None}, {"external_id": "c", "timestamp": "2026-04-01"}):
        refused = record(client, **old | change)
        assert (refused.status_code, list(refused.json()["error"]["details"])) == (422, ["timestamp"]), change


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"amount": 149}, "amount"),
        ({"amount": 149.5}, "amount"),
        ({"amount": "149.12345"}, "amount"),
        ({"amount": "1e3"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"amount": "1.5", "currency": "JPY"}, "amount"),
        ({"event_type": "refund"}, "amount"),
        ({"event_type": "gift"}, "event_type"),
        ({"source": "paypal"}, "source"),
        ({"currency": "usd"}, "currency"),
        ({"currency": "ZZZ"}, "currency"),
        ({"currency": "XXX"}, "currency"),
        ({"currency": "US"}, "currency"),
        ({"external_id": ""}, "external_id"),
        ({"external_id": "a\x00"}, "external_id"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": 5}, "timestamp"),
        ({"metadata": []}, "metadata"),
        ({"more": 1}, "more"),
    ],
)
def test_wrong_money_is_refused_by_the_field(client: Client, change: dict[str, Any], path: str) -> None:
    answer = record(client, **change)
    assert answer.status_code == 422, answer.text
    assert path in answer.json()["error"]["details"]
    assert client.data("GET", "/financial-events")["items"] == []


def test_events_are_found_by_what_they_say(client: Client) -> None:
    ids = []
    for number, (currency, shop) in enumerate([("USD", "a"), ("EUR", "a"), ("USD", "b"), ("JPY", "b")], 1):
        changes = {"external_id": f"e{number}", "amount": str(number), "currency": currency}
        ids.append(record(client, **changes, metadata={"shop": shop}).json()["data"]["id"])

    def found(**query: str) -> list[str]:
        return [item["id"] for item in client.data("GET", "/financial-events", params=query)["items"]]

    assert found() == ids[::-1]
    assert found(currency="USD") == [ids[2], ids[0]]
    assert found(external_id="e2", source="internal") == [ids[1]]
    assert found(**{"metadata.shop": "b", "currency": "USD"}) == [ids[2]]
    assert found(source="stripe") == []
    assert found(end="2020-01-01") == []
    assert found(start="2020-01-01", end="2999-01-01", limit="2") == [ids[3], ids[2]]
    assert client.http.get("/financial-events", params={"end": "soon"}).status_code == 422
    assert client.http.get("/financial-events/nope").status_code == 404
    decision = client.decide()["decision_id"]
    assert client.http.get(f"/financial-events/{decision}").status_code == 404


def test_nobody_else_sees_or_repeats_an_event(client: Client, shared_server: ServerProcess) -> None:
    made = record(client).json()["data"]
    other = Client(shared_server)
    assert other.http.get(f"/financial-events/{made['id']}").status_code == 404
    assert other.data("GET", "/financial-events", params={"external_id": "invoice_0042"})["items"] == []
    assert record(other).status_code == 201
    reader = Client(shared_server, client.data("POST", "/api-keys", json={"scopes": ["read"]})["key"])
    assert record(reader).status_code == 403


def test_metadata_can_be_erased_and_the_money_stays(client: Client) -> None:
    made = record(client).json()["data"]
    path = f"/financial-events/{made['id']}"
    gone = client.data("POST", f"{path}/redact", json={"reason": "asked for"})
    shown = client.data("GET", path)
    assert (shown["redacted"], shown["redaction_id"]) == (True, gone["redaction_id"])
    assert (shown["metadata"], shown["salt"], shown["amount"]) == (None, None, "149.00")
    again = client.http.post(f"{path}/redact", json={"reason": "twice"})
    assert again.status_code == 409
    assert record(client).status_code == 200, "a repeat still finds it"
    assert client.verify()["is_valid"]


def test_the_stream_and_the_bundle_show_money_and_links(client: Client, tmp_path: Any) -> None:
    decision = client.decide()["decision_id"]
    made = record(client).json()["data"]
    link = {
        "decision_id": decision,
        "financial_event_id": made["id"],
        "correlation_strength": 0.5,
        "link_type": "cost",
        "notes": "a, b",
    }
    linked = client.data("POST", "/links", json=link)
    client.data("DELETE", f"/links/{linked['id']}")
    frames: dict[str, Any] = {}
    with client.http.stream("GET", "/stream", params={"after_seq": 0}) as stream:
        deadline = time.monotonic() + 30
        for line in stream.iter_lines():
            if line.startswith("data:"):
                frame = json.loads(line.partition(":")[2])
                frames[frame["type"]] = frame
            if "liability_estimate.updated" in frames and "link.deleted" in frames:
                break
            assert time.monotonic() < deadline, sorted(frames)
    assert frames["financial_event.created"]["data"] == made
    assert frames["link.created"]["data"] == linked
    assert frames["link.deleted"]["data"]["status"] == "deleted"
    assert frames["liability_estimate.updated"]["data"]["decision_id"] == decision
    bundle = evidence.bundle_of(client, evidence.exported(client))
    files = evidence.members(bundle)
    events = evidence.lines(files["financial_events.jsonl"])
    assert [(event["amount"], event["external_id"]) for event in events] == [("149.00", "invoice_0042")]
    links = list(csv.DictReader(io.StringIO(files["links.csv"].decode("utf-8-sig"))))
    assert [row["kind"] for row in links] == ["link", "link_deleted"]
    assert links[0]["notes"] == "a, b"
    estimates = evidence.lines(files["liability_estimates.jsonl"])
    assert {estimate["decision_id"] for estimate in estimates} == {decision}
    assert evidence.check(bundle, tmp_path)[0] == 0
