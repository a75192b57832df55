"""What the door accepts, every reader reads: the interface, the stream, bundles, spreadsheets, sums, suggestions."""

from __future__ import annotations

import csv
import io
import json
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess
from tests.effort import rounds
from tests.exports.evidence import bundle_of, check, exported, lines, members, openssl_says
from tests.ws_stream.streams import stream

from .client import Client, decision
from .odd_json import document

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DOCUMENTS = rounds(250, long=1000)
EVENTS = rounds(25, long=60)
BATCH = 50
SEED = 20261130
WAIT_S = 60.0


def odd_decision(number: int, chance: random.Random) -> dict[str, Any]:
    changes: dict[str, Any] = {"inputs": document(chance), "outputs": document(chance)}
    if chance.random() < 0.5:
        changes["metadata"] = document(chance)
    if chance.random() < 0.3:
        changes["alternatives"] = [document(chance, 1) for _ in range(2)]
    return decision(number, **changes)


def same(one: object, other: object) -> bool:
    """Equal as JSON, integers with every digit. A float may come back as the integer of its shortest digits (JCS)."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, float) and isinstance(one, int) and not isinstance(one, bool):
        return float(one) == other
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def posted(client: Client, path: str, content: object) -> Any:
    answer = client.http.post(path, content=json.dumps(content), headers={"content-type": "application/json"})
    assert answer.status_code == 201, answer.text
    return json.loads(answer.text)["data"]


def pages(client: Client, path: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = client.data("GET", path, params={"limit": 200, **query, **({"cursor": cursor} if cursor else {})})
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def suggested(client: Client, event_id: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        links = pages(client, "/links", financial_event_id=event_id)
        if links:
            return links
        time.sleep(0.1)
    raise AssertionError("nothing was suggested for the last event")


async def test_odd_documents_go_through_every_reader(
    shared_server: ServerProcess, fresh_client: Client, tmp_path: Path
) -> None:
    chance, client, server = random.Random(SEED), fresh_client, shared_server
    sent = [odd_decision(number, chance) for number in range(DOCUMENTS)]
    receipts: list[dict[str, Any]] = []
    for start in range(0, DOCUMENTS, BATCH):
        receipts += posted(client, "/decisions/batch", {"decisions": sent[start : start + BATCH]})["receipts"]
    events = [
        posted(
            client,
            "/financial-events",
            {
                "source": "manual",
                "event_type": "payment",
                "amount": "12.34",
                "currency": "USD",
                "metadata": {**document(chance), "decision_id": chance.choice(receipts)["decision_id"]},
            },
        )
        for _ in range(EVENTS)
    ]

    # The interface: lists, one by one, raw, verified.
    listed = {item["id"]: item for item in pages(client, "/decisions")}
    for content, receipt in zip(sent, receipts, strict=True):
        shown = listed[receipt["decision_id"]]
        for name in ("inputs", "outputs", "metadata", "alternatives"):
            assert same(shown[name], content.get(name)), (SEED, receipt["seq"], name)
    for receipt in receipts[::40]:
        assert client.data("GET", f"/decisions/{receipt['decision_id']}") == listed[receipt["decision_id"]]
    found = {item["id"]: item for item in pages(client, "/financial-events")}
    assert all(same(found[event["id"]]["metadata"], event["metadata"]) for event in events)
    raw = client.entries()
    assert client.verify()["is_valid"]

    # The stream, from the first entry.
    async with stream(server, client.http.headers["X-Precipiq-Key"], after_seq=0) as opened:
        frames = [frame for frame in await opened.until(raw[-1]["statement"]["seq"]) if frame.get("seq")]
    by_seq = {frame["seq"]: frame for frame in frames}
    for receipt in receipts:
        assert same(by_seq[receipt["seq"]]["data"], listed[receipt["decision_id"]]), (SEED, receipt["seq"])

    # The bundle, its verifier, its lists and spreadsheets.
    bundle = bundle_of(client, exported(client))
    assert openssl_says(bundle, tmp_path) == "Verified OK"
    code, text = check(bundle, tmp_path)
    assert code == 0, text
    done = server.run("bundle", "verify", str(tmp_path / "bundle.zip"), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = members(bundle)
    in_bundle = {item["id"]: item for item in lines(files["decisions.jsonl"])}
    assert all(same(in_bundle[entry_id], item) for entry_id, item in listed.items())
    csv.field_size_limit(1 << 24)
    rows = list(csv.reader(io.StringIO(files["decisions.csv"].decode("utf-8-sig"), newline="")))
    assert len(rows) == DOCUMENTS + 1

    # Sums and suggestions: the last event's come after those of all others.
    assert suggested(client, events[-1]["id"])
    assert client.data("GET", "/analytics/ai-pnl")
    assert client.data("GET", "/analytics/liability")
    counts = [line for line in httpx2.get(f"{server.url}/metrics").text.splitlines() if "set_aside_total{" in line]
    assert len(counts) == 3
    assert all(line.endswith(" 0.0") for line in counts), counts
