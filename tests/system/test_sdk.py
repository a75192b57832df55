"""The public SDK, unchanged, against the real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from precipiq_testkit.server import ServerProcess, running_server

from .client import Client
from .sdk_environment import sdk_python

DECISIONS = Path(__file__).parents[1] / "data" / "real-decisions.jsonl"
DRIVER = Path(__file__).with_name("sdk_driver.py")

Sdk = Callable[..., Any]


@pytest.fixture(scope="session")
def interpreter() -> Path:
    return sdk_python()


@pytest.fixture
def sdk(interpreter: Path, tmp_path: Path) -> Sdk:
    (tmp_path / "decisions.jsonl").write_text(DECISIONS.read_text())

    def run(scenario: str, url: str, key: str) -> Any:
        command = [interpreter, DRIVER, scenario, url, key, tmp_path]
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def address_and_key(client: Client) -> tuple[str, str]:
    return str(client.http.base_url).partition("/api/")[0], client.http.headers["X-Precipiq-Key"]


def sent() -> list[dict[str, Any]]:
    return [json.loads(line) for line in DECISIONS.read_text().splitlines()]


def get(client: Client, path: str, **query: str) -> Any:
    return client.data("GET", path, params=query)


def stored(client: Client) -> list[dict[str, Any]]:
    """All decisions, oldest first."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(client, "/decisions", limit="100", **cursor)
        found += page["items"]
        if page["next_cursor"] is None:
            return found[::-1]
        cursor = {"cursor": page["next_cursor"]}


def assert_same(record: dict[str, Any], decision: dict[str, Any]) -> None:
    for name, value in decision.items():
        assert record[name] == value, name
    assert record["external_id"] is None


def test_single_decisions_come_back_with_every_value_unchanged(fresh_client: Client, sdk: Sdk) -> None:
    receipts = sdk("single", *address_and_key(fresh_client))

    for receipt, decision in zip(receipts, sent(), strict=True):
        record = get(fresh_client, f"/decisions/{receipt['decision_id']}")
        assert_same(record, decision)
        assert (record["hash"], record["timestamp"], record["seq"]) == (
            receipt["hash"],
            receipt["timestamp"],
            receipt["seq"],
        )
    assert any(value > 2**53 for value in _integers(sent())), "the data must hold 64-bit integers"
    assert get(fresh_client, "/decisions/chain/verify")["is_valid"]


def test_batches_keep_their_order(fresh_client: Client, sdk: Sdk) -> None:
    sdk("batched", *address_and_key(fresh_client))

    for record, decision in zip(stored(fresh_client), sent(), strict=True):
        assert_same(record, decision)
    assert get(fresh_client, "/decisions/chain/verify")["is_valid"]


def test_the_asynchronous_client_writes_the_same(fresh_client: Client, sdk: Sdk) -> None:
    receipts = sdk("asynchronous", *address_and_key(fresh_client))

    records = stored(fresh_client)
    for record, decision in zip(records, sent(), strict=True):
        assert_same(record, decision)
    assert [record["id"] for record in records[:5]] == [receipt["decision_id"] for receipt in receipts]


def test_tracked_functions_are_recorded_with_their_arguments(fresh_client: Client, sdk: Sdk) -> None:
    sdk("tracked", *address_and_key(fresh_client))

    first, second = stored(fresh_client)
    assert (first["agent_id"], first["action_type"], first["metadata"]) == ("tracker", "sync", {"version": "2.1"})
    assert "Zoë 🚀" in json.dumps(first["inputs"], ensure_ascii=False)
    assert 1234567890123456789 in list(_integers(second["inputs"]))
    assert get(fresh_client, "/decisions/chain/verify")["is_valid"]


def test_a_wrong_key_is_refused_at_once_and_not_shown(shared_server: ServerProcess, sdk: Sdk) -> None:
    wrong = shared_server.key[:-1] + ("0" if shared_server.key[-1] != "0" else "1")

    outcome = sdk("refused", shared_server.url, wrong)

    assert outcome["error"] in ("PrecipiqAPIError", "PrecipiqAuthError")
    assert "401" in outcome["text"]
    requests = [line for line in shared_server.log_lines() if line.get("status") == 401]
    assert len(requests) == 1, "the SDK does not retry a 401"


def test_an_unreachable_server_leaves_the_decision_in_the_spool(sdk: Sdk) -> None:
    outcome = sdk("spooled", "http://127.0.0.1:9", "pq_test_x")

    assert outcome["result"] is None
    assert sent()[0]["agent_id"] in outcome["spool"]


def test_a_burst_over_the_limit_is_retried_until_all_is_stored(tmp_path: Path, sdk: Sdk) -> None:
    overrides = {"PRECIPIQ__PLUGINS__AUTH_KEYS__WRITES_PER_SECOND_MAX": "2"}
    with running_server(tmp_path / "limited", overrides=overrides) as server:
        seqs = sdk("burst", server.url, server.key)

        assert seqs == sorted(set(seqs))
        assert len(seqs) == 6
        assert any(line.get("status") == 429 for line in server.log_lines())


def _integers(value: Any) -> Any:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _integers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _integers(inner)


def test_outcomes_are_linked_and_added_up(fresh_client: Client, sdk: Sdk, tmp_path: Path) -> None:
    """Every method of the client works: sync and async."""
    events = []
    for event_type, amount in (("payment", "120.50"), ("refund", "-20.25")):
        event = {"source": "internal", "event_type": event_type, "amount": amount, "currency": "USD"}
        events.append(fresh_client.data("POST", "/financial-events", json=event)["id"])
    (tmp_path / "events.json").write_text(json.dumps(events))

    done = sdk("outcomes", *address_and_key(fresh_client))

    linked = done["linked"]
    assert (linked["attribution_method"], linked["link_type"], linked["status"]) == ("manual", "revenue", "active")
    assert (linked["financial_event_id"], linked["notes"]) == (events[0], "by hand")
    assert done["again"] == linked
    assert done["cost"]["amount"] == "-20.25"
    for figures in (done["pnl"], done["of_agent"]):
        assert figures["currency"] == "USD"
        assert figures["total_revenue_attributed"] == "120.50"
        assert figures["total_cost_attributed"] == "-20.25"
        assert figures["net_ai_impact"] == "100.25"
        assert (figures["decision_count"], figures["link_count"]) == (1, 2)
        assert figures["top_agents"] == [
            {"agent_id": sent()[0]["agent_id"], "net_impact": "100.25", "decision_count": 1}
        ]
    assert (done["before"]["net_ai_impact"], done["before"]["link_count"]) == ("0.00", 0)
    assert "link_conflict" in done["refused"]
