"""Links over the interface: made, repeated, refused, answered and ended; a read after a write sees it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from precipiq_testkit.server import ServerProcess
from tests.system.client import Client


@pytest.fixture
def client(fresh_client: Client) -> Client:
    """Of an organisation of its own."""
    return fresh_client


def paid(client: Client, amount: str = "10.00", **more: Any) -> str:
    """A new financial event's id."""
    event = {"source": "manual", "event_type": "other", "amount": amount, "currency": "USD", **more}
    return str(client.data("POST", "/financial-events", json=event)["id"])


def link(decision_id: str, event_id: str, **more: Any) -> dict[str, Any]:
    """As the public client sends it."""
    return {
        "decision_id": decision_id,
        "financial_event_id": event_id,
        "correlation_strength": 1.0,
        "attribution_method": "manual",
        "link_type": "revenue",
        "notes": None,
        **more,
    }


def pnl(client: Client, **query: str) -> Any:
    return client.data("GET", "/analytics/ai-pnl", params=query)


def test_a_link_lives_counts_and_ends(client: Client) -> None:
    decision, event = client.decide(1)["decision_id"], paid(client, "12.3456", timestamp="2026-05-05T05:05:05Z")
    content = link(decision, event, correlation_strength=0.9, notes="why")
    made = client.data("POST", "/links", json=content)
    assert (made["status"], made["correlation_strength"]) == ("active", 0.9)
    assert (made["amount"], made["currency"], made["agent_id"], made["notes"]) == ("12.3456", "USD", "agent-1", "why")
    assert (pnl(client)["total_revenue_attributed"], pnl(client)["link_count"]) == ("12.35", 1)
    assert client.data("GET", f"/links/{made['id']}") == made
    again = client.http.post("/links", json=content)
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()["data"]) == (200, "true", made)
    for change in ({"link_type": "cost"}, {"correlation_strength": 1}, {"notes": "x"}, {"attribution_method": "x"}):
        other = client.http.post("/links", json=content | change)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "link_conflict"), change
    deleted = client.data("DELETE", f"/links/{made['id']}")
    assert (deleted["status"], deleted["deleted_at"] is not None) == ("deleted", True)
    assert client.data("DELETE", f"/links/{made['id']}") == deleted
    assert (pnl(client)["total_revenue_attributed"], pnl(client)["link_count"]) == ("0.00", 0)
    anew = client.data("POST", "/links", json=link(decision, event, link_type="cost"))
    assert anew["id"] != made["id"]
    listed = client.data("GET", "/links", params={"decision_id": decision})["items"]
    assert [(item["id"], item["status"]) for item in listed] == [(anew["id"], "active"), (made["id"], "deleted")]
    raw = [entry["statement"]["kind"] for entry in client.entries()]
    assert [kind for kind in raw if kind.startswith("link")] == ["link", "link_deleted", "link"]
    assert client.verify()["is_valid"]


def test_a_link_names_both_ends_with_their_hashes(client: Client) -> None:
    decision = client.decide(2, confidence=0.2, human_in_loop=True)
    event = client.data("GET", f"/financial-events/{paid(client)}")
    client.data("POST", "/links", json=link(decision["decision_id"], event["id"]))
    body = next(entry["statement"]["body"] for entry in client.entries() if entry["statement"]["kind"] == "link")
    assert (body["decision_seq"], body["decision_hash"]) == (decision["seq"], decision["hash"])
    assert (body["financial_event_seq"], body["financial_event_hash"]) == (event["seq"], event["hash"])
    assert (body["low_confidence"], body["human_in_loop"]) == (True, True)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"correlation_strength": 1.01}, "correlation_strength"),
        ({"correlation_strength": -0.01}, "correlation_strength"),
        ({"correlation_strength": "1"}, "correlation_strength"),
        ({"correlation_strength": True}, "correlation_strength"),
        ({"link_type": "profit"}, "link_type"),
        ({"attribution_method": "ml_inferred"}, "attribution_method"),
        ({"attribution_method": ""}, "attribution_method"),
        ({"notes": "a\x00b"}, "notes"),
        ({"notes": "x" * 4001}, "notes"),
        ({"more": 1}, "more"),
        ({"decision_id": ""}, "decision_id"),
    ],
)
def test_a_wrong_link_is_refused_by_the_field(client: Client, change: dict[str, Any], path: str) -> None:
    answer = client.http.post("/links", json=link("d", "e") | change)
    assert answer.status_code == 422, answer.text
    assert any(name.startswith(path) for name in answer.json()["error"]["details"])


