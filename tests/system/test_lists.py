"""Every list takes ``limit`` and honours it: the lists are found in the interface's own description."""

from __future__ import annotations

from typing import Any

import pytest

from precipiq_testkit.server import ServerProcess
from tests.exports.evidence import ended
from tests.system.client import Client

PREFIX = "/api/v1"
ITEMS = 3


def resolved(schema: Any, document: Any) -> Any:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def lists(document: Any) -> dict[str, set[str]]:
    """Path -> query parameters, of every GET that answers ``items``."""
    found = {}
    for path, item in document["paths"].items():
        answer = item.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json", {})
        schema = resolved(answer.get("schema", {}), document)
        data = resolved(schema.get("properties", {}).get("data", {}), document)
        if "items" in data.get("properties", {}):
            parameters = item["get"].get("parameters", ())
            found[path] = {each["name"] for each in parameters if each["in"] == "query"}
    return found


@pytest.fixture(scope="module")
def client(shared_server: ServerProcess, spare_keys: list[str]) -> Client:
    """Of an organisation that has some of everything, for all tests: none takes anything away."""
    client = Client(shared_server, spare_keys.pop())
    for number in range(ITEMS):
        decision = client.decide(number)["decision_id"]
        event = {"source": "manual", "event_type": "other", "amount": "1.00", "currency": "USD"}
        ends = {
            "decision_id": decision,
            "financial_event_id": client.data("POST", "/financial-events", json=event)["id"],
        }
        client.data("POST", "/links", json=ends | {"correlation_strength": 1, "link_type": "neutral"})
        client.data("POST", "/api-keys", json={})
        client.data("POST", "/exports/signing-keys/rotate")
        ended(client, client.data("POST", "/exports", json={"agent_id": "nobody", "formats": ["csv"]})["id"])
        client.data("POST", "/integrations/stripe/endpoints", json={"description": f"shop {number}"})
    for export in client.data("GET", "/exports")["items"]:
        assert client.http.get(f"/exports/{export['id']}/download").status_code == 200
    return client


@pytest.fixture(scope="module")
def document(client: Client) -> Any:
    return client.http.get(str(client.http.base_url.join("/openapi.json"))).json()


def ids(page: Any) -> list[Any]:
    return [each.get("id") or each.get("key_id") or each["hash"] for each in page["items"]]


def test_every_list_takes_a_limit_and_pages_give_what_the_whole_list_gives(client: Client, document: Any) -> None:
    found = lists(document)
    assert set(found) >= {
        f"{PREFIX}/{name}"
        for name in (
            *("decisions", "ledger/entries", "financial-events", "links", "api-keys"),
            *("exports", "exports/signing-keys", "exports/downloads", "integrations/stripe/endpoints"),
        )
    }
    for path, parameters in found.items():
        assert "limit" in parameters, path
        short = path.removeprefix(PREFIX)
        whole = ids(client.data("GET", short))
        assert len(whole) >= ITEMS, path
        turned: list[Any] = []
        name = "next_after_seq" if "after_seq" in parameters else "next_cursor"
        asked: dict[str, Any] = {"limit": 2}
        while asked.keys() - {"limit"} or not turned:
            page = client.data("GET", short, params=asked)
            assert len(page["items"]) <= 2, path
            turned += ids(page)
            asked = {"limit": 2} | ({} if page[name] is None else {name.removeprefix("next_"): page[name]})
        # Workers may add to a list meanwhile.
        assert [each for each in turned if each in whole] == whole, path
        assert len(set(turned)) == len(turned), path


@pytest.mark.parametrize("limit", ["0", "-1", "501", "x", "9" * 30])
def test_a_limit_that_cannot_be_is_refused_everywhere(client: Client, document: Any, limit: str) -> None:
    for path in lists(document):
        answer = client.http.get(path.removeprefix(PREFIX), params={"limit": limit})
        assert (answer.status_code, list(answer.json()["error"]["details"])) == (422, ["limit"]), path


def test_a_cursor_is_of_one_list_and_new_items_do_not_move_its_pages(client: Client, document: Any) -> None:
    whole = ids(client.data("GET", "/api-keys"))
    first = client.data("GET", "/api-keys", params={"limit": 1})
    client.data("POST", "/api-keys", json={})
    assert ids(client.data("GET", "/api-keys", params={"cursor": first["next_cursor"]})) == whole[1:]
    for path, parameters in lists(document).items():
        if "cursor" in parameters and not path.endswith("/api-keys"):
            answer = client.http.get(path.removeprefix(PREFIX), params={"cursor": first["next_cursor"]})
            assert (answer.status_code, list(answer.json()["error"]["details"])) == (422, ["cursor"]), path


def test_a_page_of_large_entries_ends_at_a_budget_of_bytes(shared_server: ServerProcess, spare_keys: list[str]) -> None:
    client = Client(shared_server, spare_keys.pop())
    made = [client.decide(number, inputs={"text": "x" * 240_000})["hash"] for number in range(7)]
    for path, name in (("/decisions", "next_cursor"), ("/ledger/entries", "next_after_seq")):
        found: list[Any] = []
        asked: dict[str, Any] = {"limit": 500}
        pages = 0
        while True:
            answer = client.http.get(path, params=asked)
            assert len(answer.content) < 1_300_000, path
            page = answer.json()["data"]
            found += [each["hash"] for each in page["items"]]
            pages += 1
            if page[name] is None:
                break
            asked = {"limit": 500, name.removeprefix("next_"): page[name]}
        assert sorted(each for each in found if each in made) == sorted(made), path
        assert len(found) == len(set(found)), path
        assert pages > 1, path
