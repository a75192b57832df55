"""Every endpoint that takes a time takes the same ones: found in the interface's own description."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.client import Client

TIME_NAMES = {"start", "end", "timestamp", "expires_at"}
INSIDE = ("1000-01-01", "9999-12-31", "9999-12-31T23:59:59.999999Z")
OUTSIDE = ("0999-12-31", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1-1-1")
BODIES = {
    "/api/v1/financial-events": {"source": "manual", "event_type": "other", "amount": "1", "currency": "USD"},
    "/api/v1/api-keys": {},
    "/api/v1/exports": {},
}
"""What a body needs besides its times."""


def queries(document: Any) -> set[tuple[str, str]]:
    """(path, name) of every query parameter that is a time."""
    return {
        (path, parameter["name"])
        for path, item in document["paths"].items()
        for parameter in item.get("get", {}).get("parameters", ())
        if parameter["in"] == "query" and parameter["name"] in TIME_NAMES
    }


def bodies(document: Any) -> set[tuple[str, str]]:
    """(path, name) of every member of a body that is a time."""
    found = set()
    for path, item in document["paths"].items():
        content = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        properties = document["components"]["schemas"].get(name, {}).get("properties", {})
        found |= {(path, member) for member in properties if member in TIME_NAMES}
    return found


@pytest.fixture
def client(fresh_client: Client) -> Client:
    return fresh_client


@pytest.fixture
def document(client: Client) -> Any:
    return client.http.get(str(client.http.base_url.join("/openapi.json"))).json()


def test_every_query_takes_the_same_times(client: Client, document: Any) -> None:
    asked = queries(document)
    assert {path for path, _ in asked} >= {
        "/api/v1/decisions",
        "/api/v1/financial-events",
        "/api/v1/analytics/ai-pnl",
        "/api/v1/analytics/timeline",
        "/api/v1/analytics/liability",
    }
    for path, name in sorted(asked):
        for text in (*INSIDE, *OUTSIDE):
            answer = client.http.get(str(client.http.base_url.join(path)), params={name: text})
            if text in INSIDE:
                is_too_long = path.endswith("/timeline") and name == "start" and text.startswith("1000")
                assert answer.status_code == (422 if is_too_long else 200), (path, name, text, answer.text)
            else:
                assert answer.status_code == 422, (path, name, text)
                assert list(answer.json()["error"]["details"]) == [name]


@pytest.mark.parametrize("interval", ["day", "week", "month"])
def test_a_timeline_may_end_with_time_itself(client: Client, interval: str) -> None:
    query = {"interval": interval, "start": "9999-12-30", "end": "9999-12-31"}
    assert client.data("GET", "/analytics/timeline", params=query)["points"][-1]["end"].startswith("9999-12-31T23:59")
    assert client.data("GET", "/analytics/timeline", params={"interval": interval, "end": "1000-01-01"})["points"]


def test_every_body_takes_the_same_times(client: Client, document: Any) -> None:
    taken = bodies(document)
    assert {path for path, _ in taken} == set(BODIES)
    for path, name in sorted(taken):
        url = str(client.http.base_url.join(path))
        for text in OUTSIDE:
            answer = client.http.post(url, json=BODIES[path] | {name: text})
            assert answer.status_code == 422, (path, name, text)
            assert list(answer.json()["error"]["details"]) == [name]
    for text in INSIDE:
        event = client.data("POST", "/financial-events", json=BODIES["/api/v1/financial-events"] | {"timestamp": text})
        link = {"decision_id": client.decide()["decision_id"], "financial_event_id": event["id"]}
        made = client.data("POST", "/links", json=link | {"correlation_strength": 1, "link_type": "neutral"})
        assert client.data("GET", f"/links/{made['id']}")["decision_id"] == link["decision_id"]
    assert client.verify()["is_valid"]