def test_both_ends_must_be_there_and_be_what_they_are_called(client: Client, shared_server: ServerProcess) -> None:
    decision, event = client.decide()["decision_id"], paid(client)
    foreign = Client(shared_server)
    ends = (foreign.decide()["decision_id"], paid(foreign))
    for one, other in ((event, decision), (decision, decision), (ends[0], event), (decision, ends[1]), ("x", event)):
        answer = client.http.post("/links", json=link(one, other))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    mine = client.data("POST", "/links", json=link(decision, event))
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/confirm"), ("POST", "/reject")):
        assert foreign.http.request(method, f"/links/{mine['id']}{path}").status_code == 404
    own = {item["decision_id"] for item in foreign.data("GET", "/links")["items"]}
    assert own <= {ends[0]}  # a suggestion may have been made of its own decision and event


def test_an_idempotency_key_covers_a_link_as_any_other_write(client: Client) -> None:
    decision, event, other = client.decide()["decision_id"], paid(client), paid(client)
    headers = {"Idempotency-Key": "once"}
    first = client.data("POST", "/links", json=link(decision, event), headers=headers)
    client.data("DELETE", f"/links/{first['id']}")
    again = client.data("POST", "/links", json=link(decision, event), headers=headers)
    assert (again["id"], again["status"]) == (first["id"], "deleted"), "a retry does not bring it back"
    refused = client.http.post("/links", json=link(decision, other), headers=headers)
    assert refused.json()["error"]["code"] == "idempotency_conflict"


def test_only_what_the_worker_made_can_be_answered(client: Client) -> None:
    made = client.data("POST", "/links", json=link(client.decide()["decision_id"], paid(client)))
    for answer in ("confirm", "reject"):
        refused = client.http.post(f"/links/{made['id']}/{answer}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_a_suggestion")


def test_twenty_who_link_the_same_pair_at_once_make_one_link(client: Client) -> None:
    decision, event = client.decide()["decision_id"], paid(client)

    def create(number: int) -> Any:
        strength = 1.0 if number % 2 else 0.5
        return client.http.post("/links", json=link(decision, event, correlation_strength=strength))

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(create, range(20)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == 1
    assert (statuses.count(200), statuses.count(409)) == (9, 10)
    assert len(client.data("GET", "/links")["items"]) == 1
    assert pnl(client)["total_revenue_attributed"] == "10.00"


def test_pages_of_links_are_whole_and_in_order(client: Client) -> None:
    decision = client.decide()["decision_id"]
    made = [client.data("POST", "/links", json=link(decision, paid(client)))["id"] for _ in range(7)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.data("GET", "/links", params={"limit": 3, **cursor})
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == made[::-1]
    assert client.http.get("/links", params={"limit": 10**6}).status_code == 422
    assert client.http.get("/links", params={"cursor": "x"}).status_code == 422


def test_erased_notes_are_gone_from_the_lists_too(client: Client, shared_server: ServerProcess) -> None:
    made = client.data("POST", "/links", json=link(client.decide()["decision_id"], paid(client), notes="about Zoë"))
    assert client.data("GET", "/links")["items"][0]["notes"] == "about Zoë", "it was taken in before it is erased"
    gone = client.data("POST", f"/links/{made['id']}/redact", json={"reason": "asked for"})
    assert (gone["link_id"], gone["seq"] > made["seq"]) == (made["id"], True)
    assert client.data("GET", f"/links/{made['id']}")["notes"] is None
    assert client.data("GET", "/links")["items"][0]["notes"] is None
    rows = shared_server.sql(f"SELECT notes FROM outcome_links WHERE link_id = '{made['id']}'")
    assert [tuple(row) for row in rows] == [(None,)]
    assert client.http.post(f"/links/{made['id']}/redact", json={"reason": "twice"}).status_code == 409
    decision = client.decide()["decision_id"]
    assert client.http.post(f"/links/{decision}/redact", json={"reason": "no link"}).status_code == 404
